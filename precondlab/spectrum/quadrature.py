"""Quadrature for the measure an operator has at a vector: Gauss, Radau and Lobatto rules from Lanczos."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from precondlab.krylov import Tridiagonalization

__all__ = ["Rule", "gauss", "lobatto", "radau"]

_FAR = 1e6  # a node this many times larger than the others is at infinity


@dataclass(frozen=True, eq=False)
class Rule:
    """Nodes, ascending, and positive weights that sum to one, for ``qᴴ f(A) q`` with a unit vector q.

    Attributes
    ----------
    nodes, weights
        ``qᴴ f(A) q ≈ Σ wᵢ f(θᵢ)``.
    degree
        Polynomials of this degree and below are integrated exactly; infinite if the vector lies in an invariant
        subspace spanned by as many vectors as there are nodes.
    residuals
        An eigenvalue of A lies within this distance of each node; infinite where nothing is known.
    tridiagonal
        What the rule was made of, where it is that of Gauss.
    """

    nodes: np.ndarray
    weights: np.ndarray
    degree: float
    residuals: np.ndarray
    tridiagonal: Tridiagonalization | None = None

    def round_off(self, eps: float) -> float:
        """Return the error of the nodes by the round-off of as many Lanczos steps."""
        return 10 * eps * len(self.nodes) ** 0.5 * float(np.abs(self.nodes).max())

    def bounds(self, x: float, *, tolerance: float) -> tuple[float, float]:
        """Return a lower and an upper bound on the mass at or below x, by Chebyshev, Markov and Stieltjes.

        The rule with m + 1 nodes, one of them x, that is exact to degree 2m has the least mass below
        x, and the greatest at or below x, that any measure with these moments can have. Nodes are known
        to the tolerance. Also valid for the mass strictly below x.

        Cost: two eigenproblems of size m + 1.
        Reference: Akhiezer, The Classical Moment Problem (1965), §2.5, doi:10.1137/1.9781611976397.

        >>> import torch
        >>> from precondlab.krylov.probes import tridiagonalize
        >>> from precondlab.operators import Dense
        >>> chain = Dense(torch.ones(3, 3).double().tril(1).triu(-1), symmetric=True)
        >>> (T,) = tridiagonalize(chain, torch.eye(3, 1).double(), num_steps=2)
        >>> low, high = gauss(T).bounds(1.0, tolerance=0)  # the rule with a node at 1 has weights 1/4, 1/2, 1/4
        >>> round(low, 9), round(high, 9)
        (0.25, 0.75)
        """
        if x == math.inf or x == -math.inf:
            return (1.0, 1.0) if x > 0 else (0.0, 0.0)
        if self.tridiagonal is None:
            return 0.0, 1.0
        if self.tridiagonal.exhausted:
            below, above = self.nodes < x - tolerance, self.nodes <= x + tolerance
            return min(float(self.weights[below].sum()), 1.0), min(float(self.weights[above].sum()), 1.0)
        lower = self._canonical(self.tridiagonal, x - tolerance)[0]
        return lower, max(self._canonical(self.tridiagonal, x + tolerance)[1], lower)

    def _canonical(self, T: Tridiagonalization, x: float) -> tuple[float, float]:
        """Return the mass below x, and at or below x, of the rule with a node at x."""
        corner, scale = x + T.offdiagonal[-1] ** 2 * _corner(T, x), max(np.abs(self.nodes).max(), abs(x))
        if abs(corner) > _FAR * scale:  # x is a node of the Gauss rule itself
            nodes, weights = self.nodes, self.weights
        else:
            rule = _extended(T, corner, T.offdiagonal[-1], 2 * len(T.diagonal))
            nodes, weights = rule.nodes, rule.weights
        index = int(np.abs(nodes - x).argmin())
        return min(float(weights[:index].sum()), 1.0), min(float(weights[: index + 1].sum()), 1.0)


def gauss(T: Tridiagonalization) -> Rule:
    """Return the Gauss rule of m Lanczos steps: exact for polynomials of degree ≤ 2m − 1.

    A lower bound for f with non-negative even derivatives, an upper bound for non-positive ones.

    >>> import torch
    >>> from precondlab.krylov.probes import tridiagonalize
    >>> from precondlab.operators import Dense
    >>> chain = Dense(torch.ones(3, 3).double().tril(1).triu(-1), symmetric=True)
    >>> (T,) = tridiagonalize(chain, torch.eye(3, 1).double(), num_steps=2)
    >>> rule = gauss(T)
    >>> rule.nodes.round(12), rule.weights.round(12), rule.degree
    (array([0., 2.]), array([0.5, 0.5]), 3)
    """
    nodes, vectors = T.eigh()
    weights = vectors[0] ** 2
    residuals = np.abs(T.offdiagonal[-1] * vectors[-1])
    return Rule(nodes, weights / weights.sum(), math.inf if T.exhausted else 2 * len(nodes) - 1, residuals, T)


def radau(T: Tridiagonalization, a: float) -> Rule:
    """Return the Gauss–Radau rule with a node at a, below the spectrum: exact for degrees ≤ 2m.

    A lower bound for f with non-negative odd derivatives, where Gauss is an upper bound if the even ones
    are non-positive (log x, x/(x + μ)). An exhausted T needs no extra node and keeps its Gauss rule.

    Reference: Golub & Meurant, Matrices, Moments and Quadrature with Applications (2010), §6.2.

    >>> import torch
    >>> from precondlab.krylov.probes import tridiagonalize
    >>> from precondlab.operators import Dense
    >>> chain = Dense(torch.ones(3, 3).double().tril(1).triu(-1), symmetric=True)
    >>> (T,) = tridiagonalize(chain, torch.eye(3, 1).double(), num_steps=1)
    >>> rule = radau(T, -1.0)
    >>> rule.nodes.round(12), rule.weights.round(12)
    (array([-1. ,  1.5]), array([0.2, 0.8]))
    """
    if T.exhausted:
        return gauss(T)
    beta = T.offdiagonal[-1]
    rule = _extended(T, a + beta**2 * _corner(T, a), beta, 2 * len(T.diagonal))
    return Rule(np.maximum(rule.nodes, a), rule.weights, rule.degree, rule.residuals)


def lobatto(T: Tridiagonalization, a: float, b: float) -> Rule:
    """Return the Gauss–Lobatto rule with nodes at a and b, around the spectrum: exact for degrees ≤ 2m − 1.

    An upper bound for f with non-negative even derivatives.

    Reference: Golub (1973), Some modified matrix eigenvalue problems, doi:10.1137/1015032.

    >>> import torch
    >>> from precondlab.krylov.probes import tridiagonalize
    >>> from precondlab.operators import Dense
    >>> chain = Dense(torch.ones(3, 3).double().tril(1).triu(-1), symmetric=True)
    >>> (T,) = tridiagonalize(chain, torch.eye(3, 1).double(), num_steps=1)
    >>> rule = lobatto(T, -1.0, 3.0)
    >>> rule.nodes.round(12), rule.weights.round(12)
    (array([-1.,  3.]), array([0.5, 0.5]))
    """
    if T.exhausted:
        return gauss(T)
    left, right = _corner(T, a), _corner(T, b)
    square = (b - a) / (left - right)
    return _extended(T, a + square * left, square**0.5, 2 * len(T.diagonal) - 1)


def _corner(T: Tridiagonalization, x: float) -> float:
    """Return ``[(T − x)⁻¹]_mm``; a pole is moved away from by the round-off of T."""
    nodes, vectors = T.eigh()
    gaps = nodes - x
    round_off = np.finfo(np.float64).eps * max(np.abs(nodes).max(), abs(x), np.finfo(np.float64).tiny)
    gaps = np.where(np.abs(gaps) < round_off, math.copysign(round_off, gaps.sum()), gaps)
    return float((vectors[-1] ** 2 / gaps).sum())


def _extended(T: Tridiagonalization, corner: float, off: float, degree: int) -> Rule:
    offdiagonal = np.concatenate([T.offdiagonal[:-1], [off, 0.0]])
    extended = Tridiagonalization(np.append(T.diagonal, corner), offdiagonal, False, T.norm, T.defect)
    nodes, vectors = extended.eigh()
    weights = vectors[0] ** 2
    return Rule(nodes, weights / weights.sum(), degree, np.full(len(nodes), math.inf))
