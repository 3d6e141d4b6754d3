"""Inverses from a low-rank approximation: randomized Nyström, and randomly pivoted Cholesky."""

from __future__ import annotations

import warnings

import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.errors import NotConverged, NotPositive, NotSymmetric
from precondlab.krylov.checks import require_integer
from precondlab.operator import Operator, as_operator
from precondlab.preconditioners.diagonal import diagonal_of
from precondlab.preconditioners.preconditioner import (
    Preconditioner,
    finite,
    require_damping,
    require_square,
)
from precondlab.preconditioners.spectral import SpectralUpdate

__all__ = ["nystrom", "nystrom_adaptive", "pivoted_cholesky"]

_FIRST_RANK = 16
_POWER_STEPS = 10  # of the power iteration that estimates the error of an approximation


def nystrom(
    A: LinearOperator, /, *, rank: int, damping: float = 0.0, generator: torch.Generator | None = None
) -> Operator:
    """Invert the randomized Nyström approximation ``Â = (AΩ)(ΩᴴAΩ)⁻¹(AΩ)ᴴ = UΛUᴴ``.

    For the system ``A + μI`` with damping μ::

        M = U (Λ + μI)⁻¹ Uᴴ + (I − UUᴴ) / (λ̂_r + μ),

    the preconditioner of the reference over ``λ̂_r + μ``, so that ``M ≈ (A + μI)⁻¹``. Eigenvalues
    that round-off cannot tell from zero are dropped if μ = 0. At full rank ``M = (A + μI)⁻¹``. For
    μ > 0 and ``rank ≥ 2⌈1.5 d⌉ + 1`` with the effective dimension ``d = tr A(A + μI)⁻¹``, the expected
    κ of the preconditioned ``A + μI`` is at most 28, an upper bound.

    Parameters
    ----------
    A
        A positive operator on n unknowns, or SciPy's.
    rank
        Number of random columns of Ω.
    damping
        The shift μ ≥ 0 of the system to be solved; 0 preconditions A itself.
    generator
        For Ω.

    Raises
    ------
    NotPositive, NotSymmetric
        If the sketch ``ΩᴴAΩ`` shows that A is indefinite, or not symmetric.
    ValueError
        If the rank is not between 1 and n, the damping negative or A zero.
    Breakdown
        If a product is not finite.

    Cost: ``rank`` products with A in one block and 2 n rank² operations; memory and each application
    n rank numbers and 4 n rank operations.
    Reference: Frangella, Tropp & Udell (2023), doi:10.1137/21M1466244, Algorithm 2.1 and eq. (1.3).

    >>> from precondlab.operators import Diagonal
    >>> A = Diagonal(torch.tensor([4.0, 1.0, 1.0], dtype=torch.float64))
    >>> M = nystrom(A, rank=3)
    >>> (M @ A).dense().round(decimals=6).diagonal()
    tensor([1., 1., 1.], dtype=torch.float64)
    """
    A = as_operator(A)
    require_square("nystrom", A)
    require_integer("nystrom", "rank", rank, most=A.shape[0])
    require_damping("nystrom", damping)
    test = torch.linalg.qr(A.domain.random(rank, generator=generator)).Q
    U, values = _approximate(A, test, _products(A, test, "nystrom"), damping, "nystrom")
    return _inverse(A, U, values, damping, "Nystrom", rank)


