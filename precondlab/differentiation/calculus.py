"""Partial derivatives of a field at points, by repeated reverse differentiation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import vjp

from precondlab.differentiation.context import call
from precondlab.symbol import MultiIndex, Symbol

__all__ = ["ClosedForm", "KnownField", "Pointwise", "apply", "at", "partials"]

Field = Callable[[Tensor], Tensor]
Known = dict[MultiIndex, Tensor]
Plan = Sequence[Sequence[MultiIndex]]


class KnownField:
    """A field that knows its own derivatives; :func:`partials` and :func:`apply` ask it."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return u ``[N, 1]`` at points."""
        raise NotImplementedError(f"{type(self).__name__} does not define its values")

    def partials(self, x: Tensor, orders: Iterable[MultiIndex]) -> Known:
        """Return ``∂^α u`` ``[N]`` for several α."""
        return {alpha: self.apply(Symbol.derivative(*alpha), x) for alpha in orders}

    def apply(self, symbol: Symbol, x: Tensor) -> Tensor:
        """Return D u ``[N]``."""
        raise NotImplementedError(f"{type(self).__name__} does not define its derivatives")


class ClosedForm(KnownField):
    """The field x ↦ u(x; θ) of a model that knows its derivatives: ``model(x, D)`` is D u."""

    def __init__(self, model: nn.Module, params: Mapping[str, Tensor]) -> None:
        self.model, self.params = model, dict(params)

    def __call__(self, x: Tensor) -> Tensor:
        return call(self.model, self.params, (x,))

    def apply(self, symbol: Symbol, x: Tensor) -> Tensor:
        return call(self.model, self.params, (x, symbol)).squeeze(-1)


def at(model: nn.Module, params: Mapping[str, Tensor]) -> Field:
    """Return the field x ↦ u(x; θ), with its closed-form derivatives if the model has them."""
    if getattr(model, "differentiates", False):
        return ClosedForm(model, params)
    return lambda x: call(model, params, (x,))


