"""The kernel matrix of a network, layer by layer."""

from __future__ import annotations

import torch
from torch import Tensor

from precondlab.operators.jacobian import Jacobian

__all__ = ["kernel_matrix"]

Piece = tuple[slice, Tensor, Tensor]


def kernel_matrix(J: Jacobian) -> Tensor:
    """Return ``JJᵀ`` ``[m m]`` from inputs and adjoints of the layers, or from J where they are not all.

    Raises
    ------
    ValueError
        If the matrix, or J where it is needed, does not fit the memory budget.
    """
    m = J.shape[0]
    size = m * m * J.domain.dtype.itemsize
    if size > J.memory_budget:
        raise ValueError(
            f"Kernel({J!r}): the matrix needs {size:,} bytes, the budget is {J.memory_budget:,}; "
            "raise memory_budget or stay matrix-free"
        )
    layers: dict[tuple[str, ...], list[Piece]] = {}
    if J.route == "jets":
        for rows, names, a, g in J.layers():
            layers.setdefault(names, []).append((rows, a, g))
    if {name for names in layers for name in names} != set(J.domain.shapes):
        matrix = J.formed().dense()
        return matrix @ matrix.T
    K = torch.zeros(m, m, dtype=J.domain.dtype, device=J.domain.device)
    for pieces in layers.values():
        for i, one in enumerate(pieces):
            K[one[0], one[0]] += _block(one, one)
            for other in pieces[:i]:
                block = _block(one, other)
                K[one[0], other[0]] += block
                K[other[0], one[0]] += block.T
    return K


def _block(one: Piece, other: Piece) -> Tensor:
    """Return ``Σ_cd (g_c g_dᵀ) ∘ (a_c a_dᵀ)``."""
    (_, a, g), (_, b, h) = one, other
    (C, N), (D, M) = a.shape[:2], b.shape[:2]
    product = (g.flatten(0, 1) @ h.flatten(0, 1).T).mul_(a.flatten(0, 1) @ b.flatten(0, 1).T)
    return product.view(C, N, D, M).sum((0, 2))
