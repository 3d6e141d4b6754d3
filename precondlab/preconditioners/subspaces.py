"""Exact solves on coordinate subspaces, added up: the factor shared by block Jacobi and Schwarz."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from precondlab.errors import NotPositive
from precondlab.operator import Operator
from precondlab.preconditioners.preconditioner import finite
from precondlab.space import Space

__all__ = ["Indices", "SubspaceFactor", "as_indices", "subspace_factor"]

Indices = slice | Sequence[int] | Tensor


class SubspaceFactor(Operator):
    """``S = [E_1 W_1 R_1⁻¹, E_2 W_2 R_2⁻¹, …]``, R_i upper triangular, E_i columns of I, W_i diagonal.

    With ``R_iᴴR_i = E_iᵀAE_i`` and W_i = I, ``S Sᴴ = Σ E_i (E_iᵀAE_i)⁻¹ E_iᵀ``.

    Cost per product: ``Σ n_i²`` operations.

    >>> R = 2 * torch.eye(1)
    >>> SubspaceFactor(Space(2, dtype=R.dtype), [torch.tensor([1])], [R]).dense()
    tensor([[0.0000],
            [0.5000]])
    """

    def __init__(
        self,
        space: Space,
        subsets: Sequence[Tensor],
        factors: Sequence[Tensor],
        weights: Sequence[Tensor] | None = None,
    ) -> None:
        self.subsets, self.factors = list(subsets), list(factors)
        self.weights = None if weights is None else list(weights)
        super().__init__(Space(sum(self.sizes), dtype=space.dtype, device=space.device), space)

    @property
    def sizes(self) -> list[int]:
        return [len(subset) for subset in self.subsets]

    def weighted(self, weights: Sequence[Tensor]) -> SubspaceFactor:
        """Return the factor with other W_i, given by their diagonals ``[n_i]``."""
        return SubspaceFactor(self.codomain, self.subsets, self.factors, weights)

    def _apply(self, V: Tensor) -> Tensor:
        total = self.codomain.zeros(V.shape[1])
        for i, (subset, R, piece) in enumerate(zip(self.subsets, self.factors, V.split(self.sizes), strict=True)):
            local = torch.linalg.solve_triangular(R, piece, upper=True)
            total.index_add_(0, subset, local if self.weights is None else self.weights[i][:, None] * local)
        return total

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        pieces = [self.domain.zeros(U.shape[1])[:0]]
        for i, (subset, R) in enumerate(zip(self.subsets, self.factors, strict=True)):
            local = U[subset] if self.weights is None else self.weights[i][:, None] * U[subset]
            pieces.append(torch.linalg.solve_triangular(R.mH, local, upper=False))
        return torch.cat(pieces)


def as_indices(block: Indices, space: Space) -> Tensor:
    """Return a block as distinct indices on the device of a space.

    >>> as_indices(slice(1, 3), Space(4))
    tensor([1, 2])
    """
    if isinstance(block, slice):
        return torch.arange(space.size, device=space.device)[block]
    indices = torch.as_tensor(block, device=space.device)
    if not len(indices):
        return indices.long()
    wrong = indices.dim() != 1 or indices.is_floating_point() or indices.dtype == torch.bool
    if wrong or indices.min() < 0 or indices.max() >= space.size or len(indices.unique()) < len(indices):
        raise ValueError(f"a block is a slice or distinct integers from 0 to {space.size - 1}, got {block!r}")
    return indices.long()


@torch.no_grad()
def subspace_factor(
    A: Operator, subsets: Mapping[str, Tensor], damping: float, caller: str
) -> tuple[SubspaceFactor, int]:
    """Return S for the blocks ``E_iᵀAE_i + μI`` of A, by name, and the products that took.

    Raises
    ------
    NotPositive
        If a block is not positive definite; names it.
    """
    root, factors, columns = A.sqrt, [], 0
    for name, subset in subsets.items():
        E = A.domain.zeros(len(subset))
        E[subset, range(len(subset))] = 1
        if root is None:
            block = finite(A.forward(E), caller, A)[subset]
            R, singular = _cholesky((block + block.mH) / 2, damping)
        else:
            R, singular = _qr(finite(root.backward(E), caller, A), damping)
        if singular:
            raise NotPositive(
                f"{caller}: block {name} of {A!r} ({len(subset)} unknowns) is not positive definite to round-off; "
                "give damping > 0"
            )
        factors.append(R)
        columns += len(subset)
    setup = columns if root is None else -(-columns // 2)
    return SubspaceFactor(A.domain, list(subsets.values()), factors), setup


def _cholesky(block: Tensor, damping: float) -> tuple[Tensor, bool]:
    shifted = block + damping * torch.eye(len(block), dtype=block.dtype, device=block.device)
    L, info = torch.linalg.cholesky_ex(shifted)
    pivots = L.diagonal().real
    tiny = len(block) * torch.finfo(block.dtype).eps * shifted.diagonal().real.abs().max()
    return L.mH.contiguous(), bool(info.item()) or not bool((pivots**2 > tiny).all())


def _qr(columns: Tensor, damping: float) -> tuple[Tensor, bool]:
    n = columns.shape[1]
    if damping:
        ridge = damping**0.5 * torch.eye(n, dtype=columns.dtype, device=columns.device)
        columns = torch.cat([columns, ridge])
    if len(columns) < n:
        return columns, True
    R = torch.linalg.qr(columns, mode="r").R
    pivots = R.diagonal().abs()
    return R, not bool((pivots > n * torch.finfo(R.dtype).eps * pivots.max()).all())