def nystrom_adaptive(
    A: LinearOperator,
    /,
    *,
    damping: float,
    condition: float = 10.0,
    rank: int | None = None,
    max_rank: int | None = None,
    generator: torch.Generator | None = None,
) -> Operator:
    """Invert a Nyström approximation of the rank that brings κ below a target.

    The rank is doubled, keeping the products already made, until the bound
    ``κ ≤ 1 + (λ̂_r + ‖A − Â‖)/μ`` on the preconditioned ``A + μI`` is at most ``condition``. The norm is
    estimated from below by a power iteration, so the bound holds up to its accuracy.

    Parameters
    ----------
    A
        A positive operator on n unknowns, or SciPy's.
    damping
        The shift μ > 0 of the system to be solved.
    condition
        Upper bound on κ that is aimed at.
    rank, max_rank
        First rank (16 if None, or the last), and last (n if None).
    generator
        For the random columns.

    Raises
    ------
    NotPositive, NotSymmetric, ValueError, Breakdown
        As :func:`nystrom`; ValueError also if the damping is zero or ``condition ≤ 1``.

    Warns
    -----
    NotConverged
        If the largest rank does not reach the target; the result is still a preconditioner.

    Cost: final rank + 10 per doubling products with A; the rest as :func:`nystrom`.
    Reference: Frangella, Tropp & Udell (2023), doi:10.1137/21M1466244, §5.4 and Proposition 5.3.

    >>> from precondlab.operators import Diagonal
    >>> A = Diagonal(torch.cat([torch.full((4,), 1e6), torch.full((96,), 1e-3)]).double())
    >>> nystrom_adaptive(A, damping=1e-2)
    Nystrom[100×100, rank 16, μ=0.01]
    """
    A = as_operator(A)
    name, size = "nystrom_adaptive", A.shape[0]
    require_square(name, A)
    limit = size if max_rank is None else max_rank
    require_integer(name, "max_rank", limit, most=size)
    rank = min(_FIRST_RANK, limit) if rank is None else rank
    require_integer(name, "rank", rank, most=limit)
    require_damping(name, damping)
    if damping == 0 or not condition > 1:
        raise ValueError(f"{name}: expected damping > 0 and condition > 1, got {damping} and {condition}")
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    test = torch.linalg.qr(A.domain.random(rank, generator=generator)).Q
    Y = _products(A, test, name)
    extra = 0
    while True:
        U, values = _approximate(A, test, Y, damping, name)
        error = 0.0
        if len(test.T) < size:
            error = _error(A, U, values, generator)
            extra += _POWER_STEPS
        bound = 1 + (values[-1].item() + error) / damping if len(test.T) < size else 1.0
        if bound <= condition or len(test.T) == limit:
            break
        fresh = A.domain.random(min(len(test.T), limit - len(test.T)), generator=generator)
        for _ in range(2):
            fresh = torch.linalg.qr(fresh - test @ A.domain.inner(test, fresh)).Q
        test, Y = torch.cat([test, fresh], dim=1), torch.cat([Y, _products(A, fresh, name)], dim=1)
    if bound > condition:
        warnings.warn(
            f"{name}: rank {limit} bounds κ by {bound:.3g} only, above {condition:.3g}; raise max_rank or the damping",
            NotConverged,
            stacklevel=2,
        )
    return _inverse(A, U, values, damping, "Nystrom", len(test.T) + extra)


