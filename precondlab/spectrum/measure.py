"""The measure training sees: eigenvalues weighted by how much of the residual they carry."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.krylov import Tridiagonalization, lanczos
from precondlab.krylov.checks import require_integer
from precondlab.operators import Gram, Kernel
from precondlab.spectrum.density import noise, symmetric
from precondlab.spectrum.quadrature import Rule, gauss, lobatto

__all__ = ["Measure", "Share", "spectral_measure"]


@dataclass(frozen=True)
class Share:
    """A share of the mass of a measure, between 0 and 1 (above 1 where training diverges).

    Attributes
    ----------
    value
        The Gauss rule's.
    lower, upper
        Bounds, up to round-off.

    >>> print(Share(0.5, 0.25, 0.75))
    0.5 in [0.25, 0.75]
    """

    value: float
    lower: float
    upper: float

    def to_dict(self) -> dict[str, float | None]:
        """Return plain values for JSON; infinity becomes None."""
        return {name: number if math.isfinite(number) else None for name, number in vars(self).items()}

    def __str__(self) -> str:
        return f"{self.value:.6g} in [{self.lower:.6g}, {self.upper:.6g}]"


@dataclass(frozen=True, eq=False)
class Measure:
    """The spectral measure ``μ = Σ |⟨u_i, v⟩|² δ(λ_i)`` of a symmetric operator at a vector v, by its Gauss rule.

    With ``K = JJᵀ`` and v the residual r, eigenvalue λ carries the share of the loss ``½‖r‖²`` that gradient
    descent reduces by the factor ``(1 − ηλ)²`` per step. With ``A = JᵀJ`` and the gradient it is the
    share of ``‖∇L‖²``.

    Attributes
    ----------
    nodes, weights
        Ritz values, ascending, and the mass each carries; the weights sum to :attr:`mass`.
    residuals
        An eigenvalue lies within this distance of each node.
    mass
        ``‖v‖²``: twice the loss where v is the residual.
    degree
        Polynomials of this degree and below are integrated exactly: 2m − 1 after m steps, infinite if the
        Krylov space is exhausted.
    tolerance
        Error of the nodes by round-off and by the noise of the products.
    num_matvecs
        Products used.
    """

    tridiagonal: Tridiagonalization
    rule: Rule
    positive: bool
    tolerance: float
    num_matvecs: int

    @property
    def nodes(self) -> np.ndarray:
        return self.rule.nodes

    @property
    def weights(self) -> np.ndarray:
        return self.mass * self.rule.weights

    @property
    def residuals(self) -> np.ndarray:
        return self.rule.residuals

    @property
    def mass(self) -> float:
        return self.tridiagonal.norm**2

    @property
    def degree(self) -> float:
        return self.rule.degree

    def fraction(self, a: float = -math.inf, b: float = math.inf, /) -> Share:
        """Return the share of the mass carried by eigenvalues in [a, b].

        The bounds are those of Chebyshev, Markov and Stieltjes: no measure with the same first 2m
        moments violates them. Eigenvalues are known to :attr:`tolerance`.

        >>> from precondlab.operators import Diagonal
        >>> A = Diagonal(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64))
        >>> print(spectral_measure(A, start=torch.tensor([1.0, 1.0, 2.0]).double()).fraction(0, 3))
        0.333333 in [0.333333, 0.333333]
        """
        if not a <= b:
            raise ValueError(f"fraction: expected a ≤ b, got [{a}, {b}]")
        inside = (self.nodes >= a - self.tolerance) & (self.nodes <= b + self.tolerance)
        (a_low, a_high), (b_low, b_high) = self._bounds(a), self._bounds(b)
        lower = max(b_low - a_high, 0.0)
        upper = max(b_high - a_low, lower)
        return Share(min(max(float(self.rule.weights[inside].sum()), lower), upper), lower, upper)

    def unlearned(self, *, steps: int, learning_rate: float, largest: float | None = None) -> Share:
        """Return the share of the mass left after gradient descent steps: ``∫ (1 − ηλ)^{2k} dμ / ‖v‖²``.

        For K and the residual this is ``L(k)/L(0)`` in the linear regime, as `predict_training` has
        it. Exact for k < m; a lower bound by Gauss after that and, for a positive operator with no eigenvalue above
        ``largest``, an upper bound by Gauss–Lobatto. Where ``largest`` is not given an eigenvalue that v has
        not shown yet may diverge, and the upper bound is infinite.

        Raises ValueError for steps < 0, η ≤ 0 or a node above ``largest``.

        >>> from precondlab.operators import Diagonal
        >>> K = Diagonal(torch.tensor([1.0, 0.25], dtype=torch.float64))
        >>> print(spectral_measure(K, start=torch.ones(2)).unlearned(steps=2, learning_rate=1.0))
        0.158203 in [0.158203, 0.158203]
        """
        require_integer("unlearned", "steps", steps, least=0)
        if not learning_rate > 0:
            raise ValueError(f"unlearned: expected a learning rate η > 0, got {learning_rate}")
        lower = _left(self.rule, steps, learning_rate)
        if largest is not None and not largest >= self.nodes[-1] - self.tolerance:
            raise ValueError(
                f"unlearned: expected largest ≥ every eigenvalue, got {largest}; a node is {self.nodes[-1]}"
            )
        if 2 * steps <= self.degree:
            return Share(lower, lower, lower)
        if not self.positive or largest is None or largest == math.inf:
            return Share(lower, lower, math.inf)
        margin = 4 * np.finfo(np.float64).eps * max(largest, self.nodes[-1])
        rule = lobatto(self.tridiagonal, min(0.0, self.nodes[0]) - margin, max(largest, self.nodes[-1]) + margin)
        return Share(lower, lower, max(_left(rule, steps, learning_rate), lower))

    def remaining(self, *, steps: int, learning_rate: float) -> np.ndarray:
        """Return the mass left at each node after k steps ``[m]``, ``wᵢ (1 − ηθᵢ)^{2k}``: the modes not learned."""
        return self.weights * np.abs(1 - learning_rate * self.nodes) ** (2 * steps)

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "nodes": self.nodes.tolist(),
            "weights": self.weights.tolist(),
            "residuals": self.residuals.tolist(),
            "mass": self.mass,
            "degree": self.degree if math.isfinite(self.degree) else None,
            "tolerance": self.tolerance,
            "num_matvecs": self.num_matvecs,
        }

    def __str__(self) -> str:
        return (
            f"measure of mass {self.mass:.6g} on [{self.nodes[0]:.6g}, {self.nodes[-1]:.6g}] "
            f"({len(self.nodes)} nodes, {self.num_matvecs} products)"
        )

    def _bounds(self, x: float) -> tuple[float, float]:
        if self.positive and x < -self.tolerance:
            return 0.0, 0.0
        return self.rule.bounds(x, tolerance=self.tolerance)


def spectral_measure(A: LinearOperator, /, *, start: Tensor | np.ndarray, num_matvecs: int = 50) -> Measure:
    """Measure how much of a vector each part of the spectrum carries, by Lanczos started there.

    Parameters
    ----------
    A
        Symmetric operator, or SciPy's: ``pl.Kernel(J)`` for a residual, ``pl.Gram(J)`` for a gradient.
    start
        v ``[n]``: ``r.value`` for the kernel, ``J.H @ r.value`` for the Gram operator. With Gram(J), J ``[m n]``,
        a vector ``[m]`` is a residual as well if m ≠ n, and the measure is that of ``pl.Kernel(J)``.
    num_matvecs
        Lanczos steps m; fewer are taken if they exhaust the Krylov space.

    Raises
    ------
    ValueError
        If start has another size than A, or num_matvecs < 1.
    NotSymmetric
        If A is not symmetric.
    Breakdown
        If a product is not finite, or start is zero.

    Cost: one product per step; memory num_matvecs vectors.
    Reference: Golub & Meurant, Matrices, Moments and Quadrature with Applications (2010), ch. 6–7.

    >>> from precondlab.operators import Diagonal
    >>> K = Diagonal(torch.tensor([1.0, 4.0], dtype=torch.float64))
    >>> m = spectral_measure(K, start=torch.tensor([3.0, 4.0]))
    >>> m.nodes.round(9), m.weights.round(9), m.mass
    (array([1., 4.]), array([ 9., 16.]), 25.0)
    """
    require_integer("spectral_measure", "num_matvecs", num_matvecs)
    A = symmetric(A, "spectral_measure")
    v = torch.as_tensor(start).detach()
    if isinstance(A, Gram) and v.shape == (A.J.shape[0],) != (A.shape[0],):
        A = Kernel(A.J)
    if v.shape != (A.shape[0],):
        raise ValueError(
            f"spectral_measure: {A!r} needs a start of shape ({A.shape[0]},), got {tuple(v.shape)}; a residual r "
            "belongs to pl.Kernel(J), its gradient J.H @ r to pl.Gram(J)"
        )
    *_, T = lanczos(A, v, num_matvecs=num_matvecs)
    rule = gauss(T)
    noise(A, [T])  # refuses what is not symmetric
    return Measure(T, rule, A.positive, max(rule.round_off(A.domain.eps), T.defect), len(rule.nodes))


def _left(rule: Rule, steps: int, rate: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.abs(1 - rate * rule.nodes) ** (2 * steps) @ rule.weights)
