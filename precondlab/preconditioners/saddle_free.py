"""Saddle-free Newton: the inverse of the absolute value of a Hessian, on its leading eigenvectors."""

from __future__ import annotations

import torch
from scipy.sparse.linalg import LinearOperator

from precondlab.krylov.checks import require_integer
from precondlab.operator import Operator, as_operator
from precondlab.preconditioners.preconditioner import Preconditioner, require_damping, require_square
from precondlab.preconditioners.spectral import SpectralUpdate
from precondlab.spectrum import eigsh

__all__ = ["saddle_free"]


def saddle_free(
    A: LinearOperator, /, *, rank: int, damping: float = 0.0, generator: torch.Generator | None = None
) -> Operator:
    """Invert the absolute value of an indefinite operator, ``M = U(|Λ| + μ)⁻¹Uᴴ + (|λ_r| + μ)⁻¹(I − UUᴴ)``.

    ``AU = UΛ`` are the r eigenpairs largest in modulus. Positive where A, the Hessian of a loss far from a
    minimum say, is not: descent along ``−M∇L`` leaves saddles along their negative curvature, where Newton's
    step is drawn to them. The spectrum of MA is ``±|λ_i|/(|λ_i| + μ)`` on U, and within ±1 off it.

    Parameters
    ----------
    A
        A symmetric operator on n unknowns, or SciPy's; :class:`~precondlab.operators.Hessian` for one.
    rank
        r, between 1 and n − 1.
    damping
        The shift μ ≥ 0.
    generator
        For the start vector of :func:`~precondlab.spectrum.eigsh`.

    Raises
    ------
    NotSymmetric, NotConverged
        As :func:`~precondlab.spectrum.eigsh`.
    ValueError, Breakdown
        If A is not square, rank or damping outside these ranges, or A zero beyond a smaller rank; if a product is
        not finite.

    Cost: the products of :func:`~precondlab.spectrum.eigsh` for r eigenvalues, 2r to 10r; memory n r numbers, an
    application 4 n r operations.
    Reference: Dauphin, Pascanu, Gulcehre, Cho, Ganguli & Bengio (2014), arXiv:1406.2572.

    >>> from precondlab.operators import Diagonal
    >>> H = Diagonal(torch.tensor([-4.0, 2.0, 1.0], dtype=torch.float64))
    >>> (saddle_free(H, rank=2) @ H).dense().diagonal().round(decimals=8)
    tensor([-1.0000,  1.0000,  0.5000], dtype=torch.float64)
    """
    A = as_operator(A)
    require_square("saddle_free", A)
    require_damping("saddle_free", damping)
    require_integer("saddle_free", "rank", rank, most=A.shape[0] - 1)
    before = A.num_matvecs
    pairs = eigsh(A, rank, which="LM", generator=generator).check()
    sizes = torch.as_tensor(abs(pairs.values), device=A.domain.device).to(A.domain.dtype)
    least = sizes.real.min().item()
    if not least + damping > A.domain.eps * sizes.real.max().item():
        raise ValueError(
            f"saddle_free: {A!r} has no {rank} eigenvalues above round-off; lower rank, or give damping > 0"
        )
    inverse = SpectralUpdate(
        torch.as_tensor(pairs.vectors).to(A.domain.device), 1 / (sizes + damping), 1 / (least + damping)
    )
    facts = [f"rank {rank}", *([f"μ={damping:.3g}"] if damping else [])]
    return Preconditioner(inverse, "SaddleFree", *facts, setup_matvecs=A.num_matvecs - before, space=A.domain)