def pivoted_cholesky(
    K: LinearOperator,
    /,
    *,
    rank: int,
    damping: float | None = None,
    diagonal: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Operator:
    """Invert ``F Fᴴ + μI``, F the randomly pivoted partial Cholesky factor of a kernel.

    Pivots are drawn with probability proportional to the diagonal of what is left of K, so that only
    ``rank`` columns of K are needed. With ``F = UΣVᴴ``: ``M = U (Σ² + μI)⁻¹ Uᴴ + (I − UUᴴ)/μ``. For
    ``rank ≥ r/ε + r ln(1/(εη))``, where η is the relative trace error of the best rank-r approximation, the
    expected trace error is at most (1 + ε) times that of the best, an upper bound.

    Parameters
    ----------
    K
        A positive operator on n unknowns, or SciPy's.
    rank
        Largest number of pivots; fewer are used if K is exhausted.
    damping
        The shift μ ≥ 0 of the system ``K + μI``; by default the mean of the eigenvalues that F leaves
        out, ``tr(K − FFᴴ)/(n − rank)``.
    diagonal
        ``diag(K)`` ``[n]``; by default as in :func:`jacobi`. An estimate will do: it only guides the choice.
    generator
        For the pivots.

    Raises
    ------
    NotPositive
        If a diagonal entry of what is left is negative.
    ValueError
        If the rank is not between 1 and n, the damping negative or K zero.
    Breakdown
        If a product is not finite.

    Cost: ``rank`` products with columns of the identity, plus those for the diagonal, and 3 n rank² operations;
    memory and each application n rank numbers and 4 n rank operations.
    Reference: Chen, Epperly, Tropp & Webber (2025), doi:10.1002/cpa.22234; as a preconditioner Díaz et al.
    (2023), doi:10.48550/arXiv.2304.12465.

    >>> from precondlab.operators import Diagonal
    >>> K = Diagonal(torch.tensor([9.0, 0.0, 0.0, 4.0], dtype=torch.float64))
    >>> pivoted_cholesky(K, rank=2, damping=1.0).dense().diagonal()
    tensor([0.1000, 1.0000, 1.0000, 0.2000], dtype=torch.float64)
    """
    K = as_operator(K)
    name, size = "pivoted_cholesky", K.shape[0]
    require_square(name, K)
    require_integer(name, "rank", rank, most=size)
    if damping is not None:
        require_damping(name, damping)
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    setup, exact = 0, False
    if diagonal is None:
        diagonal, how, setup = diagonal_of(K, name, generator=generator)
        exact = how == "exact"
    elif diagonal.shape != (size,):
        raise ValueError(f"{name}: expected a diagonal of shape ({size},), got {tuple(diagonal.shape)}")
    left = diagonal.to(K.domain.device).real.double()
    floor = 10 * size * K.domain.eps * left.max().item()
    if not floor > 0:
        raise ValueError(f"{name}: the diagonal of {K!r} is zero, so is a positive operator; check the residual")
    F = K.domain.zeros(0)
    for _ in range(rank):
        if exact and left.min().item() < -floor:
            raise NotPositive(
                f"{name}: {K!r} is not positive: a Schur complement has the entry {left.min().item():.3e}"
            )
        left = torch.where(left > floor, left, 0)
        if not left.any():
            break
        pivot = int(torch.multinomial(left.cpu(), 1, generator=generator))
        unit = K.domain.zeros(1)
        unit[pivot] = 1
        column = _products(K, unit, name)[:, 0]
        setup += 1
        column = column - F @ F[pivot].conj()
        square = column[pivot].real.item()
        if square < -floor:
            raise NotPositive(f"{name}: {K!r} is not positive: a Schur complement has the entry {square:.3e}")
        if square > floor:
            column = column / square**0.5
            F = torch.cat([F, column[:, None]], dim=1)
            left = left - column.abs().double() ** 2
        left[pivot] = 0
    if not F.shape[1]:
        raise ValueError(f"{name}: no column of {K!r} is larger than round-off; check the diagonal")
    U, sigma, _ = torch.linalg.svd(F, full_matrices=False)
    rest = left.clamp_min(0).sum().item() / max(size - F.shape[1], 1)
    shift = rest if damping is None else damping
    values = sigma**2
    if shift == 0:
        U, values = U[:, values > floor], values[values > floor]
    inverse = SpectralUpdate(U, 1 / (values + shift), 1 / (shift or values[-1].item()))
    return Preconditioner(inverse, "PivotedCholesky", *_facts(values, shift), setup_matvecs=setup, space=K.domain)


@torch.no_grad()
def _products(A: Operator, V: Tensor, caller: str) -> Tensor:
    return finite(A.forward(V), caller, A)


def _approximate(A: Operator, test: Tensor, Y: Tensor, damping: float, caller: str) -> tuple[Tensor, Tensor]:
    """Return eigenvectors ``[n r]`` and eigenvalues ``[r]`` of the Nyström approximation, descending."""
    space = A.domain
    round_off = space.size**0.5 * space.eps * Y.norm().item()
    if not round_off:
        raise ValueError(f"{caller}: {A!r} is zero on the random test matrix; check the residual and its weights")
    core = space.inner(test, Y).cpu().to(torch.promote_types(space.dtype, torch.float64))
    skew = (core - core.mH).norm().item()
    if skew > 100 * round_off:
        raise NotSymmetric(f"{caller}: {A!r} is not symmetric: ‖ΩᴴAΩ − (ΩᴴAΩ)ᴴ‖ = {skew:.3e}; give pl.Gram(J)")
    lowest = torch.linalg.eigvalsh((core + core.mH) / 2)[0].item()
    if lowest < -100 * round_off:
        raise NotPositive(
            f"{caller}: {A!r} is not positive: vᴴAv = {lowest:.3e} < 0 for a unit vector v; "
            "take a Gauss–Newton matrix, or add more than that to the diagonal"
        )
    shift = max(round_off, -2 * lowest)
    core = (core + core.mH) / 2 + shift * torch.eye(len(core), dtype=core.dtype)
    C = torch.linalg.cholesky(core).to(space.device, space.dtype)
    B = torch.linalg.solve_triangular(C, (Y + shift * test).mH, upper=False).mH
    Q, R = torch.linalg.qr(B)
    left, sigma, _ = torch.linalg.svd(R)
    values = (sigma**2 - shift).clamp_min(0)
    kept = values > 10 * shift if damping == 0 else values > 0
    if not kept.any():
        raise ValueError(f"{caller}: no eigenvalue of {A!r} is larger than round-off; check the residual")
    return (Q @ left)[:, kept], values[kept]


def _inverse(A: Operator, U: Tensor, values: Tensor, damping: float, name: str, setup: int) -> Preconditioner:
    inverse = SpectralUpdate(U, 1 / (values + damping), 1 / (values[-1].item() + damping))
    return Preconditioner(inverse, name, *_facts(values, damping), setup_matvecs=setup, space=A.domain)


def _facts(values: Tensor, damping: float) -> tuple[str, ...]:
    rank = f"rank {len(values)}"
    return (rank, f"μ={damping:.3g}") if damping else (rank,)


def _error(A: Operator, U: Tensor, values: Tensor, generator: torch.Generator) -> float:
    """Return a lower bound on ``‖A − UΛUᴴ‖`` by power iteration."""
    v, error = A.domain.random(1, generator=generator), 0.0
    for _ in range(_POWER_STEPS):
        v = v / v.norm()
        w = _products(A, v, "nystrom_adaptive") - U @ (values[:, None] * A.domain.inner(U, v))
        error, v = w.norm().item(), w
        if not error:
            break
    return error
