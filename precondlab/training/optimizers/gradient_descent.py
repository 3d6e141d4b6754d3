"""Preconditioned gradient descent."""

from __future__ import annotations

from scipy.sparse.linalg import LinearOperator

from precondlab.krylov import golub_kahan
from precondlab.map import Map
from precondlab.operator import Operator, as_operator
from precondlab.operators import Identity, Jacobian
from precondlab.training.optimizers.minimizer import Minimizer, Step, require_rate

__all__ = ["GradientDescent"]

_RATE_STEPS = 30  # Golub–Kahan steps spent on the largest eigenvalue when no rate is given


class GradientDescent(Minimizer):
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
        Positive operator on the parameters, or SciPy's; needs a known ``sqrt`` if lr is None.

    Attributes
    ----------
    diagnostics : Step or None
        What the last step did; its limit is ``"rate"``.

    Raises
    ------
    TypeError, ValueError
        For a preconditioner that is no operator or of the wrong size or without a sqrt when lr is None.
    Breakdown
        If the loss is not finite; the parameters are left as they were.

    Cost per step: one evaluation of r and one backward pass.

    >>> import torch
    >>> a = torch.tensor([1.0], requires_grad=True)
    >>> optimizer = GradientDescent(Map(lambda p: p["a"] - 3.0, {"a": a}), lr=1.0)
    >>> optimizer.step(), a.tolist()
    (tensor(2.), [3.0])
    """

    def __init__(self, residual: Map, *, lr: float | None = None, preconditioner: LinearOperator | None = None) -> None:
        if lr is not None:
            require_rate("GradientDescent", lr)
        super().__init__(residual, {"lr": lr})
        n = residual.domain.size
        M = None if preconditioner is None else as_operator(preconditioner, like=Identity(residual.domain))
        if M is not None and M.shape != (n, n):
            raise ValueError(f"GradientDescent: expected a preconditioner of shape {(n, n)}, got {M!r}")
        self.preconditioner = M
        if lr is None:
            self.param_groups[0]["lr"] = self._rate()

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

    def _step(self) -> float:
        here, (group,) = self.here(), self.param_groups
        M = self.preconditioner
        direction = here.gradient if M is None else M.forward(here.gradient[:, None])[:, 0]
        self.move(here.point - group["lr"] * direction)
        self.diagnostics = Step(here.loss, group["lr"] * direction.norm().item(), "rate")
        return here.loss
