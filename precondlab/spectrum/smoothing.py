"""Axes on which densities are drawn, and densities smoothed there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["Axis", "Smoothed"]

Axis = Literal["linear", "log", "symlog"]
WIDTHS: dict[Axis, float] = {"linear": 0.01, "log": 0.1, "symlog": 0.1}  # of the range; decades


@dataclass(frozen=True, eq=False)
class Smoothed:
    """A density convolved with a Gaussian, on some axis t(λ).

    Attributes
    ----------
    x
        Eigenvalues at which the density is given ``[p]``.
    density, stderr
        Share of the eigenvalues per unit of t, and its standard error ``[p]``. Two of them hold the truth in 93 to
        97 % of runs with ten probes, as measured for :class:`Density`, but in 76 to 97 % with one.
    width
        Standard deviation of the Gaussian, in units of t.
    axis
        ``"linear"``: t = λ; ``"log"``: t = log₁₀ λ; ``"symlog"``: t = sign λ · log₁₀(1 + |λ|/τ).
    threshold
        τ; on a log axis the smallest eigenvalue shown.
    outside
        Share of the eigenvalues that the axis cannot show: those ≤ τ on a log axis.
    """

    x: np.ndarray
    density: np.ndarray
    stderr: np.ndarray
    width: float
    axis: Axis
    threshold: float
    outside: float

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}


def coordinate(x: np.ndarray, axis: Axis, threshold: float) -> np.ndarray:
    """Return t(x); −∞ where a log axis cannot show x.

    >>> coordinate(np.array([-1.0, 1.0, 100.0]), "log", 1e-3)
    array([-inf,   0.,   2.])
    """
    if axis == "linear":
        return x
    if axis == "symlog":
        return np.sign(x) * np.log10(1 + np.abs(x) / threshold)
    return np.log10(np.where(x > threshold, x, 1.0)) + np.where(x > threshold, 0.0, -np.inf)


def eigenvalue(t: np.ndarray, axis: Axis, threshold: float) -> np.ndarray:
    """Return the x with t(x) = t.

    >>> eigenvalue(coordinate(np.array([-1.0, 3.0]), "symlog", 0.5), "symlog", 0.5).round(12)
    array([-1.,  3.])
    """
    if axis == "linear":
        return t
    return 10**t if axis == "log" else np.sign(t) * threshold * (10 ** np.abs(t) - 1)
