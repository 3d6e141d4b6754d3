"""Self-scaled Broyden: a dense inverse Hessian from gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from precondlab.map import Map
from precondlab.training.optimizers.minimizer import Evaluation, require_rate
from precondlab.training.optimizers.quasi_newton import QuasiNewton, cauchy

__all__ = ["SelfScaledBroyden", "self_scaled_broyden"]

_MEMORY = 2**30  # bytes, for H and its update


class SelfScaledBroyden(QuasiNewton):
    """Minimize ``½‖r(θ)‖²`` along ``d = −H∇L`` with the self-scaled Broyden update of the inverse Hessian (SSBroyden2).

    Every step scales H down before it adds the newest curvature, by a factor τ that makes up for what H has wrong, and
    chooses its member of Broyden's family by the same numbers; see :func:`self_scaled_broyden`. H starts as
    ``(‖g‖²/‖Jg‖²) I``. If no step along ``−H∇L`` reduces the loss, because H is no longer positive or the residual was
    replaced, H starts afresh and the search is along the gradient; if that fails too, the parameters stay and
    ``diagnostics.limit`` is ``"stationary"``.

    Parameters
    ----------
    residual
        The map r; its parameters are updated in place. It can be replaced between steps.
    lr
        First length tried.

    Attributes
    ----------
    diagnostics : SearchStep or None
        What the last step did.

    Raises
    ------
    ValueError
        If lr is not positive, or H takes more than a gigabyte.
    Breakdown
        If loss or gradient is not finite; the parameters are left as they were.

    Cost per step: about one evaluation of r and one backward pass, ``8n²`` operations; memory ``2n²`` numbers.
    Reference: Al-Baali & Khalfan (2005), doi:10.1007/s10589-005-3061-2; Urbán, Stefanou & Pons (2025),
    doi:10.1016/j.jcp.2024.113656.

    >>> a = torch.tensor([4.0], requires_grad=True)
    >>> optimizer = SelfScaledBroyden(Map(lambda p: p["a"] ** 2 - 4.0, {"a": a}))
    >>> for _ in range(9):
    ...     loss = optimizer.step()
    >>> a.tolist(), optimizer.diagnostics.limit
    ([2.0], 'stationary')
    """

    def __init__(self, residual: Map, *, lr: float = 1.0) -> None:
        require_rate("SelfScaledBroyden", lr)
        super().__init__(residual, {"lr": lr}, inverse=None, updates=0)
        n = residual.domain.size
        needed = 2 * n**2 * residual.domain.dtype.itemsize
        if needed > _MEMORY:
            raise ValueError(
                f"SelfScaledBroyden: H and its update need {needed:,} bytes for {n:,} parameters, the limit is "
                f"{_MEMORY:,}; use LBFGS, which needs some vectors, or LevenbergMarquardt"
            )

    @property
    def _memory(self) -> int:
        return self.solver["updates"]

    def _restart(self, here: Evaluation) -> None:
        self.solver.update(inverse=None, updates=0)

    def _direction(self, here: Evaluation) -> Tensor:
        if self.solver["inverse"] is None:
            self.solver["inverse"] = cauchy(here) * torch.eye(len(here.point)).to(here.point)
        return -(self.solver["inverse"] @ here.gradient)

    def _update(self, here: Evaluation, s: Tensor, y: Tensor, length: float) -> None:
        b = -length * (s @ here.gradient).item() / (s @ y).item()
        H = self_scaled_broyden(self.solver["inverse"], s, y, b)
        if H is None:
            self._restart(here)
        else:
            self.solver.update(inverse=H, updates=self._memory + 1)


def self_scaled_broyden(H: Tensor, s: Tensor, y: Tensor, b: float) -> Tensor | None:
    """Return the self-scaled update of an inverse Hessian, ``H₊y = s``, or None where H is not positive along y.

    With ``h = yᵀHy/sᵀy``, ``a = hb − 1 ≥ 0`` and ``v = s/sᵀy − Hy/yᵀHy``::

        ρ = min(1, h(1 − √(a/(1 + a))))
        θ = max((ρ − 1)/a, min(1/ρ, (1 − b)/b))
        σ = 1 + θa,   q = |σ|^{1/(1 − n)},   φ = (1 − θ)/σ
        τ = min(min(1, 1/b) q, σ)  if θ ≤ 0,  else  min(1, 1/b) min(q, 1/θ)
        H₊ = (H − Hy(Hy)ᵀ/yᵀHy + φ (yᵀHy) v vᵀ)/τ + s sᵀ/sᵀy.

    Parameters
    ----------
    H
        ``[n n]``, symmetric.
    s, y
        Change of the point and of the gradient ``[n]``, ``sᵀy > 0``.
    b
        ``sᵀH⁻¹s/sᵀy``, which is ``−α sᵀg/sᵀy`` after a step α along ``−Hg``.

    >>> H = self_scaled_broyden(torch.eye(2), torch.tensor([1.0, 0.0]), torch.tensor([2.0, 1.0]), 0.5)
    >>> H @ torch.tensor([2.0, 1.0])
    tensor([1.0000, 0.0000])
    """
    Hy, sy = H @ y, (s @ y).item()
    curvature = (y @ Hy).item()
    if not 0 < curvature < math.inf or not b > 0:
        return None
    h = curvature / sy
    a = max(h * b - 1, torch.finfo(H.dtype).eps)
    rho = min(1.0, h * (1 - math.sqrt(a / (1 + a))))
    theta = max((rho - 1) / a, min(1 / rho, (1 - b) / b))
    sigma = 1 + theta * a
    q = abs(sigma) ** (1 / (1 - len(s))) if len(s) > 1 else 1.0
    shrink = min(1.0, 1 / b)
    tau = min(shrink * q, sigma) if theta <= 0 else shrink * min(q, 1 / theta)
    phi = (1 - theta) / sigma
    v = s / sy - Hy / curvature
    scaled = H - torch.outer(Hy, Hy) / curvature + phi * curvature * torch.outer(v, v)
    return scaled / tau + torch.outer(s, s) / sy
