"""Any torch optimizer, fed with a preconditioned gradient."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from precondlab.errors import NotPositive
from precondlab.krylov.checks import require_integer
from precondlab.map import Map
from precondlab.operator import Operator, as_operator
from precondlab.operators import Gram, Jacobian
from precondlab.preconditioners.state import Stateful
from precondlab.training.optimizers.minimizer import Evaluation, Minimizer, Step

__all__ = ["Preconditioned", "PreconditionedStep"]

_PROBES = 4  # random directions in which the drift is measured


@dataclass(frozen=True)
class PreconditionedStep(Step):
    """What one step of :class:`Preconditioned` did.

    Attributes
    ----------
    decrement
        ``∇LᵀM∇L``; for ``M = A⁻¹`` twice the reduction of the loss that Gauss–Newton predicts.
    age
        Steps since M was made; 0 if it was made in this one.
    drift
        As measured before the step, None if it was not.
    limit
        ``"rate"``: the base optimizer and its schedule alone decide.
    """

    decrement: float
    age: int
    drift: float | None


class Preconditioned(Minimizer):
    """Minimize ``½‖r(θ)‖²`` by any torch optimizer that is given ``M∇L`` for the gradient, ``M ≈ A⁻¹``, ``A = JᵀJ``.

    With SGD of rate η this is ``θ ← θ − ηM∇L``, gradient descent in the coordinates ``θ = Pθ̂`` for ``M = PPᵀ``;
    momentum and Adam average preconditioned gradients. M is made by ``make(A)``, and made again when it is stale: after
    ``every`` steps, or when the drift ``‖M(A − A_M)‖/‖MA_M‖`` since it was made, estimated on 4 random directions,
    exceeds ``drift``.

    Parameters
    ----------
    residual
        The map r; its parameters are updated in place. It can be replaced between steps.
    base
        The optimizer, over the parameters of r. Its param_groups are those of this one, so schedulers work on either.
    make
        A ↦ a positive operator M, the same for the same A, e.g. ``partial(nystrom, rank=50, damping=1e-6)``.
    every
        Steps after which M is made again; None for never.
    drift
        Drift above which M is made again; None not to measure it.

    Attributes
    ----------
    diagnostics : PreconditionedStep or None
        What the last step did.

    Raises
    ------
    TypeError, ValueError
        Unless the base is a torch optimizer over the parameters of r that needs no closure, and M is of their size.
    NotPositive
        If ``∇LᵀM∇L ≤ 0``.
    Breakdown
        If loss or gradient is not finite. In each case the parameters are left as they were.

    Cost per step: one evaluation of r, one backward pass, one product with M; with ``drift`` 4 products with A.
    ``every`` and ``drift`` are loaded with the state, as the options of the base are, and so are the numbers of M if it
    is :class:`~precondlab.preconditioners.state.Stateful`, as all preconditioners of this library are; they replace
    those of ``make(A)`` at the point where M was made. If they do not fit, because ``make`` is another or finds another
    rank on a replaced residual, M is made again in the next step, with a warning. Any other M is remade at that point,
    and differs after loading if the residual was replaced since.

    >>> a = torch.tensor([4.0, 4.0], requires_grad=True)
    >>> r = Map(lambda p: p["a"] * torch.tensor([1.0, 10.0]), {"a": a})
    >>> from precondlab.preconditioners import jacobi
    >>> optimizer = Preconditioned(r, torch.optim.SGD([a], lr=1.0), make=jacobi)
    >>> optimizer.step(), a.tolist()
    (tensor(808.), [0.0, 0.0])
    """

    def __init__(
        self,
        residual: Map,
        base: torch.optim.Optimizer,
        *,
        make: Callable[[Operator], Any],
        every: int | None = 20,
        drift: float | None = None,
    ) -> None:
        if not isinstance(base, torch.optim.Optimizer):
            raise TypeError(
                f"Preconditioned: expected a torch optimizer, got {type(base).__name__}; "
                "e.g. torch.optim.Adam(model.parameters(), lr=1e-3)"
            )
        if isinstance(base, torch.optim.LBFGS | Minimizer):
            raise ValueError(f"Preconditioned: {type(base).__name__} takes no gradient from outside; use it on its own")
        if every is not None:
            require_integer("Preconditioned", "every", every)
        if drift is not None and not drift > 0:
            raise ValueError(f"Preconditioned: expected drift > 0, or None, got {drift}")
        super().__init__(
            residual,
            {},
            **{"base": type(base).__name__, "every": every, "drift": drift},
            **{"point": None, "age": 0, "M": None, "reference": None},
        )
        owned = {id(p) for group in base.param_groups for p in group["params"]}
        if owned != {id(p) for p in residual.params.values()}:
            raise ValueError(
                f"Preconditioned: {type(base).__name__} should have the parameters of the residual, "
                f"{list(residual.params)}, and no others; build both from the same model"
            )
        self.base, self.make = base, make
        self.param_groups, self.defaults = base.param_groups, base.defaults
        self._made: Operator | None = None

    def _step(self) -> float:
        here = self.here()
        M, drift = self._preconditioner(here)
        direction = M.forward(here.gradient[:, None])[:, 0]
        decrement = (here.gradient @ direction).item()
        if not decrement > 0 and here.gradient.any():
            raise NotPositive(f"Preconditioned: ∇LᵀM∇L = {decrement:.3g} for M = {M!r}; M should be positive")
        params, before = self._residual.params, {}
        for name, block in self._residual.domain.unravel(direction).items():
            before[name], params[name].grad = params[name].grad, block
        try:
            self.base.step()
        finally:
            for name, gradient in before.items():
                params[name].grad = gradient
        moved = (self.point() - here.point).norm().item()
        self.diagnostics = PreconditionedStep(here.loss, moved, "rate", decrement, self.solver["age"], drift)
        self.solver["age"] += 1
        return here.loss

    def _preconditioner(self, here: Evaluation) -> tuple[Operator, float | None]:
        """Return M, made again if it is stale, and the drift if it was measured."""
        solver, drift = self.solver, None
        if self._made is None and solver["point"] is not None:
            self._made = self._remade()
        stale = self._made is None or (solver["every"] is not None and solver["age"] >= solver["every"])
        if self._made is not None and not stale and solver["drift"] is not None:
            now, before = self._on_probes(self._made, self.jacobian(here.point)), solver["reference"]
            drift = ((now - before).norm() / before.norm()).item()
            stale = not drift <= solver["drift"]
        if stale or self._made is None:
            J = self.jacobian(here.point)
            self._made = M = self._make(J)
            reference = None if solver["drift"] is None else self._on_probes(M, J)
            solver.update(point=here.point, age=0, M=_numbers(M), reference=reference)
        return self._made, drift

    def _make(self, J: Jacobian) -> Operator:
        M = as_operator(self.make(Gram(J)))
        if M.shape != (J.shape[1], J.shape[1]):
            raise ValueError(f"Preconditioned: make should return an operator on {J.shape[1]} parameters, got {M!r}")
        return M

    def _remade(self) -> Operator | None:
        """Return M as it was saved; None if its numbers do not fit what is made here."""
        M = self._make(self.jacobian(self.solver["point"]))
        numbers = self.solver["M"]
        if numbers is None:
            return M
        try:
            if not isinstance(M, Stateful):
                raise ValueError(f"make returned {M!r}, which has no state")
            M.load_state_dict(numbers)
        except ValueError as error:
            warnings.warn(f"Preconditioned: M is made again: {error}", RuntimeWarning, stacklevel=2)
            return None
        return M

    def _on_probes(self, M: Operator, J: Jacobian) -> Tensor:
        return M.forward(J.gram(self._probes()))

    def _probes(self) -> Tensor:
        return self._residual.domain.random(_PROBES)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the base optimizer, and of M."""
        state = self.base.state_dict()
        return {**state, "state": {**state["state"], "solver": dict(self.solver)}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state, options included; refuses that of another optimizer, base or of other parameters."""
        saved = self._refuse_foreign(state_dict)
        entries = {key: value for key, value in state_dict["state"].items() if key != "solver"}
        self.base.load_state_dict({**state_dict, "state": entries})
        super().load_state_dict({**state_dict, "state": {"solver": saved}})
        self.param_groups = self.base.param_groups

    def _forget(self) -> None:
        super()._forget()
        self._made = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_made": None}


def _numbers(M: Operator) -> dict[str, Any] | None:
    """Return what M consists of; None if it cannot be saved."""
    try:
        return M.state_dict() if isinstance(M, Stateful) else None
    except TypeError:  # a part is not of this library
        return None
