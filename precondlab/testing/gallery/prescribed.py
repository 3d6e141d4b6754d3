"""Symmetric operators with a chosen spectrum: diagonal, or rotated at random if a generator is given."""

from __future__ import annotations

import numpy as np
import torch

from precondlab.operators.gram import Gram
from precondlab.testing.gallery.factors import ORTHOGONAL, with_eigenvalues, with_singular
from precondlab.testing.gallery.known import Known

__all__ = [
    "clusters",
    "indefinite",
    "isolated_smallest",
    "loguniform",
    "noise_floor",
    "power",
    "singular",
    "strakos",
    "tight_pair",
    "wide_gap",
]


def strakos(
    n: int = 48,
    *,
    smallest: float = 1e-3,
    largest: float = 1.0,
    rho: float = 0.8,
    generator: torch.Generator | None = None,
) -> Known:
    """Return Strakoš' spectrum ``λᵢ = λ₁ + (i-1)/(n-1) (λₙ - λ₁) ρⁿ⁻ⁱ``, dense at the small end.

    Strakoš 1991, doi:10.1016/0024-3795(91)90393-B.

    >>> strakos(3, smallest=1.0, largest=2.0, rho=0.5).eigenvalues
    array([2.  , 1.25, 1.  ])
    """
    i = np.arange(1, n + 1)
    values = smallest + (i - 1) / max(n - 1, 1) * (largest - smallest) * rho ** (n - i)
    return _prescribed("strakos", values, "ghosts: Lanczos without reorthogonalization, delayed CG", generator)


def power(n: int = 100, *, exponent: float = 4.0, generator: torch.Generator | None = None) -> Known:
    """Return ``λᵢ = i⁻ᵃ``: the decay of tangent kernels, with exponent a.

    >>> power(3, exponent=1).eigenvalues
    array([1.        , 0.5       , 0.33333333])
    """
    return _prescribed("power", np.arange(1, n + 1.0) ** -exponent, "Ritz values stop far above λₙ", generator)


def loguniform(n: int = 100, *, condition: float = 1e8, generator: torch.Generator | None = None) -> Known:
    """Return eigenvalues at equal distances on the logarithmic axis, from 1 down to ``1/condition``.

    >>> loguniform(3, condition=100).eigenvalues
    array([1.  , 0.1 , 0.01])
    """
    return _prescribed("loguniform", np.geomspace(1, 1 / condition, n), "Ritz values stop far above λₙ", generator)


def clusters(
    n: int = 100, *, condition: float = 1e6, width: float = 1e-10, generator: torch.Generator | None = None
) -> Known:
    """Return two clusters of n/2 eigenvalues, below 1 and above ``1/condition``, of relative width ``width``.

    >>> clusters(4, condition=10, width=0.5).eigenvalues
    array([1.  , 0.5 , 0.15, 0.1 ])
    """
    top, low = np.linspace(1, 1 - width, n - n // 2), np.linspace(1 + width, 1, n // 2) / condition
    return _prescribed("clusters", np.concatenate([top, low]), "two steps look like convergence", generator)


def isolated_smallest(n: int = 100, *, smallest: float = 1e-7, generator: torch.Generator | None = None) -> Known:
    """Return n-1 eigenvalues in ``[½, 1]`` and a single one far below.

    >>> isolated_smallest(3, smallest=1e-3).eigenvalues
    array([1.   , 0.5  , 0.001])
    """
    values = np.append(np.linspace(1, 0.5, n - 1), smallest)
    return _prescribed("isolated_smallest", values, "residual intervals are right to κε, not better", generator)


def tight_pair(n: int = 100, *, gap: float = 1e-10, generator: torch.Generator | None = None) -> Known:
    """Return ``1`` and ``1 - gap`` at the top, the other eigenvalues in ``[0.1, 0.9]``.

    >>> tight_pair(4, gap=0.01).eigenvalues
    array([1.  , 0.99, 0.9 , 0.1 ])
    """
    values = np.concatenate([[1, 1 - gap], np.linspace(0.9, 0.1, n - 2)])
    return _prescribed("tight_pair", values, "two eigenvalues taken for one; mixed eigenvectors", generator)


def wide_gap(n: int = 100, *, rank: int = 10, ratio: float = 1e-6, generator: torch.Generator | None = None) -> Known:
    """Return ``rank`` eigenvalues in ``[½, 1]`` and the others in ``ratio · [½, 1]``.

    >>> wide_gap(4, rank=2, ratio=0.1).eigenvalues
    array([1.  , 0.5 , 0.1 , 0.05])
    """
    values = np.concatenate([np.linspace(1, 0.5, rank), ratio * np.linspace(1, 0.5, n - rank)])
    return _prescribed("wide_gap", values, "looks like low rank; the tail decides κ", generator)


def singular(n: int = 100, *, rank: int = 60, generator: torch.Generator | None = None) -> Known:
    """Return ``rank`` eigenvalues in ``[0.1, 1]`` and exact zeros.

    >>> singular(3, rank=2).eigenvalues
    array([1. , 0.1, 0. ])
    """
    values = np.concatenate([np.linspace(1, 0.1, rank), np.zeros(n - rank)])
    return _prescribed("singular", values, "κ is infinite, 10 on the range; zeros arrive as round-off", generator)


def indefinite(n: int = 100, *, negative: int = 30, generator: torch.Generator | None = None) -> Known:
    """Return eigenvalues in ``[0.1, 1]`` and ``negative`` of them in ``[-1, -0.1]``.

    >>> indefinite(3, negative=1).eigenvalues
    array([ 1. ,  0.1, -1. ])
    """
    values = np.concatenate([np.linspace(1, 0.1, n - negative), -np.linspace(1, 0.1, negative)])
    return _prescribed("indefinite", values, "CG converges by luck; λ_max/λ_min is not κ", generator)


def noise_floor(
    m: int = 150, n: int = 100, *, decades: float = 24.0, generator: torch.Generator | None = None
) -> Known:
    """Return ``JᵀJ`` as physics-informed networks have it: geometric decay over ``decades``, half below round-off.

    >>> noise_floor(3, 3, decades=4).eigenvalues
    array([1.e+00, 1.e-02, 1.e-04])
    """
    s = np.logspace(0, -decades / 2, n)
    J = with_singular(torch.from_numpy(s), m, n, generator=generator)
    trap = "most eigenvalues are below the round-off of a product; half of them are seen through J"
    return Known("noise_floor", Gram(J), s**2, trap, 3 * ORTHOGONAL)


def _prescribed(name: str, values: np.ndarray, trap: str, generator: torch.Generator | None) -> Known:
    values = np.sort(values)[::-1].copy()
    operator = with_eigenvalues(torch.from_numpy(values.copy()), generator=generator)
    return Known(name, operator, values, trap, 0.0 if generator is None else ORTHOGONAL)
