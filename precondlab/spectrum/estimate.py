"""A number known by sampling: its value, its standard error, and what is left of other errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from scipy.special import stdtrit
from torch import Tensor

__all__ = ["Estimate"]

T = TypeVar("T", float, np.ndarray, Tensor)


@dataclass(frozen=True, eq=False)
class Estimate(Generic[T]):
    """A number (or an array of them) estimated from random probes.

    Attributes
    ----------
    value
        The estimate.
    stderr
        Its standard error: the sampling error alone.
    lower, upper
        Bracket of the average over the probes drawn, where each probe is known by quadrature only; both
        equal the value where a probe is evaluated exactly.
    degrees
        Degrees of freedom behind the standard error, one number or one for each value.
    num_matvecs
        Products with the operator used.

    >>> print(Estimate(10.0, 0.5, 10.0, 10.0, math.inf, 20))
    10 ± 0.5 (20 products)
    """

    value: T
    stderr: T
    lower: T
    upper: T
    degrees: float | np.ndarray
    num_matvecs: int

    def interval(self, level: float = 0.95) -> tuple[T, T]:
        """Return the two-sided confidence interval, by Student's distribution around the bracket.

        >>> low, high = Estimate(0.0, 1.0, 0.0, 0.0, math.inf, 20).interval(0.95)
        >>> round(low, 3), round(high, 3)
        (-1.96, 1.96)
        """
        if not 0 < level < 1:
            raise ValueError(f"interval: expected a level between 0 and 1, got {level}; 0.95 is usual")
        factor: Any = stdtrit(self.degrees, 0.5 + level / 2)
        factor = factor if isinstance(self.degrees, np.ndarray) else float(factor)
        return self.lower - factor * self.stderr, self.upper + factor * self.stderr

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON; infinities become None."""
        names = ("value", "stderr", "lower", "upper", "degrees", "num_matvecs")
        return {name: _plain(getattr(self, name)) for name in names}

    def __str__(self) -> str:
        if isinstance(self.value, np.ndarray | Tensor):
            return f"Estimate of {tuple(self.value.shape)} numbers ({self.num_matvecs} products)"
        bracket = "" if self.lower == self.upper else f", bracket [{self.lower:.6g}, {self.upper:.6g}]"
        return f"{self.value:.6g} ± {self.stderr:.2g} ({self.num_matvecs} products{bracket})"


def jackknife(function: Callable[..., float], *samples: np.ndarray, num_matvecs: int) -> Estimate[float]:
    """Return a function of the means of k ≥ 2 samples, with the standard error from leaving one out at a time.

    Reference: Efron & Stein (1981), doi:10.1214/aos/1176345462: the error is too large on average, if anything.

    >>> print(jackknife(lambda mean: mean, np.array([1.0, 2.0, 3.0]), num_matvecs=3))  # that of the mean, 1/√3
    2 ± 0.58 (3 products)
    """
    k, value = len(samples[0]), float(function(*(x.mean() for x in samples)))
    stderr = math.inf
    if math.isfinite(value):
        left_out = np.array([function(*((x.sum() - x[i]) / (k - 1) for x in samples)) for i in range(k)])
        stderr = float(((k - 1) * left_out.var()) ** 0.5)
    return Estimate(value, stderr, value, value, k - 1, num_matvecs)


def exact(value: float, num_matvecs: int) -> Estimate[float]:
    """Return a number that is known to round-off."""
    return Estimate(value, 0.0, value, value, math.inf, num_matvecs)


def _plain(value: float | int | np.ndarray | Tensor) -> object:
    if isinstance(value, (int, float)):
        return value if math.isfinite(value) else None
    return [_plain(entry) for entry in value.tolist()]
