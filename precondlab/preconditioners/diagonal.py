"""Jacobi: inverses of the diagonal and of diagonal blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.algebra import Scaled, Sum
from precondlab.errors import NotPositive
from precondlab.krylov.checks import require_integer
from precondlab.operator import Operator, as_operator
from precondlab.operators import BlockDiagonal, Dense, Diagonal, Gram, Identity, Kernel, LowRank
from precondlab.preconditioners.preconditioner import Preconditioner, finite, require_damping, require_square
from precondlab.preconditioners.subspaces import Indices, as_indices, subspace_factor
from precondlab.spectrum import diagonal

__all__ = ["block_jacobi", "jacobi"]

Estimator = Literal["factor", "xdiag"]


def jacobi(
    A: LinearOperator,
    /,
    *,
    damping: float = 0.0,
    num_matvecs: int = 200,
    estimate: Estimator | None = None,
    generator: torch.Generator | None = None,
) -> Operator:
    """Invert the diagonal, ``M = (diag(A) + μI)⁻¹``.

    Exact for operators known by their entries and for n ≤ ``num_matvecs``. The diagonal of a larger operator is
    estimated, and no estimate is negative:

    * ``"factor"``, for ``A = SSᴴ`` such as ``Gram(J)``: ``mean |Sz|²`` over k = ``num_matvecs`` normal vectors z. Every
      entry has the relative standard deviation ``√(2/k)``, however small it is.
    * ``"xdiag"``: :func:`~precondlab.spectrum.diagonal`, exact for rank A < k/2 and better than a factor the faster
      the spectrum falls, but its error is relative to the row: small entries drown first. One below its standard
      error is raised to it.

    With the exact diagonal, ``κ(MA) ≤ q · min κ(DA)`` over diagonal D > 0, an upper bound, where q is the
    largest number of non-zero entries in a row of A.

    Parameters
    ----------
    A
        A positive operator on n unknowns, or SciPy's.
    damping
        The shift μ ≥ 0.
    num_matvecs
        Budget of products.
    estimate
        How to estimate; by default from the factor where A has one.
    generator
        For the random vectors.

    Raises
    ------
    NotPositive
        If an entry is not positive, or an estimate not above round-off; names the first. Damping helps if it is zero.
    ValueError, Breakdown
        If the damping is negative, A not square or without the factor asked for; if a product is not finite.

    Cost: at most ``num_matvecs`` products, in blocks; memory and each application n numbers.
    Reference: van der Sluis (1969), doi:10.1007/BF02165096; Bekas, Kokiopoulou & Saad (2007),
    doi:10.1016/j.apnum.2007.01.003; Epperly, Tropp & Webber (2024), doi:10.1137/23M1548323, for XDiag.

    >>> A = Dense(torch.tensor([[4.0, 1.0], [1.0, 2.0]]), positive=True)
    >>> jacobi(A), jacobi(A).dense().diagonal()
    (Jacobi[2×2, exact], tensor([0.2500, 0.5000]))
    """
    A = as_operator(A)
    require_square("jacobi", A)
    require_damping("jacobi", damping)
    require_integer("jacobi", "num_matvecs", num_matvecs)
    entries, how, setup = diagonal_of(A, "jacobi", num_matvecs=num_matvecs, estimate=estimate, generator=generator)
    entries = entries + damping
    bad = (~(entries > 0)).nonzero()
    if len(bad):
        i = bad[0].item()
        raise NotPositive(
            f"jacobi: {len(bad)} of {len(entries)} diagonal entries of {A!r} are not positive, the first is entry {i}, "
            f"{entries[int(i)].item():.3e}; remove parameters without influence, or give damping > 0"
        )
    facts = [how if how == "exact" else f"estimated by {how}", *([f"μ={damping:.3g}"] if damping else [])]
    return Preconditioner(
        Diagonal((1 / entries).to(A.domain.dtype)), "Jacobi", *facts, setup_matvecs=setup, space=A.domain
    )


def block_jacobi(A: LinearOperator, /, blocks: Sequence[Indices] | None = None, *, damping: float = 0.0) -> Operator:
    """Invert the diagonal blocks, ``M = Σ_i E_i (E_iᵀAE_i + μI)⁻¹ E_iᵀ``, E_i the columns of I in block i.

    By default the blocks are those of the space: layers and parameter groups for ``Gram(J)``,
    residual blocks for ``Kernel(J)``. Where A has a factor, ``A = SSᴴ``, the blocks are factorized by QR of
    ``SᴴE_i``, to the square root of the condition number that Cholesky would see.
    For two blocks ``κ(MA) ≤ (1 + γ)/(1 − γ)``, an equality, γ < 1 being the cosine between them in the A-inner
    product.

    Parameters
    ----------
    A
        A positive operator on n unknowns, or SciPy's.
    blocks
        Slices or integer indices, every unknown in exactly one block.
    damping
        The shift μ ≥ 0.

    Raises
    ------
    NotPositive
        If a block is not positive definite; names it.
    ValueError, Breakdown
        If the blocks do not partition the unknowns or the damping is negative; if a product is not finite.

    Cost: n products in blocks of columns; memory and each application ``Σ n_i²`` numbers and operations; a factor
    with m columns takes m max n_i numbers for a while.
    Reference: Demmel (2023), doi:10.1137/22M1504901, on how close to optimal this is.

    >>> A = Dense(torch.tensor([[4.0, 0.0, 0.0], [0.0, 2.0, 1.0], [0.0, 1.0, 2.0]]), positive=True)
    >>> (block_jacobi(A, [[0], [1, 2]]) @ A).dense().round(decimals=4)
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    A = as_operator(A)
    require_square("block_jacobi", A)
    require_damping("block_jacobi", damping)
    if blocks is None:
        named = {name or "(all)": as_indices(part, A.domain) for name, part in A.domain.slices.items()}
    else:
        named = {str(i): as_indices(block, A.domain) for i, block in enumerate(blocks)}
    named = {name: block for name, block in named.items() if len(block)}
    covered = torch.cat(list(named.values())) if named else torch.zeros(0, dtype=torch.int64)
    count = torch.bincount(covered, minlength=A.shape[0])
    if (count != 1).any():
        i = int((count != 1).nonzero()[0])
        raise ValueError(f"block_jacobi: expected every unknown in exactly one block, unknown {i} is in {count[i]}")
    S, setup = subspace_factor(A, named, damping, "block_jacobi")
    facts = [f"{len(named)} blocks", *([f"μ={damping:.3g}"] if damping else [])]
    return Preconditioner(S @ S.H, "BlockJacobi", *facts, setup_matvecs=setup, space=A.domain)


