"""Spectral densities: how many eigenvalues lie where, with error bars."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator

from precondlab.errors import NotSymmetric
from precondlab.krylov import Tridiagonalization
from precondlab.krylov.checks import repeat_error, require_integer, require_symmetric
from precondlab.krylov.probes import spherical, tridiagonalize
from precondlab.operator import Operator, as_operator
from precondlab.space import Space
from precondlab.spectrum.estimate import Estimate
from precondlab.spectrum.quadrature import Rule, gauss
from precondlab.spectrum.smoothing import WIDTHS, Axis, Smoothed, coordinate, eigenvalue

__all__ = ["Density", "spectral_density"]


@dataclass(frozen=True, eq=False)
class Density:
    """The eigenvalue distribution φ of a symmetric operator, seen from random probes.

    A probe q, uniform on the unit sphere, gives a quadrature rule with ``E qᴴf(A)q = ∫ f dφ =
    tr f(A)/n``, exactly for polynomials up to :attr:`degree`. Its variance is known in closed form:
    ``2/(n+2)`` times the variance of f under φ (``1/(n+1)`` for complex operators), which is what every
    standard error here is made of; one probe is enough to have one. That variance is estimated from the same nodes,
    by Satterthwaite's rule with ``n(∫g dφ)²/∫g² dφ`` degrees of freedom per probe, ``g = (f − ∫f dφ)²``, one at
    least: as many as eigenvalues contribute. For 13 spectra (flat, powers, exponential, spikes, low rank, clusters;
    n = 120) intervals of 95 % held in 95 to 100 % of 300 runs with one probe, where they are up to 6.7 root mean square
    errors to each side, and in 91 to 100 % with three and ten, where they are 1.9 to 3.8.

    Attributes
    ----------
    rules
        One quadrature rule per probe.
    size
        Number of eigenvalues n.
    tolerance
        Error of the nodes by round-off and by the noise of the products.
    spread
        2/(n+2) or 1/(n+1).
    num_matvecs
        Products used.
    """

    rules: tuple[Rule, ...]
    size: int
    tolerance: float
    spread: float
    num_matvecs: int

    @property
    def degree(self) -> float:
        """Polynomials of this degree and below have exact expectations."""
        return min(rule.degree for rule in self.rules)

    @property
    def nodes(self) -> np.ndarray:
        """Nodes of all probes."""
        return np.concatenate([rule.nodes for rule in self.rules])

    @property
    def weights(self) -> np.ndarray:
        """Weights of all probes; they sum to one."""
        return np.concatenate([rule.weights for rule in self.rules]) / len(self.rules)

    def trace(self, function: Callable[[np.ndarray], np.ndarray], /) -> Estimate[float]:
        """Estimate ``tr f(A)`` by quadrature; unbiased for polynomials up to :attr:`degree`."""
        (mean,), (stderr,), (degrees,) = self._mean(np.asarray(function(self.nodes), dtype=np.float64)[None])
        value = self.size * float(mean)
        return Estimate(value, self.size * float(stderr), value, value, float(degrees), self.num_matvecs)

    def moments(self, order: int, /) -> tuple[Estimate[float], ...]:
        """Estimate ``tr A⁰, …, tr A^order`` without bias.

        Raises ValueError for an order above :attr:`degree`.
        """
        if not 0 <= order <= self.degree:
            raise ValueError(
                f"moments: expected an order between 0 and {self.degree}, up to which they are unbiased, got {order}; "
                "take more Lanczos steps (num_matvecs)"
            )
        return tuple(self.trace(lambda x, k=k: x**k) for k in range(order + 1))

    def count(self, a: float = -math.inf, b: float = math.inf, /) -> Estimate[float]:
        """Estimate how many eigenvalues lie in [a, b].

        The bracket is that of Chebyshev, Markov and Stieltjes, averaged over the probes: it holds the exact
        average of the probes; the standard error is the sampling error beyond it.
        """
        if not a <= b:
            raise ValueError(f"count: expected a ≤ b, got [{a}, {b}]")
        inside = (self.nodes >= a - self.tolerance) & (self.nodes <= b + self.tolerance)
        low, high = np.mean([_between(rule, a, b, self.tolerance) for rule in self.rules], axis=0)
        (mean,), (stderr,), (degrees,) = self._mean(inside[None].astype(np.float64))
        value, low, high, stderr = (self.size * float(x) for x in (np.clip(mean, low, high), low, high, stderr))
        return Estimate(value, stderr, low, high, float(degrees), self.num_matvecs)

    def cumulative(self, x: np.ndarray | list[float], /) -> Estimate[np.ndarray]:
        """Estimate the counting function: the number of eigenvalues ≤ each x ``[p]``, with a bracket as in `count`."""
        x = np.asarray(x, dtype=np.float64)
        bounds = np.array([[rule.bounds(y, tolerance=self.tolerance) for y in x] for rule in self.rules]).mean(0)
        mean, stderr, degrees = self._mean((self.nodes <= x[:, None] + self.tolerance).astype(np.float64))
        low, high, n = bounds[:, 0], bounds[:, 1], self.size
        return Estimate(n * np.clip(mean, low, high), n * stderr, n * low, n * high, degrees, self.num_matvecs)

    def smooth(
        self,
        x: np.ndarray | None = None,
        /,
        *,
        axis: Axis = "linear",
        width: float | None = None,
        threshold: float | None = None,
        num_points: int = 400,
    ) -> Smoothed:
        """Return the density convolved with a Gaussian of the given width.

        Parameters
        ----------
        x
            Eigenvalues at which to evaluate; by default ``num_points`` over the whole spectrum.
        axis
            See :class:`Smoothed`.
        width
            Standard deviation in units of t; by default 1 % of the range, or a tenth of a decade.
        threshold
            τ; by default the round-off of the nodes (log) or 1e-6 of the largest |node| (symlog).
        """
        if axis not in WIDTHS:
            raise ValueError(f"smooth: expected axis={' or '.join(map(repr, WIDTHS))}, got {axis!r}")
        nodes, weights = self.nodes, self.weights
        largest = float(np.abs(nodes).max())
        if threshold is None:
            threshold = max(self.tolerance, 1e-6 * largest if axis == "symlog" else 0.0, 1e-300)
        if axis == "log" and not (nodes > threshold).any():
            raise ValueError(
                f"smooth: no node of the density is above {threshold:.3g}, the smallest eigenvalue that a log axis "
                "shows; use axis='symlog' or 'linear'"
            )
        t = coordinate(nodes, axis, threshold)
        shown = np.isfinite(t)
        first, last = t[shown].min(), t[shown].max()
        span = (last - first or max(largest, 1.0)) if axis == "linear" else 1.0
        sigma = float(WIDTHS[axis] * span if width is None else width)
        if not sigma > 0:
            raise ValueError(f"smooth: expected a width > 0, got {width}")
        if x is None:
            at = np.linspace(first - 4 * sigma, last + 4 * sigma, num_points)
            x = eigenvalue(at, axis, threshold)
        else:
            x = np.asarray(x, dtype=np.float64)
            at = coordinate(x, axis, threshold)
        distance = (at[:, None] - np.where(shown, t, math.inf)) / sigma
        density, stderr, _ = self._mean(np.exp(-0.5 * distance**2) / (sigma * math.sqrt(2 * math.pi)))
        return Smoothed(x, density, stderr, sigma, axis, threshold, float(weights[~shown].sum()))

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON: nodes and weights by probe."""
        return {
            "nodes": [rule.nodes.tolist() for rule in self.rules],
            "weights": [rule.weights.tolist() for rule in self.rules],
            "size": self.size,
            "degree": self.degree if math.isfinite(self.degree) else None,
            "tolerance": self.tolerance,
            "num_matvecs": self.num_matvecs,
        }

    def __str__(self) -> str:
        nodes = self.nodes
        return (
            f"density of {self.size} eigenvalues on [{nodes.min():.6g}, {nodes.max():.6g}] "
            f"({len(self.rules)} probes, {self.num_matvecs} products)"
        )

    def _mean(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return mean, standard error and degrees of freedom of functions given at the nodes ``[p nodes]``."""
        weights, probes = self.weights, len(self.rules)
        mean = values @ weights
        squares = (values - mean[:, None]) ** 2
        variance, fourth = squares @ weights, squares**2 @ weights
        shares = np.divide(variance**2, fourth, out=np.full_like(mean, math.inf), where=fourth > 0)
        return mean, np.sqrt(self.spread * variance / probes), probes * np.maximum(self.size * shares, 1)


def spectral_density(
    A: LinearOperator,
    /,
    *,
    num_matvecs: int = 80,
    num_probes: int = 10,
    reorthogonalize: bool = False,
    generator: torch.Generator | None = None,
) -> Density:
    """Estimate the eigenvalue distribution of a symmetric operator by stochastic Lanczos quadrature.

    Each probe's rule is exact for polynomials of degree ≤ 2 num_matvecs − 1: the first moments of the
    density are unbiased, and the distribution functions of probe and rule cross at every node. Isolated
    eigenvalues are resolved sharply; a bulk appears as about num_matvecs nodes.

    Parameters
    ----------
    A
        Symmetric operator, or SciPy's.
    num_matvecs
        Lanczos steps: products per probe.
    num_probes
        Random start vectors; errors fall like 1/√(n num_probes).
    reorthogonalize
        Keep the whole basis. Densities do not need it.
    generator
        For the probes.

    Raises
    ------
    NotSymmetric
        If A is not symmetric, declared or not.
    Breakdown
        If a product is not finite.

    Cost: num_matvecs · num_probes products, num_probes at once, and 2 to 5 where the recurrence shows noise or
    asymmetry; memory 3 num_probes vectors.
    Reference: Ubaru, Chen & Saad (2017), doi:10.1137/16M1104974.

    >>> from precondlab.operators import Diagonal
    >>> A = Diagonal(torch.tensor([1.0, 1.0, 1.0, 5.0], dtype=torch.float64))
    >>> d = spectral_density(A, num_matvecs=4, num_probes=1)
    >>> print(d.count(), d.nodes.round(6))  # the Krylov space is exhausted after two steps
    4 ± 0 (2 products) [1. 5.]
    """
    A = probed(A, "spectral_density", num_matvecs, num_probes)
    before = A.num_matvecs
    starts = spherical(A.domain, num_probes, generator=generator)
    tridiagonals = tridiagonalize(A, starts, num_steps=num_matvecs, reorthogonalize=reorthogonalize)
    rules, error = tuple(gauss(T) for T in tridiagonals), noise(A, tridiagonals)
    return of_rules(A.domain, rules, A.num_matvecs - before, noise=error)


def noise(A: Operator, tridiagonals: list[Tridiagonalization]) -> float:
    """Return the error of the nodes of Lanczos rules by the noise of the products, once a defect suggests one.

    Raises NotSymmetric where the defect is one of symmetry.
    """
    defect, steps = max(T.defect for T in tridiagonals), max(len(T.diagonal) for T in tridiagonals)
    scale = max(float(np.abs(T.eigh()[0]).max()) for T in tridiagonals)
    if defect <= 10 * A.domain.eps * steps**0.5 * scale:
        return 0.0
    if defect > A.domain.eps**0.5 * scale:
        require_symmetric(A)
    return 3 * steps**0.5 * min(defect, repeat_error(A) * scale)


def of_rules(space: Space, rules: tuple[Rule, ...], num_matvecs: int, *, noise: float = 0.0) -> Density:
    """Return the density of quadrature rules of uniform probes."""
    tolerance = max(rule.round_off(space.eps) for rule in rules) + noise
    spread = 1 / (space.size + 1) if space.dtype.is_complex else 2 / (space.size + 2)
    return Density(rules, space.size, tolerance, spread, num_matvecs)


def probed(A: LinearOperator, who: str, num_matvecs: int, num_probes: int) -> Operator:
    """Return A as an operator after checking it and the numbers of products and probes."""
    require_integer(who, "num_matvecs", num_matvecs)
    require_integer(who, "num_probes", num_probes)
    return symmetric(A, who)


def symmetric(A: LinearOperator, who: str) -> Operator:
    """Return A as an operator; unless it is declared symmetric, three products find out whether it is."""
    A = as_operator(A)
    if A.shape[0] != A.shape[1]:
        raise NotSymmetric(f"{who}: expected a symmetric operator, got {A!r} of shape {A.shape}; take pl.Gram of it")
    if not A.symmetric:
        require_symmetric(A)
    return A


def _between(rule: Rule, a: float, b: float, tolerance: float) -> tuple[float, float]:
    if a == -math.inf:
        return rule.bounds(b, tolerance=tolerance)
    (a_low, a_high), (b_low, b_high) = rule.bounds(a, tolerance=tolerance), rule.bounds(b, tolerance=tolerance)
    lower = max(b_low - a_high, 0.0)
    return lower, max(b_high - a_low, lower)
