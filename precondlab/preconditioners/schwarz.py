"""Additive Schwarz: exact solves on overlapping subsets of the unknowns, and a coarse space that joins them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.krylov import cg
from precondlab.operator import Operator, as_operator
from precondlab.operators import Identity
from precondlab.preconditioners.composition import coarse_factor, coarse_functions
from precondlab.preconditioners.preconditioner import Preconditioner, finite, require_damping, require_square
from precondlab.preconditioners.subspaces import Indices, SubspaceFactor, as_indices, subspace_factor

__all__ = ["schwarz", "subdomains"]

_LOCAL_THRESHOLD = 0.25  # modes of a subset below it are left to the coarse space
_PARTITION_OF_UNITY = 1e-6  # relative accuracy of Σ Z_i = 1; any coarse space is allowed


def schwarz(
    A: LinearOperator,
    /,
    subsets: Sequence[Indices],
    *,
    coarse: Literal["energy", "constants", "geneo"] | Tensor | None = "energy",
    restricted: bool = False,
    damping: float = 0.0,
) -> Operator:
    """Add up exact solves on overlapping subsets, ``M = Z(ZᵀAZ)⁻¹Zᵀ + Σ_i E_i (E_iᵀAE_i + μI)⁻¹ E_iᵀ``.

    If c colors suffice for the subsets so that A couples no two of one color, ``λ_max(MA) ≤ c + 1``, an upper
    bound (c without the coarse term). Without it the smallest eigenvalue falls with the number of subsets:
    information crosses one of them per iteration. One coarse function per subset repairs that if together they
    hold what A hardly sees, the constants.

    Parameters
    ----------
    A
        A positive operator on n unknowns, or SciPy's.
    subsets
        Slices or integer indices that cover the unknowns; see :func:`subdomains`.
    coarse
        ``"constants"``: Nicolaides' partition of unity, ``Z_i = E_i D_i 1`` with D_i the inverse
        multiplicities. ``"energy"``: the partition of unity of least energy ``Σ Z_iᵀAZ_i``, which is
        ``Z_i = E_i (E_iᵀAE_i + μI)⁻¹ E_iᵀ λ`` with ``Σ_i Z_i = 1``; it follows jumps of coefficients, which constants
        cut across. ``"geneo"``: the modes ``E_i D_i φ`` with ``A_i' φ = t D_i A_i D_i φ``, t < 1/4, where ``A_i'`` is
        ``A_i = E_iᵀAE_i`` with its couplings to the outside subtracted from the diagonal; as many per
        subset as it takes for a κ that is bounded whatever the jumps, if A is diagonally dominant. A tensor
        ``[n q]``: other coarse functions as columns. None: no coarse term.
    restricted
        Weight each solution by D_i (restricted additive Schwarz): fewer iterations, but M is not
        symmetric: for GMRES, not for conjugate gradients.
    damping
        The shift μ ≥ 0 of the local problems.

    Raises
    ------
    NotPositive
        If a local or the coarse problem is not positive definite.
    ValueError, Breakdown
        If the subsets do not cover the unknowns, or an option makes no sense; if a product is not finite.

    Cost: ``Σ n_i`` products for the local problems and one per coarse function; for ``"energy"`` also one per step of
    conjugate gradients for λ, for ``"geneo"`` another ``Σ n_i``; memory and operations of each application
    ``Σ n_i² + n q``.
    Reference: Toselli & Widlund, Domain Decomposition Methods (2005), doi:10.1007/b137868; Nicolaides (1987),
    doi:10.1137/0724027; energy: Xu & Zikatanov (2004), doi:10.1007/s00791-004-0147-y; geneo: Spillane et al.
    (2014), doi:10.1007/s00211-013-0576-y; restricted: Cai & Sarkis
    (1999), doi:10.1137/S106482759732678X.

    >>> from precondlab.operators import Dense
    >>> A = Dense(torch.tensor([[2.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 2.0]]).double(), positive=True)
    >>> schwarz(A, [[0, 1], [1, 2]], coarse=None).dense()
    tensor([[0.6667, 0.3333, 0.0000],
            [0.3333, 1.3333, 0.3333],
            [0.0000, 0.3333, 0.6667]], dtype=torch.float64)
    """
    A = as_operator(A)
    require_square("schwarz", A)
    require_damping("schwarz", damping)
    named = {str(i): part for i, subset in enumerate(subsets) if len(part := as_indices(subset, A.domain))}
    covered = torch.cat(list(named.values())) if named else torch.zeros(0, dtype=torch.int64)
    count = torch.bincount(covered, minlength=A.shape[0])
    if (count == 0).any():
        missing = (count == 0).nonzero()[:, 0].tolist()
        raise ValueError(
            f"schwarz: the subsets miss {len(missing)} of {len(count)} unknowns, first unknown {missing[0]}"
        )
    S, setup = subspace_factor(A, named, damping, "schwarz")
    before = A.num_matvecs
    Z = _coarse_functions(A, S, count, coarse, damping)
    setup += A.num_matvecs - before
    facts = [f"{len(named)} subsets", *(["restricted"] if restricted else [])]
    M = S @ S.H
    if restricted:
        M = S.weighted([1 / count[subset].to(A.domain.dtype) for subset in S.subsets]) @ S.H
    if Z is not None:
        K, products = coarse_factor(A, Z, "schwarz")
        M, setup = M + K @ K.H, setup + products
        facts.append(f"{Z.shape[1]} coarse")
    return Preconditioner(M, "Schwarz", *facts, setup_matvecs=setup, space=A.domain)


def subdomains(points: Tensor, parts: Sequence[int], /, *, overlap: float = 0.1) -> list[Tensor]:
    """Return the indices of the points in each box of a grid of overlapping boxes.

    Parameters
    ----------
    points
        Coordinates ``[N d]``: of grid points, collocation points or centers of features.
    parts
        Number of boxes in each direction.
    overlap
        By how much a box is enlarged on either side, relative to its width. Empty boxes are left out.

    Raises
    ------
    ValueError
        If the shapes do not fit, or the overlap is negative.

    Reference: Toselli & Widlund (2005), §3.2, doi:10.1007/b137868.

    >>> subdomains(torch.linspace(0, 1, 5)[:, None], (2,), overlap=0.5)
    [tensor([0, 1, 2, 3]), tensor([1, 2, 3, 4])]
    """
    points = torch.as_tensor(points)
    if points.dim() != 2 or not len(points) or len(parts) != points.shape[1] or min(parts, default=0) < 1:
        raise ValueError(
            f"subdomains: expected points [N d], N ≥ 1, and d counts, got {tuple(points.shape)} and {parts}"
        )
    if not points.isfinite().all():
        raise ValueError("subdomains: the points should be finite")
    if not 0 <= overlap < math.inf:
        raise ValueError(f"subdomains: expected a finite overlap ≥ 0, got {overlap}")
    low, high = points.amin(0), points.amax(0)
    width = (high - low) / torch.tensor(parts, dtype=points.dtype, device=points.device)
    margin = overlap * width + 1e-9 * (high - low)
    found = []
    for cell in itertools.product(*map(range, parts)):
        corner = low + torch.tensor(cell, dtype=points.dtype, device=points.device) * width
        inside = ((points >= corner - margin) & (points <= corner + width + margin)).all(1)
        found.append(inside.nonzero()[:, 0])
    return [indices for indices in found if len(indices)]


def _coarse_functions(
    A: Operator, S: SubspaceFactor, count: Tensor, coarse: str | Tensor | None, damping: float
) -> Tensor | None:
    space = S.codomain
    if coarse is None:
        return None
    if not isinstance(coarse, str):
        return coarse_functions("schwarz", coarse, space.size)
    Z = space.zeros(len(S.subsets))
    if coarse == "geneo":
        Z = _local_modes(A, S, count)
    elif coarse == "constants":
        for i, subset in enumerate(S.subsets):
            Z[subset, i] = 1 / count[subset].to(space.dtype)
    elif coarse == "energy":
        # A is the natural preconditioner of its one-level preconditioner: their product has few large eigenvalues
        damped = A + damping * Identity(space) if damping else A
        weight = cg(S @ S.H, space.zeros(1) + 1, M=damped, rtol=_PARTITION_OF_UNITY).check().x
        local = S.backward(weight).split(S.sizes)
        for i, (subset, R, piece) in enumerate(zip(S.subsets, S.factors, local, strict=True)):
            Z[subset, i] = torch.linalg.solve_triangular(R, piece, upper=True)[:, 0]
    else:
        raise ValueError(
            f"schwarz: expected coarse 'energy', 'constants', 'geneo', functions [n q] or None, got {coarse!r}"
        )
    left, sizes, _ = torch.linalg.svd(Z, full_matrices=False)
    return left[:, sizes > space.eps**0.5 * sizes[0]]  # equal subsets have equal functions


@torch.no_grad()
def _local_modes(A: Operator, S: SubspaceFactor, count: Tensor) -> Tensor:
    """Return ``E_i D_i φ``, at least one per subset, for the modes φ that cost little inside and much once cut off."""
    modes = []
    for subset, R in zip(S.subsets, S.factors, strict=True):
        E = S.codomain.zeros(len(subset))
        E[subset, range(len(subset))] = 1
        columns = finite(A.forward(E), "schwarz", A)
        block = columns[subset]
        outside = columns.abs().sum(0) - block.abs().sum(0)
        inside = (block + block.mH) / 2 - torch.diag(outside).to(block)
        multiplicity = count[subset].to(block)
        scaled = multiplicity[:, None] * inside * multiplicity
        half = torch.linalg.solve_triangular(R.mH, scaled, upper=False)
        values, vectors = torch.linalg.eigh(torch.linalg.solve_triangular(R.mH, half.mH, upper=False))
        kept = max(1, int((values < _LOCAL_THRESHOLD).sum()))
        mode = S.codomain.zeros(kept)
        mode[subset] = torch.linalg.solve_triangular(R, vectors[:, :kept], upper=True)
        modes.append(mode)
    return torch.cat(modes, dim=1)
