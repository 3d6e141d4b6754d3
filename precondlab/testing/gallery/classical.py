"""Symmetric matrices of the literature with spectra in closed form or from a well-conditioned factor."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import linalg
from scipy.sparse.linalg import LaplacianNd

from precondlab.operator import Operator
from precondlab.operators.gram import Gram, Kernel
from precondlab.operators.structured import Dense, Diagonal, Identity, LowRank
from precondlab.space import Space
from precondlab.testing.gallery.factors import Banded, Declared, Difference
from precondlab.testing.gallery.known import Known

__all__ = [
    "biharmonic1d",
    "clement",
    "hilbert",
    "lehmer",
    "mikota",
    "neumann",
    "pascal",
    "pei",
    "poisson1d",
    "rosser",
    "wilkinson",
]

_EPS = np.finfo(float).eps


def poisson1d(n: int = 100) -> Known:
    """Return ``tridiag(-1, 2, -1) = JᵀJ`` with J of differences; ``λₖ = 4 sin²(kπ / 2(n+1))``.

    >>> poisson1d(2).eigenvalues
    array([3., 1.])
    """
    return Known("poisson1d", Gram(Difference(Space(n))), _laplace(n), "none: the baseline", 4 * _EPS)


def biharmonic1d(n: int = 100) -> Known:
    """Return Sakurai's matrix: ``tridiag(-1, 2, -1)`` squared, ``λₖ = 16 sin⁴(kπ / 2(n+1))``.

    Sakurai et al. 2004, "A moment-based method for large-scale generalized eigenvalue problems".

    >>> biharmonic1d(2).eigenvalues
    array([9., 1.])
    """
    main = torch.full((n,), 6.0, dtype=torch.float64)
    main[0] = main[-1] = 5.0
    operator = Banded(main, torch.full_like(main[1:], -4.0), torch.ones_like(main[2:]), positive=True)
    return Known("biharmonic1d", operator, _laplace(n) ** 2, "κ grows like n⁴", 8 * _EPS)


def neumann(n: int = 12) -> Known:
    """Return SciPy's ``-LaplacianNd`` on ``n × n`` points with Neumann conditions: one zero, equal pairs.

    ``λ = 4 sin²(jπ/2n) + 4 sin²(kπ/2n)`` for j, k = 0 … n-1.

    >>> neumann(2).eigenvalues
    array([4., 2., 2., 0.])
    """
    one = 4 * np.sin(np.arange(n) * (math.pi / (2 * n))) ** 2
    laplacian = LaplacianNd((n, n), boundary_conditions="neumann", dtype=np.float64)  # pyright: ignore[reportArgumentType]
    operator = Declared(-laplacian, positive=True)
    values = _descending((one[:, None] + one[None, :]).ravel())
    return Known("neumann", operator, values, "singular: constants; multiplicity 2", 8 * _EPS)


def clement(n: int = 21) -> Known:
    """Return the Kac–Sylvester–Clement matrix: off-diagonal ``√(i(n-i))``, eigenvalues ``n-1, n-3, …, 1-n``.

    Clement 1959, doi:10.1137/1001006.

    >>> clement(3).eigenvalues
    array([ 2.,  0., -2.])
    """
    i = torch.arange(1, n, dtype=torch.float64)
    operator = Banded(torch.zeros(n, dtype=torch.float64), (i * (n - i)).sqrt())
    return Known("clement", operator, np.arange(n - 1.0, -n, -2), "indefinite in pairs ±λ; zero for odd n", n * _EPS)


def wilkinson(n: int = 21) -> Known:
    """Return Wilkinson's ``W⁺``: diagonal ``|i - (n-1)/2|``, off-diagonal 1.

    The two largest eigenvalues of W21⁺ are 10.746194182903 and differ by 7.1e-14.

    >>> top, second = wilkinson().eigenvalues[:2]
    >>> round(float(top), 10), bool(0 < top - second < 1e-13)
    (10.7461941829, True)
    """
    main = np.abs(np.arange(n) - (n - 1) / 2)
    values = _descending(np.asarray(linalg.eigvalsh_tridiagonal(main, np.ones(n - 1))))
    operator = Banded(torch.from_numpy(main), torch.ones(n - 1, dtype=torch.float64))
    return Known("wilkinson", operator, values, "pairs that agree to 14 digits; one negative eigenvalue", 1e-13)


def pei(n: int = 50, *, alpha: float = 1.0) -> Known:
    """Return ``αI + 11ᵀ`` with eigenvalues ``n + α`` and α (n-1 times).

    >>> pei(3).eigenvalues
    array([4., 1., 1.])
    """
    space = Space(n)
    ones = torch.ones(n, 1, dtype=torch.float64)
    operator = alpha * Identity(space) + LowRank(ones, ones[0])
    values = np.append(n + alpha, np.full(n - 1, alpha))
    return Known("pei", operator, values, "a vector sees one of n-1 equal eigenvalues", _EPS)


def rosser() -> Known:
    """Return Rosser's matrix: a double eigenvalue, three nearly equal, a zero, and two of opposite sign.

    Rosser et al. 1951, doi:10.6028/jres.047.037.

    >>> [float(value) for value in rosser().eigenvalues[1:5]]
    [1020.0, 1019.90..., 1000.0, 1000.0]
    """
    rows = [
        [611, 196, -192, 407, -8, -52, -49, 29],
        [196, 899, 113, -192, -71, -43, -8, -44],
        [-192, 113, 899, 196, 61, 49, 8, 52],
        [407, -192, 196, 611, 8, 44, 59, -23],
        [-8, -71, 61, 8, 411, -599, 208, 208],
        [-52, -43, 49, 44, -599, 411, 208, 208],
        [-49, -8, 8, 59, 208, 208, 99, -911],
        [29, -44, 52, -23, 208, 208, -911, 99],
    ]
    top, high = 10 * math.sqrt(10405), 510 + 100 * math.sqrt(26)
    values = np.array([top, 1020, high, 1000, 1000, 100 / high, 0, -top])
    operator = Dense(torch.tensor(rows, dtype=torch.float64), symmetric=True)
    return Known("rosser", operator, values, "double eigenvalue, exact zero, near pair, indefinite", 4 * _EPS)


def hilbert(n: int = 8) -> Known:
    """Return the Hilbert matrix ``1/(i+j-1)``; eigenvalues from it and from its exact inverse. κ(8) = 1.53e10.

    Known to ``ε κ``: the entries are rounded. ValueError beyond n = 10, where that is no digit.

    >>> round(hilbert(8).kappa / 1e10, 4)
    1.5258
    """
    if not 1 <= n <= 10:
        raise ValueError(f"hilbert: expected 1 ≤ n ≤ 10, got {n}; larger ones are not known in double precision")
    matrix = linalg.hilbert(n)
    large, small = linalg.eigvalsh(matrix), 1 / linalg.eigvalsh(linalg.invhilbert(n))[::-1]
    values = _descending(np.where(large > math.sqrt(large[-1] * small[0]), large, small))
    operator = Dense(torch.from_numpy(matrix), positive=True)
    return Known("hilbert", operator, values, "a dense solver loses the small end", _EPS * values[0] / values[-1])


def pascal(n: int = 12) -> Known:
    """Return the symmetric Pascal matrix ``LLᵀ`` with its factor; eigenvalues in pairs λ, 1/λ. κ(12) = 8.8e11.

    >>> pascal(2).eigenvalues
    array([2.618034, 0.381966])
    """
    L = np.asarray(linalg.pascal(n, kind="lower"), dtype=float)
    large = np.linalg.svd(L, compute_uv=False)[: n // 2] ** 2
    values = np.concatenate([large, np.ones(n % 2), 1 / large[::-1]])
    return Known("pascal", Kernel(Dense(torch.from_numpy(L))), values, "integers, κ beyond 1/√ε", 1e-9)


def lehmer(n: int = 20) -> Known:
    """Return Lehmer's matrix ``min(i, j) / max(i, j)``: positive, every entry positive, κ(20) = 372.

    >>> lehmer(2).eigenvalues
    array([1.5, 0.5])
    """
    i = np.arange(1.0, n + 1)
    matrix = np.minimum.outer(i, i) / np.maximum.outer(i, i)
    values = _descending(linalg.eigvalsh(matrix))
    operator = Dense(torch.from_numpy(matrix), positive=True)
    return Known("lehmer", operator, values, "none: mild", 4 * n * _EPS * values[0] / values[-1])


def mikota(n: int = 60) -> Known:
    """Return Mikota's vibration chain ``M⁻½KM⁻½``: eigenvalues 1, 4, 9, …, n².

    Mikota 2001, Z. Angew. Math. Mech. 81 (S2), S201–S202.

    >>> mikota(3).eigenvalues
    array([9., 4., 1.])
    """
    i = torch.arange(1, n + 1, dtype=torch.float64)
    K = Banded((2 * i - 1).flip(0), -i[:-1].flip(0), positive=True)
    root: Operator = Diagonal(i.sqrt())
    return Known("mikota", root @ K @ root, np.arange(n, 0.0, -1) ** 2, "κ = n², evenly spaced √λ", 8 * _EPS)


def _laplace(n: int) -> np.ndarray:
    return 4 * np.sin(np.arange(n, 0, -1) * (math.pi / (2 * (n + 1)))) ** 2


def _descending(values: np.ndarray) -> np.ndarray:
    return np.sort(values)[::-1].copy()
