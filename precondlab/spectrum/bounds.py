"""What a random start vector says about the part of the spectrum that a Krylov space has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaincinv

__all__ = ["beyond", "component_quantile"]

_WIDEST = 1e8  # bounds farther away than this, relative to the Ritz value, are given up


def component_quantile(size: int, failure: float, *, complex: bool = False) -> float:
    """Return δ such that a random unit vector has ``|⟨x, v⟩| ≤ δ`` with probability ``failure``, for any unit x.

    The squared component of a uniformly distributed vector of dimension n is Beta(½, (n−1)/2) distributed,
    Beta(1, n−1) in complex space. A normalized standard normal vector is uniformly distributed.

    >>> round(component_quantile(2, 0.5), 6)  # a random angle: |cos| ≤ cos 45°
    0.707107
    """
    if size == 1:
        return 1.0
    a, b = (1.0, size - 1.0) if complex else (0.5, (size - 1) / 2)
    return float(betaincinv(a, b, failure)) ** 0.5


def beyond(nodes: np.ndarray, couplings: np.ndarray, component: float, *, squared: bool = False) -> tuple[float, float]:
    """Return (lower, upper) bounds on the eigenvalues outside the hull of the Ritz values.

    m Lanczos steps from a unit vector v define the polynomial ``p(x) = Π(x − θ_j) / Π β_j`` with
    ``p(A) v = q_{m+1}`` of norm 1. For any eigenvector, ``|⟨x, v⟩| |p(λ)| ≤ 1``. So if ``|⟨x, v⟩| > δ`` for
    those of the extreme eigenvalues, they lie where ``|p| < 1/δ``. The bounds hold for all m at once on that
    event, so that m may be chosen by looking at them.

    Parameters
    ----------
    nodes
        Ritz values θ_j ``[m]``; with ``squared`` singular values σ_j of a Golub–Kahan bidiagonalization, for
        θ_j = σ_j², and the bounds returned are on singular values.
    couplings
        β_1 … β_m, or α_j β_j for Golub–Kahan.
    component
        δ, as from :func:`component_quantile`.

    Reference: Hochstenbach (2013), doi:10.1553/etna_vol40s100; van Dorsselaer, Hochstenbach & van der
    Vorst (2001), doi:10.1137/S0895479899358400.

    >>> lower, upper = beyond(np.array([1.0]), np.array([1.0]), 0.5)  # p(x) = x − 1, so |λ − 1| ≤ 2
    >>> round(lower, 9), round(upper, 9)
    (-1.0, 3.0)
    """
    if (couplings == 0).any():
        return float(nodes.min()), float(nodes.max())
    level = -math.log(component) + float(np.log(couplings).sum())
    largest, smallest = float(nodes.max()), float(nodes.min())
    scale = max(abs(largest), abs(smallest))

    def excess(x: float) -> float:
        factors = np.abs(x - nodes) * ((x + nodes) if squared else 1.0)
        with np.errstate(divide="ignore"):
            return float(np.log(factors).sum()) - level

    upper = _cross(lambda gap: excess(largest + gap), scale)
    lower = _cross(lambda gap: excess(smallest - gap), smallest if squared else scale, limited=squared)
    return smallest - lower, largest + upper


def _cross(excess: Callable[[float], float], scale: float, *, limited: bool = False) -> float:
    """Return the gap at which an increasing function of it crosses zero, searched on a logarithmic axis."""
    low, high = math.log(scale * 1e-18 + 1e-300), math.log(scale * (1.0 if limited else _WIDEST))
    if excess(math.exp(high)) < 0:
        return scale if limited else math.inf
    if excess(math.exp(low)) > 0:
        return math.exp(low)
    found: float = brentq(lambda t: max(excess(math.exp(t)), -1e3), low, high, xtol=1e-6)  # pyright: ignore[reportAssignmentType]
    return math.exp(found + 2e-6)
