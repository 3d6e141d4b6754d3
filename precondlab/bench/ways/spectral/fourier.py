"""The Poisson problem on (−π, π) in a Fourier basis that is hidden by a rotation, in NumPy; κ in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq

from precondlab.bench.ways.spectral.computation import Budget

__all__ = ["FourierPoisson", "extremes"]

Array = np.ndarray
_REFLECTIONS = 4


class FourierPoisson:
    """``A = RᵀJᵀJR`` with ``J = [diag(0, k², k²); √2 eᵀ]``: Laplacian of 1, cos kx, sin kx, and the value at both ends.

    R is a product of Householder reflections. Frequencies are k = 1 … K, the size is n = 2K + 1.

    Parameters
    ----------
    K
        Largest frequency.
    budget
        Is charged with every product.
    """

    def __init__(self, K: int, budget: Budget) -> None:
        k = np.arange(1.0, K + 1)
        self.size, self.budget = 2 * K + 1, budget
        self.entries = np.concatenate([[0.0], k**2, k**2])
        end = np.concatenate([[(2 * math.pi) ** -0.5], (-1.0) ** k / math.pi**0.5, 0 * k])
        self.condition = math.sqrt(2) * end
        self.near = np.concatenate([[400.0], k**-4, k**-4])
        W = np.random.default_rng(K).standard_normal((_REFLECTIONS, self.size))
        self.reflections = W / np.linalg.norm(W, axis=1, keepdims=True)

    def rotate(self, v: Array) -> Array:
        for w in self.reflections:
            v = v - (2 * (w @ v)) * w
        return v

    def rotate_back(self, v: Array) -> Array:
        for w in self.reflections[::-1]:
            v = v - (2 * (w @ v)) * w
        return v

    def forward(self, v: Array) -> Array:
        """Return ``J R v``, half a product."""
        self.budget.spend(0.5)
        v = self.rotate(np.ravel(v))
        return np.append(self.entries * v, self.condition @ v)

    def backward(self, u: Array) -> Array:
        """Return ``Rᵀ Jᵀ u``, half a product."""
        self.budget.spend(0.5)
        u = np.ravel(u)
        return self.rotate_back(self.entries * u[:-1] + self.condition * u[-1])

    def product(self, v: Array) -> Array:
        """Return ``A v``."""
        return self.backward(self.forward(v))

    def precondition(self, v: Array) -> Array:
        """Return ``Rᵀ diag(400, k⁻⁴, k⁻⁴) R v``, near to ``A⁻¹ v``: the symbol of the Laplacian."""
        return self.rotate_back(self.near * self.rotate(np.ravel(v)))


def extremes(K: int) -> tuple[float, float]:
    """Return the smallest and the largest eigenvalue, to 14 digits.

    Sines have the eigenvalues k⁴. Those of ``diag(0, k⁴) + 2 e eᵀ`` solve
    ``λ (1 + (2/π) Σ_k 1/(k⁴ − λ)) = 1/π``; the smallest lies in (0, 1), the largest above K⁴.

    Reference: Golub (1973), doi:10.1137/1015032.

    >>> [float(f"{largest / smallest:.8g}") for smallest, largest in map(extremes, (200, 1000))]
    [9168749400.0, 5730468400000.0]
    """
    k4 = np.arange(1.0, K + 1) ** 4

    def small(x: float) -> float:
        return x * (1 + 2 / math.pi * math.fsum(1 / (k4 - x))) - 1 / math.pi

    def beyond(x: float) -> float:  # x = λ − K⁴, all terms multiplied by x
        rest = math.fsum(1 / (k4[:-1] - k4[-1] - x))
        return x * (1 + 2 / math.pi * rest - 1 / (math.pi * (k4[-1] + x))) - 2 / math.pi

    smallest, above = _root(small, 0, 1 - 1e-9), _root(beyond, 0, 1 + 2 * K)
    return smallest, float(k4[-1]) + above


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    return float(brentq(function, low, high, xtol=1e-300, rtol=np.float64(1e-15)))  # pyright: ignore[reportArgumentType]
