"""What every optimizer here is: a torch optimizer that owns the residual it minimizes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from precondlab.differentiation.graph import Graph
from precondlab.errors import Breakdown
from precondlab.map import Map
from precondlab.operators import Jacobian
from precondlab.training.optimizers.agreement import Agreement, agreement

__all__ = ["Evaluation", "Minimizer", "Step", "pieces", "require_rate"]

_POINTS = 8192  # of all blocks together, differentiated at once


@dataclass(frozen=True)
class Step:
    """What one step did.

    Attributes
    ----------
    loss
        ``½‖r‖²`` before it.
    length
        Norm of the change of the parameters.
    limit
        What kept the step from being longer; the optimizer says which words it uses.
    """

    loss: float
    length: float
    limit: str

    @property
    def accepted(self) -> bool:
        """Whether the parameters moved."""
        return self.length > 0


@dataclass(frozen=True)
class Evaluation:
    """The loss ``½‖r‖²`` at a flat point ``[n]``, its gradient ``Jᵀr`` ``[n]``, and the map r."""

    residual: Map
    point: Tensor
    loss: float
    gradient: Tensor

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are numbers."""
        return self.loss < float("inf") and bool(self.gradient.isfinite().all())


class Minimizer(torch.optim.Optimizer, ABC):
    """Minimize ``½‖r(θ)‖²`` of a map that the optimizer owns; a subclass writes :meth:`_step`.

    What a subclass has to keep between steps is in ``self.solver``, a dict of numbers and tensors that are
    replaced, never changed in place. It is saved under the key ``"solver"``, not under a parameter, so that
    loading does not cast it. Everything else must follow from it, the parameters and the map. Options are in the
    parameter group, and so are saved and loaded with the state, as in torch.

    Parameters
    ----------
    residual
        The map r; its parameters are updated in place.
    defaults
        Of the parameter group: the options, ``lr`` among them, which schedulers change.
    solver
        Initial solver state.

    Raises
    ------
    TypeError
        Unless the residual is a :class:`~precondlab.map.Map`.
    """

    def __init__(self, residual: Map, defaults: dict[str, Any], **solver: Any) -> None:
        name = type(self).__name__
        _require_map(residual, name)
        self._residual = residual
        self._agreement: Agreement | None = None
        self._last: Evaluation | None = None
        self._linear: Jacobian | None = None
        self.diagnostics: Any = None
        super().__init__(list(residual.params.values()), defaults)
        shapes = {name: list(shape) for name, shape in residual.domain.shapes.items()}
        self.solver = {"optimizer": name, "shapes": shapes, "dtype": str(residual.domain.dtype), **solver}

    @abstractmethod
    def _step(self) -> float:
        """Take one step, set ``diagnostics``, and return the loss before it."""

    @torch.no_grad()
    def step(self, closure: Callable[[], object] | None = None) -> Tensor:  # type: ignore[override]
        """Take one step and return the loss ``½‖r‖²`` before it.

        A closure is called first, once, and its gradients are left as they are. If it returns a number, that should be
        a fixed multiple of ``½‖r‖²``: see :func:`~precondlab.training.optimizers.agreement.agreement`.
        """
        if closure is not None:
            self._agreement = agreement(closure, self, self._agreement)
        return torch.tensor(self._step(), dtype=self._residual.domain.dtype, device=self._residual.domain.device)

    # What a subclass needs ------------------------------------------------------------------

    @property
    def residual(self) -> Map:
        """The map r that is minimized; it can be replaced between steps, e.g. by one on fresh points."""
        return self._residual

    @residual.setter
    def residual(self, residual: Map) -> None:
        _require_map(residual, type(self).__name__)
        before = self._residual.params
        if residual.params.keys() != before.keys() or any(residual.params[k] is not before[k] for k in before):
            raise ValueError(
                f"{type(self).__name__}: the new residual should have the parameters of the old one, {list(before)}, "
                f"got {list(residual.params)}; build it from the same model"
            )
        self._residual = residual

    @property
    def solver(self) -> dict[str, Any]:
        """What is kept between steps."""
        return self.state["solver"]  # type: ignore[index]

    @solver.setter
    def solver(self, solver: dict[str, Any]) -> None:
        self.state["solver"] = solver  # type: ignore[index]

    def point(self) -> Tensor:
        """Return a copy of the parameters as one vector ``[n]``."""
        params = self._residual.params
        return self._residual.domain.ravel({name: value.detach() for name, value in params.items()})

    def move(self, point: Tensor) -> None:
        """Set the parameters."""
        for name, value in self._residual.domain.unravel(point).items():
            self._residual.params[name].copy_(value)

    def evaluate(self, point: Tensor) -> Evaluation:
        """Return loss and gradient at a point; the last evaluation is kept.

        Cost: one evaluation of r and one backward pass, some thousand points at a time.
        """
        residual, last = self._residual, self._last
        if last is not None and last.residual is residual and torch.equal(last.point, point):
            return last
        loss, gradient, scale = 0.0, residual.domain.zeros(), residual.scale()
        for rows, points in pieces(residual):
            graph = Graph(residual.raw(points), residual.domain.unravel(point), residual.domain)
            r = graph.value * scale[rows]
            loss += 0.5 * (r @ r).item()
            gradient = gradient + graph.vjp((scale[rows] * r)[:, None])[:, 0]
        self._last = Evaluation(residual, point, loss, gradient)
        return self._last

    def here(self) -> Evaluation:
        """Return loss and gradient at the parameters.

        Raises
        ------
        Breakdown
            If they are not finite.
        """
        found = self.evaluate(self.point())
        if not found.finite:
            self._last = None
            raise Breakdown(
                f"{type(self).__name__}: the loss is {found.loss} or its gradient is not finite; lower lr, check the "
                "residual and its points, or start elsewhere"
            )
        return found

    def jacobian(self, point: Tensor) -> Jacobian:
        """Return J at a point; how to differentiate is found out and checked once for every map."""
        if self._linear is None or self._linear.map is not self._residual:
            self._linear = Jacobian(self._residual, at=point)
        else:
            self._linear = self._linear.moved(point)
        return self._linear

    # The torch.optim protocol ---------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse: the parameters are those of the residual."""
        if self.param_groups:
            raise ValueError(
                f"{type(self).__name__}: the parameters are those of the residual, {list(self._residual.params)}, and "
                "no others; build a new Map that has the others too, and an optimizer for it"
            )
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return what it takes to continue bit for bit, with the parameters and the map."""
        state = super().state_dict()
        state["state"] = {**state["state"], "solver": dict(self.solver)}
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state, options included; refuses that of another optimizer or of other parameters."""
        saved = self._refuse_foreign(state_dict)
        super().load_state_dict(dict(state_dict))
        self.solver = _moved(saved, self._residual.domain.device)
        self._forget()

    def _refuse_foreign(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Return the solver state in a state dict, or raise if it belongs to something else."""
        own = self.solver
        if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= state_dict.keys():
            got = list(state_dict) if isinstance(state_dict, Mapping) else type(state_dict).__name__
            raise ValueError(
                f"{own['optimizer']}: expected what state_dict() returned, with 'state' and 'param_groups', got {got}"
            )
        saved = state_dict["state"].get("solver", {})
        kinds = {"optimizer": "another optimizer", "base": "another base optimizer"}
        kinds |= {"shapes": "other parameters", "dtype": "another dtype"}
        for key, what in kinds.items():
            there, here = saved.get(key), own.get(key)
            if there != here:
                raise ValueError(f"{own['optimizer']}: the state belongs to {what}: {there} where this one has {here}")
        return saved

    def _forget(self) -> None:
        """Drop what follows from the state, the parameters and the map."""
        self._last = self._linear = self._agreement = self.diagnostics = None

    def __getstate__(self) -> dict[str, Any]:
        kept = {**self.__dict__, **super().__getstate__(), "_last": None, "_linear": None, "_agreement": None}
        kept.pop("step", None)  # a scheduler's wrapper, bound to this optimizer and not to its copy
        return kept


def require_rate(caller: str, lr: float) -> None:
    """Raise unless a learning rate is a positive number."""
    if not 0 < lr < float("inf"):
        raise ValueError(f"{caller}: lr should be positive, got {lr}")


def _require_map(residual: object, name: str) -> None:
    if not isinstance(residual, Map):
        raise TypeError(
            f"{name}: expected a pl.Map, got {type(residual).__name__}; "
            "make one by pl.Map(residual, params) or pl.Map.of_module(model, closure)"
        )


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):
        return [_moved(entry, device) for entry in value]
    if isinstance(value, dict):
        return {key: _moved(entry, device) for key, entry in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


def pieces(residual: Map) -> Iterator[tuple[slice, dict[str, slice] | None]]:
    """Yield rows of the residual and the points they belong to, whole if that is affordable."""
    if residual.points is None or sum(map(len, residual.points.values())) <= _POINTS:
        yield slice(0, residual.codomain.size), None
        return
    for name, x in residual.points.items():
        width, first = residual.rows_per_point(name), residual.codomain.slices[name].start
        for start in range(0, len(x), _POINTS):
            stop = min(start + _POINTS, len(x))
            yield slice(first + start * width, first + stop * width), {name: slice(start, stop)}