@torch.no_grad()
def diagonal_of(
    A: Operator,
    caller: str,
    *,
    num_matvecs: int = 200,
    estimate: Estimator | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Literal["exact"] | Estimator, int]:
    """Return the diagonal ``[n]`` (real), how it was found, and the products that took."""
    root, n = A.sqrt, A.shape[0]
    if estimate not in (None, "factor", "xdiag") or (estimate == "factor" and root is None):
        raise ValueError(
            f"{caller}: expected an estimate 'factor' (where A has one), 'xdiag' or None, got {estimate!r} for {A!r}"
        )
    known = _known(A)
    if known is not None:
        return finite(known.real, caller, A), "exact", 0
    if n <= num_matvecs:
        if root is None:
            return finite(A.dense(), caller, A).diagonal().real, "exact", n
        rows = finite(root.dense(), caller, A)
        return (rows.abs() ** 2).sum(1), "exact", -(-min(root.shape) // 2)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    if root is not None and estimate != "xdiag":
        Z = root.domain.random(num_matvecs, generator=generator)
        return (finite(root.forward(Z), caller, A).abs() ** 2).mean(1), "factor", -(-num_matvecs // 2)
    found = diagonal(A, num_matvecs=num_matvecs, generator=generator)
    entries = torch.maximum(found.value.real, found.stderr)
    return torch.where(entries > 10 * A.domain.eps * entries.max(), entries, 0), "xdiag", found.num_matvecs


def _known(A: Operator) -> Tensor | None:
    """Return the diagonal where it takes no product."""
    match A:
        case Dense():
            return A.matrix.diagonal()
        case Diagonal():
            return A.entries
        case Identity():
            return A.domain.zeros() + 1
        case LowRank():
            return (A.U * A.s * A.V.conj()).sum(1)
        case Gram(J=Dense() as J):
            return (J.matrix.abs() ** 2).sum(0)
        case Kernel(J=Dense() as J):
            return (J.matrix.abs() ** 2).sum(1)
        case Scaled():
            part = _known(A.parent)
            return None if part is None else A.factor * part
        case Sum() | BlockDiagonal():
            parts = [
                part for term in (A.terms if isinstance(A, Sum) else A.parts) if (part := _known(term)) is not None
            ]
            if isinstance(A, Sum):
                return torch.stack(parts).sum(0) if len(parts) == len(A.terms) else None
            square = all(part.shape[0] == part.shape[1] for part in A.parts)
            return torch.cat(parts) if square and len(parts) == len(A.parts) else None
        case _:
            return None
