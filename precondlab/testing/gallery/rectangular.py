"""Rectangular operators, the shape of Jacobians, with known singular values."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import linalg

from precondlab.operators.structured import Dense, Diagonal, Identity, VStack
from precondlab.space import Space
from precondlab.testing.gallery.factors import ORTHOGONAL, Stretch, rotation, with_singular
from precondlab.testing.gallery.known import Known

__all__ = [
    "column_scaled",
    "dead_units",
    "jacobian",
    "kahan",
    "lauchli",
    "rank_deficient",
    "row_scaled",
]


def lauchli(n: int = 20, *, mu: float = 1e-9) -> Known:
    """Return Läuchli's ``[1 … 1; μI]`` of shape ``[n+1 n]``: ``√(n + μ²)`` and μ (n-1 times).

    Läuchli 1961, doi:10.1007/BF01386022.

    >>> lauchli(3, mu=1.0).singular_values
    array([2., 1., 1.])
    """
    operator = VStack(Dense(torch.ones(1, n, dtype=torch.float64)), mu * Identity(Space(n)))
    values = np.append(math.hypot(math.sqrt(n), mu), np.full(n - 1, mu))
    return Known("lauchli", operator, values, "squaring it loses μ below √ε", 4 * np.finfo(float).eps)


def kahan(n: int = 90, *, theta: float = 1.2) -> Known:
    """Return Kahan's triangular ``diag(1, s, …, sⁿ⁻¹)(I - cN)``, N strictly upper ones, ``c = cos θ``, ``s = sin θ``.

    Large singular values come from it, small ones from its inverse, which back substitution gives to
    full relative accuracy, for nothing cancels in it. Kahan 1966, doi:10.4153/CMB-1966-083-2.

    >>> kahan(2, theta=torch.pi / 2).singular_values
    array([1., 1.])
    """
    c, s = math.cos(theta), math.sin(theta)
    matrix = (s ** np.arange(n))[:, None] * (np.eye(n) - c * np.triu(np.ones((n, n)), 1))
    inverse = linalg.solve_triangular(matrix, np.eye(n))
    large, small = (np.linalg.svd(a, compute_uv=False) for a in (matrix, inverse))
    small = 1 / small[::-1]
    values = np.where(large > math.sqrt(large[0] * small[-1]), large, small)
    rtol = 10 * np.finfo(float).eps * math.sqrt(large[0] / small[-1])
    trap = "pivoted QR sees no small singular value"
    return Known("kahan", Dense(torch.from_numpy(matrix)), values, trap, rtol)


def jacobian(m: int = 120, n: int = 80, *, condition: float = 1e5, generator: torch.Generator | None = None) -> Known:
    """Return an ``[m n]`` operator with singular values at equal logarithmic distances, 1 down to ``1/condition``.

    >>> jacobian(3, 5, condition=100).singular_values
    array([1.  , 0.1 , 0.01])
    """
    values = np.geomspace(1, 1 / condition, min(m, n))
    operator = with_singular(torch.from_numpy(values), m, n, generator=generator)
    return Known("jacobian", operator, values, "its square has twice the digits", 2 * ORTHOGONAL)


def rank_deficient(m: int = 120, n: int = 80, *, rank: int = 50, generator: torch.Generator | None = None) -> Known:
    """Return an ``[m n]`` operator with ``rank`` singular values in ``[0.1, 1]`` and exact zeros.

    >>> rank_deficient(4, 3, rank=2).singular_values
    array([1. , 0.1, 0. ])
    """
    values = np.concatenate([np.linspace(1, 0.1, rank), np.zeros(min(m, n) - rank)])
    operator = with_singular(torch.from_numpy(values), m, n, generator=generator)
    return Known("rank_deficient", operator, values, "κ is infinite, 10 on the range", 2 * ORTHOGONAL)


def row_scaled(m: int = 60, n: int = 90, *, decades: float = 16.0, generator: torch.Generator | None = None) -> Known:
    """Return ``diag(d) Q`` with orthonormal rows of Q ``[m n]``, m ≤ n, and d from 10^(decades/2) down to its inverse.

    >>> row_scaled(3, 3, decades=2).singular_values
    array([10. ,  1. ,  0.1])
    """
    if m > n:
        raise ValueError(f"row_scaled: expected m ≤ n, for the rows are orthogonal; got {m}×{n}")
    values = np.logspace(decades / 2, -decades / 2, m)
    rows = Stretch(torch.ones(m, dtype=torch.float64), m, n) @ rotation(n, generator=generator)
    trap = "badly weighted equations: row scaling is all that κ consists of"
    return Known("row_scaled", Diagonal(torch.from_numpy(values)) @ rows, values, trap, ORTHOGONAL)


def column_scaled(
    m: int = 90, n: int = 60, *, decades: float = 16.0, generator: torch.Generator | None = None
) -> Known:
    """Return ``Q diag(d)`` with orthonormal columns of Q ``[m n]``, m ≥ n: the adjoint of :func:`row_scaled`.

    >>> column_scaled(3, 3, decades=2).singular_values
    array([10. ,  1. ,  0.1])
    """
    if m < n:
        raise ValueError(f"column_scaled: expected m ≥ n, for the columns are orthogonal; got {m}×{n}")
    known = row_scaled(n, m, decades=decades, generator=generator)
    trap = "badly scaled parameters: Jacobi's diagonal is all that is needed"
    return Known("column_scaled", known.operator.H, known.values, trap, ORTHOGONAL)


def dead_units(m: int = 100, n: int = 80, *, rank: int = 50, generator: torch.Generator | None = None) -> Known:
    """Return an ``[m n]`` operator of ``rank`` singular values in ``[0.1, 1]``, its other rows and columns zero.

    >>> dead_units(3, 2, rank=1).operator.dense()
    tensor([[1., 0.],
            [0., 0.],
            [0., 0.]], dtype=torch.float64)
    """
    values = torch.linspace(1, 0.1, rank, dtype=torch.float64)
    ones = torch.ones(rank, dtype=torch.float64)
    core = with_singular(values, rank, rank, generator=generator)
    operator = Stretch(ones, m, rank) @ core @ Stretch(ones, rank, n)
    padded = np.concatenate([values.numpy(), np.zeros(min(m, n) - rank)])
    return Known("dead_units", operator, padded, "zero rows and columns; 1/diagonal is infinite", 2 * ORTHOGONAL)
