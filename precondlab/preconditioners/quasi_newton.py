"""Limited-memory quasi-Newton: an inverse from pairs of steps and gradient differences."""

from __future__ import annotations

import torch
from torch import Tensor

from precondlab.errors import NotPositive
from precondlab.operator import Operator
from precondlab.preconditioners.preconditioner import Preconditioner
from precondlab.space import Space

__all__ = ["lbfgs"]


def lbfgs(steps: Tensor, changes: Tensor, /, *, scale: float | None = None) -> Operator:
    """Approximate A⁻¹ by the L-BFGS matrix of pairs ``(s_i, y_i)``, ``y_i ≈ A s_i``, oldest first.

    ``H_0 = γI`` and ``H ← (I − ρsyᵀ) H (I − ρysᵀ) + ρssᵀ`` with ``ρ = 1/yᵀs``: the last H satisfies
    ``H y_k = s_k``, and all secant equations if the steps are A-conjugate, as those of conjugate
    gradients are; n such pairs give A⁻¹. For ``y = As`` no eigenvalue of ``H^½ A H^½`` that lies on one side of 1
    crosses to the other.

    Parameters
    ----------
    steps, changes
        S and Y ``[n k]``: differences of iterates and of gradients, or directions and their products with A.
    scale
        γ; by default ``sᵀy/yᵀy`` of the last pair (self-scaling), a value between the
        inverses of the largest and the smallest eigenvalue.

    Raises
    ------
    NotPositive
        If ``sᵀy`` is not positive to round-off for some pair; names the pairs. An optimizer should leave them out.
    ValueError
        If the shapes differ, there is no pair, or the scale is not positive.

    Cost: no product with A; memory 2 n k numbers, each application ``8 n k`` operations.
    Reference: Nocedal (1980), doi:10.1090/S0025-5718-1980-0572855-7; as a preconditioner Morales & Nocedal
    (2000), doi:10.1137/S1052623497327854; the factor by Brodlie, Gourlay & Greenstadt (1973),
    doi:10.1093/imamat/11.1.73.

    >>> A = torch.diag(torch.tensor([1.0, 2.0, 4.0]))
    >>> S = torch.eye(3)[:, :2]
    >>> lbfgs(S, A @ S, scale=1.0).dense().diagonal()
    tensor([1.0000, 0.5000, 1.0000])
    """
    shapes = [tuple(getattr(x, "shape", ())) for x in (steps, changes)]
    if shapes[0] != shapes[1] or len(shapes[0]) != 2 or not shapes[0][1]:
        raise ValueError(
            f"lbfgs: expected steps and changes of one shape [n k], k ≥ 1, got {shapes[0]} and {shapes[1]}"
        )
    if not (
        isinstance(steps, Tensor) and steps.dtype == changes.dtype and (steps.is_floating_point() or steps.is_complex())
    ):
        raise ValueError("lbfgs: expected steps and changes to be tensors of one real or complex floating dtype")
    S, Y = steps.detach(), changes.detach()
    products = (S.conj() * Y).sum(0).real
    limit = torch.finfo(S.dtype).eps * S.norm(dim=0) * Y.norm(dim=0)
    bad = (~((products > limit) & products.isfinite())).nonzero()[:, 0].tolist()
    if bad:
        raise NotPositive(
            f"lbfgs: sᵀy = {products[bad[0]].item():.3e} is not positive for the pairs {bad[:8]}; leave them out, "
            "or take the changes from a Gauss–Newton matrix"
        )
    gamma = (products[-1] / Y[:, -1].norm() ** 2).item() if scale is None else scale
    if not 0 < gamma < float("inf"):
        raise ValueError(f"lbfgs: expected a positive scale, got {gamma}")
    factor = _Factor(S, Y, products, gamma)
    return Preconditioner(factor @ factor.H, "LBFGS", f"{S.shape[1]} pairs", f"γ={gamma:.3g}", setup_matvecs=0)


class _Factor(Operator):
    """``[√γ V_kᵀ⋯V_1ᵀ, …, √ρ_k s_k]``, ``V_i = I − ρ_i y_i s_iᵀ``; the adjoint is one of the two loops."""

    def __init__(self, S: Tensor, Y: Tensor, products: Tensor, gamma: float) -> None:
        n, k = S.shape
        super().__init__(Space(n + k, dtype=S.dtype, device=S.device), Space(n, dtype=S.dtype, device=S.device))
        scale = products.rsqrt()
        self.steps, self.changes, self.root = S * scale, Y * scale, gamma**0.5

    def _apply(self, V: Tensor) -> Tensor:
        n = self.shape[0]
        q, t = self.root * V[:n], V[n:]
        for s, y, row in zip(self.steps.T, self.changes.T, t, strict=True):
            q = q + s[:, None] * (row - y.conj() @ q)
        return q

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        rows = []
        for s, y in zip(self.steps.T.flip(0), self.changes.T.flip(0), strict=True):
            rows.append(s.conj() @ U)
            U = U - y[:, None] * rows[-1]
        return torch.cat([self.root * U, torch.stack(rows[::-1])])