class Pointwise:
    """Residual rows that are functions of x and of derivatives of one model at x.

    Given to :class:`~precondlab.Map` as the function of a block. Saying so, instead of writing any
    function of (params, x), lets feed-forward networks be differentiated in closed form.

    Parameters
    ----------
    model
        Maps ``[N, d]`` to ``[N, 1]``.
    rows
        ``rows(x, u) -> [N] or [N, c]``, where u is the field: ``u(x)``, ``partials(u, x, orders)`` and
        ``apply(symbol, u, x)`` are its values and derivatives. ``rows(x, u, known)`` if something is known.
    known
        Numbers ``[N, …]`` that belong to the points, such as right-hand sides, which then are not computed again.

    >>> model = nn.Linear(1, 1)
    >>> rows = Pointwise(model, lambda x, u: apply(Symbol.derivative(1), u, x))
    >>> rows({"weight": torch.tensor([[3.0]]), "bias": torch.tensor([0.0])}, torch.ones(2, 1))
    tensor([3., 3.])
    """

    def __init__(self, model: nn.Module, rows: Callable[..., Tensor], known: Tensor | None = None) -> None:
        self.model, self.rows, self.known = model, rows, known
        self._state: dict[str, Tensor] = {}

    def __call__(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return self.of(at(self.model, self.complete(params)), x)

    def complete(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return some parameters with what is fixed of the model besides."""
        return {**self._state, **params}

    def fixed(self, given: Iterable[str]) -> Pointwise:
        """Return the same with copies of the buffers, the numbers known, and all parameters but the given ones."""
        given = set(given)
        names: dict[Tensor, list[str]] = {}
        for name, value in (
            *self.model.named_parameters(remove_duplicate=False),
            *self.model.named_buffers(remove_duplicate=False),
        ):
            names.setdefault(value, []).append(name)
        fixed = Pointwise(self.model, self.rows, None if self.known is None else self.known.detach().clone())
        fixed._state = {tied[0]: value.detach().clone() for value, tied in names.items() if not given & set(tied)}
        return fixed

    @property
    def held(self) -> list[Tensor]:
        """The tensors that it keeps besides the model."""
        return [*self._state.values(), *(() if self.known is None else (self.known,))]

    def of(self, u: Field, x: Tensor) -> Tensor:
        """Return the rows of a field at all points."""
        return self.rows(x, u) if self.known is None else self.rows(x, u, self.known)

    def on(self, part: slice) -> Pointwise:
        """Return the same for some of the points."""
        if self.known is None:
            return self
        some = Pointwise(self.model, self.rows, self.known[part])
        some._state = self._state
        return some


def partials(u: Field, x: Tensor, orders: Iterable[MultiIndex]) -> Known:
    """Return the partial derivatives ``∂^α u`` ``[N]`` at points, for several multi-indices α.

    A pass of order m gives ``∂_j ∂^α u`` for all axes j from one ``∂^α u`` of order m − 1; lower
    derivatives are shared and each pass is made once. The result can itself be differentiated, in the
    parameters of u or in x, forwards, backwards and under ``vmap``.

    Parameters
    ----------
    u
        Maps points ``[N, d]`` to ``[N, 1]``, each row on its own.
    x
        Points ``[N, d]``.
    orders
        Multi-indices α: one order of differentiation ≥ 0 per axis; ``(0, …, 0)`` is u itself.

    Raises
    ------
    ValueError
        For multi-indices or values of the wrong length.

    Cost: a derivative of order m is m nested reverse passes: each at most a few times its predecessor.

    >>> x = torch.tensor([[2.0, 3.0]])
    >>> partials(lambda x: x[:, :1] ** 3 * x[:, 1:], x, [(2, 0), (1, 1)])
    {(2, 0): tensor([36.]), (1, 1): tensor([12.])}
    """
    orders = [tuple(alpha) for alpha in orders]
    if x.dim() != 2:
        raise ValueError(f"partials: expected points of shape [N, d], got {tuple(x.shape)}")
    dim = x.shape[1]
    wrong = [alpha for alpha in orders if len(alpha) != dim or min(alpha, default=0) < 0]
    if wrong:
        raise ValueError(f"partials: points have {dim} coordinates, so a multi-index has {dim} orders ≥ 0; got {wrong}")
    if not orders:
        return {}
    if isinstance(u, KnownField):
        return u.partials(x, orders)
    values, columns, known = _derivatives(u, _plan(orders, dim))(x)
    known = {**known, **_named(values, columns)}
    return {alpha: known[alpha] for alpha in orders}


def apply(symbol: Symbol, u: Field, x: Tensor) -> Tensor:
    """Return ``(D u)(x) = Σ_α c_α ∂^α u(x)`` ``[N]`` at points ``[N, d]``.

    A :class:`ClosedForm` field is differentiated by its model.

    Cost: else as :func:`partials` for the multi-indices of D.

    >>> apply(Symbol.laplacian(2), lambda x: (x**2).sum(1, keepdim=True), torch.ones(3, 2))
    tensor([4., 4., 4.])
    """
    if isinstance(u, KnownField):
        return u.apply(symbol, x)
    derivatives = partials(u, x, symbol.coefficients)
    total = torch.zeros_like(x[:, 0])
    for alpha, coefficient in symbol.coefficients.items():
        total = total + coefficient * derivatives[alpha]
    return total


def _plan(orders: Sequence[MultiIndex], dim: int) -> Plan:
    """Return, order by order from 0, the multi-indices to differentiate once more.

    Each pass gives all first derivatives of a multi-index, so from the highest order down the fewest
    parents are taken that have all wanted derivatives among their children.
    """
    highest = max(map(sum, orders))
    plan: list[list[MultiIndex]] = []
    wanted = {alpha for alpha in orders if sum(alpha) == highest}
    for order in range(highest - 1, -1, -1):
        parents: list[MultiIndex] = []
        children = {parent: {_raised(parent, j) for j in range(dim)} & wanted for parent in _lowered(wanted)}
        requested = {alpha for alpha in orders if sum(alpha) == order}
        while wanted:
            best = max(sorted(children), key=lambda p: (len(children[p] & wanted), p in requested))
            parents.append(best)
            wanted = wanted - children[best]
        plan.insert(0, parents)
        wanted = requested | set(parents)
    return plan


def _derivatives(u: Field, plan: Plan) -> Callable[[Tensor], tuple[Tensor, list[MultiIndex], Known]]:
    """Return x ↦ all derivatives of the highest order ``[N, c]``, their multi-indices, and the lower ones."""
    if not plan:

        def value(x: Tensor) -> tuple[Tensor, list[MultiIndex], Known]:
            y = u(x)
            if y.shape != (len(x), 1):
                raise ValueError(
                    f"partials: u should map points {tuple(x.shape)} to values ({len(x)}, 1), got {tuple(y.shape)}"
                )
            return y, [(0,) * x.shape[1]], {}

        return value
    lower = _derivatives(u, plan[:-1])

    def derivative(x: Tensor) -> tuple[Tensor, list[MultiIndex], Known]:
        columns: list[MultiIndex] = []

        def differentiable(x: Tensor) -> tuple[Tensor, Known]:
            values, names, known = lower(x)
            columns.extend(names)
            return values, known

        values, pull, known = vjp(differentiable, x, has_aux=True)  # pyright: ignore[reportAssignmentType]
        gradients, names = [], []
        for parent in plan[-1]:
            unit = torch.zeros_like(values)
            unit[:, columns.index(parent)] = 1
            gradients.append(pull(unit)[0])
            names += [_raised(parent, axis) for axis in range(x.shape[1])]
        return torch.cat(gradients, dim=1), names, {**known, **_named(values, columns)}

    return derivative


def _named(values: Tensor, columns: Sequence[MultiIndex]) -> Known:
    return dict(zip(columns, values.unbind(1), strict=True))


def _raised(alpha: MultiIndex, axis: int) -> MultiIndex:
    return (*alpha[:axis], alpha[axis] + 1, *alpha[axis + 1 :])


def _lowered(alphas: Iterable[MultiIndex]) -> set[MultiIndex]:
    return {
        (*alpha[:axis], alpha[axis] - 1, *alpha[axis + 1 :])
        for alpha in alphas
        for axis in range(len(alpha))
        if alpha[axis]
    }
