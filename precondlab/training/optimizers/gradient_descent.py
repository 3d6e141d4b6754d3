"""Preconditioned gradient descent."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from precondlab.differentiation.graph import Graph
from precondlab.errors import Breakdown
from precondlab.krylov import golub_kahan
from precondlab.map import Map
from precondlab.operator import Operator
from precondlab.operators import Jacobian

__all__ = ["GradientDescent"]

_RATE_STEPS = 30  # Golub–Kahan steps spent on the largest eigenvalue when no rate is given


class GradientDescent(torch.optim.Optimizer):
    """Minimize ``½‖r(θ)‖²`` by ``θ ← θ − η M∇L``, with ``∇L = Jᵀr`` and a fixed preconditioner M.

    For ``M = PPᵀ`` this is gradient descent in the coordinates ``θ = Pθ̂``: it converges like
    ``(1 − 1/κ)ᵏ`` with κ that of ``PᵀAP``.

    Parameters
    ----------
    residual
        The map r; its parameters are updated in place.
    lr
        η. If None, ``1/λ_max(PᵀAP)`` from 30 Golub–Kahan steps at the first step.
    preconditioner
        Positive operator on the parameters; needs a known ``sqrt`` if lr is None.

    Raises
    ------
    ValueError
        For a preconditioner of the wrong size or without a sqrt when lr is None.
    Breakdown
        If the loss is not finite; the parameters are left as they were.

    Cost per step: one evaluation of r and one backward pass.

    >>> a = torch.tensor([1.0], requires_grad=True)
    >>> optimizer = GradientDescent(Map(lambda p: p["a"] - 3.0, {"a": a}), lr=1.0)
    >>> optimizer.step(), a.tolist()
    (tensor(2.), [3.0])
    """

    def __init__(self, residual: Map, *, lr: float | None = None, preconditioner: Operator | None = None) -> None:
        if lr is not None and not lr > 0:
            raise ValueError(f"GradientDescent: lr should be positive, got {lr}")
        n = residual.domain.size
        if preconditioner is not None and preconditioner.shape != (n, n):
            raise ValueError(f"GradientDescent: expected a preconditioner of shape {(n, n)}, got {preconditioner!r}")
        self.residual = residual
        self.preconditioner = preconditioner
        super().__init__(list(residual.params.values()), {"lr": self._rate() if lr is None else lr})

    def _rate(self) -> float:
        J: Operator = Jacobian(self.residual)
        if self.preconditioner is not None:
            root = self.preconditioner.sqrt
            if root is None:
                raise ValueError(
                    f"GradientDescent: {self.preconditioner!r} has no known sqrt, so the largest eigenvalue of the "
                    "preconditioned operator cannot be estimated; pass lr"
                )
            J = J @ root
        largest = 0.0
        for B in golub_kahan(J, J.domain.random(), num_matvecs=_RATE_STEPS):
            largest = B.svd()[0][0]
        if largest == 0:
            raise ValueError("GradientDescent: the Jacobian is zero, there is nothing to descend")
        return float(1 / largest**2)

    @torch.no_grad()
    def step(self, closure: Callable[[], object] | None = None) -> Tensor:  # type: ignore[override]
        """Take one step and return the loss ``½‖r‖²`` before it; a closure is called for its side effects only."""
        if closure is not None:
            with torch.enable_grad():
                closure()
        residual = self.residual
        graph = Graph(residual.raw(None), residual.params, residual.domain)
        scale = residual.scale()
        r = graph.value * scale
        loss = 0.5 * r @ r
        if not loss.isfinite():
            raise Breakdown(f"GradientDescent: the loss is {loss.item()}; lower lr or check the residual")
        gradient = graph.vjp((scale * r)[:, None])
        direction = gradient if self.preconditioner is None else self.preconditioner.forward(gradient)
        (group,) = self.param_groups
        for name, update in residual.domain.unravel(direction[:, 0]).items():
            residual.params[name].sub_(update, alpha=group["lr"])
        return loss
