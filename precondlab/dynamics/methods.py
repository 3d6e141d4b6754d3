"""Training methods seen as polynomials: ``r_k = p_k(K) r₀`` with ``p_k(0) = 1``."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from precondlab.dynamics.measure import Measure
from precondlab.spectrum.quadrature import Rule, lobatto

__all__ = ["ConjugateGradients", "GradientDescent", "Method", "Momentum"]

Curves = tuple[np.ndarray, np.ndarray, np.ndarray]

_HUGE = 1e200  # a diverging p_k is held here, its square is infinite
_EPS = float(np.finfo(float).eps)


@runtime_checkable
class Method(Protocol):
    """A training method whose residual is a polynomial in the kernel."""

    def predict(self, seen: Measure, steps: int, /, *, largest: float, eps: float) -> Curves:
        """Return the loss ``∫ p_k² dμ`` for k = 0 … steps, and lower and upper bounds on it, equal where it is exact.

        No eigenvalue is above ``largest``, infinite where nothing is known; training runs with the unit round-off
        ``eps``.
        """
        ...


@dataclass(frozen=True)
class GradientDescent:
    """``θ ← θ − η M ∇L``: ``p_k = (1 − ηλ)ᵏ``.

    The even derivatives of ``p_k²`` are ≥ 0, so the Gauss rule bounds the loss from below and the Gauss–Lobatto
    rule with nodes 0 and ``largest`` from above. Where ``largest`` is not known, an eigenvalue that the residual has
    not shown may diverge: the upper bound after the exact entries is infinite.

    Reference: Golub & Meurant, Matrices, Moments and Quadrature with Applications (2010), ch. 6.
    """

    learning_rate: float

    def __post_init__(self) -> None:
        _require_rate("GradientDescent", self.learning_rate)

    def predict(self, seen: Measure, steps: int, /, *, largest: float, eps: float) -> Curves:
        loss = seen.mass * self._decay(seen.gauss, steps)
        upper = np.full(steps + 1, np.inf)
        if largest < np.inf:
            top = max(largest, seen.gauss.nodes[-1]) * (1 + 4 * _EPS)
            ends = lobatto(seen.tridiagonal, -_EPS * top, top)
            upper = np.maximum(loss, seen.mass * self._decay(ends, steps))
        exact = slice(None if seen.exhausted else len(seen))
        upper[exact] = loss[exact]
        return loss, loss, upper

    def polynomial(self, values: np.ndarray, steps: int, /) -> np.ndarray:
        """Return ``p_k(λ)`` for k = steps: what is left of the residual along an eigenvector."""
        with np.errstate(over="ignore"):
            return np.clip((1 - self.learning_rate * values) ** float(steps), -_HUGE, _HUGE)

    def _decay(self, rule: Rule, steps: int) -> np.ndarray:
        twice = 2.0 * np.arange(steps + 1)
        total = np.zeros(steps + 1)
        with np.errstate(over="ignore"):
            for factor, weight in zip(np.abs(1 - self.learning_rate * rule.nodes), rule.weights, strict=True):
                if weight > 0:
                    total += weight * factor**twice
        return total


@dataclass(frozen=True)
class Momentum:
    """``b ← βb + ∇L, θ ← θ − ηMb``, or Nesterov's ``θ ← θ − ηM(∇L + βb)``; as ``torch.optim.SGD``.

    Heavy ball: ``p_{k+1} = (1 + β − ηλ) p_k − β p_{k−1}``; Nesterov:
    ``p_{k+1} = (1 − ηλ)((1 + β) p_k − β p_{k−1})``. The derivatives of ``p_k²`` change sign, so the Gauss rule
    is no bound after the exact entries. For the heavy ball, whose range on any interval is known, the bounds are
    those of :meth:`Measure.separated`, the upper one infinite where ``largest`` is not known; for Nesterov's they
    are 0 and ∞.

    Reference: Polyak (1964), doi:10.1016/0041-5553(64)90137-5.
    """

    learning_rate: float
    momentum: float
    nesterov: bool = False

    def __post_init__(self) -> None:
        _require_rate("Momentum", self.learning_rate)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"Momentum: expected 0 ≤ β < 1, got {self.momentum}")

    def predict(self, seen: Measure, steps: int, /, *, largest: float, eps: float) -> Curves:
        nodes, weights = seen.gauss.nodes, seen.mass * seen.gauss.weights
        known = largest < np.inf
        stable = 2 * (1 + self.momentum) / self.learning_rate  # above it p_k² only grows
        top = max(largest if known else stable, nodes[-1]) * (1 + 4 * _EPS)
        loss, lower, upper = np.zeros(steps + 1), np.zeros(steps + 1), np.full(steps + 1, np.inf)
        ranges = None if self.nesterov else _Ranges(self, *seen.separated(top))
        for k, p in enumerate(self._polynomials(np.concatenate([[0.0], nodes, [top]]), steps)):
            with np.errstate(over="ignore"):
                square = p**2
            loss[k] = _dot(weights, square[1:-1])
            if ranges is not None and k >= len(seen):
                smallest, greatest = ranges(square[:-2], square[2:], k)
                lower[k] = _dot(weights, smallest)
                upper[k] = _dot(weights, greatest) if known else np.inf
        exact = slice(None if seen.exhausted else len(seen))
        lower[exact] = upper[exact] = loss[exact]
        return loss, lower, upper

    def polynomial(self, values: np.ndarray, steps: int, /) -> np.ndarray:
        """Return ``p_k(λ)`` for k = steps: what is left of the residual along an eigenvector."""
        return list(self._polynomials(values, steps))[-1]

    def _polynomials(self, x: np.ndarray, steps: int) -> Iterator[np.ndarray]:
        beta, factor = self.momentum, 1 - self.learning_rate * x
        before = p = np.ones_like(x)
        for k in range(steps + 1):
            yield p
            inertia = beta * (p - before)
            if self.nesterov:
                following = factor * (p + inertia) - (beta * (1 - factor) * p if k == 0 else 0)
            else:
                following = factor * p + inertia
            before, p = p, np.clip(following, -_HUGE, _HUGE)


class _Ranges:
    """The smallest and largest value of ``p_k²`` of the heavy ball on intervals ``[left, right]``.

    With ``c = (1 + β − ηλ)/(2√β)``, ``p_k = β^{k/2}(U_k(c) − √β U_{k−1}(c))``: bounded by
    ``β^{k/2}(k + 1 + k√β)`` for |c| ≤ 1, and monotone with no zero on either side.
    """

    def __init__(self, method: Momentum, left: np.ndarray, right: np.ndarray) -> None:
        root, eta = method.momentum**0.5, method.learning_rate
        self._root = root
        self._below = right < (1 - root) ** 2 / eta
        self._above = left > (1 + root) ** 2 / eta

    def __call__(self, left: np.ndarray, right: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return both, given ``p_k²`` at the ends."""
        envelope = (self._root**k * (k + 1 + k * self._root)) ** 2
        outside = self._below | self._above
        ends = np.maximum(left, right)
        return np.where(outside, np.minimum(left, right), 0.0), np.where(outside, ends, np.maximum(ends, envelope))


@dataclass(frozen=True)
class ConjugateGradients:
    """Conjugate gradients on the normal equations (CGLS, LSQR): the best polynomial of every degree.

    ``L(k) = min {∫ p² dμ : deg p ≤ k, p(0) = 1} = ½‖r₀‖² / Σ_{j≤k} π_j(0)²`` with the orthonormal
    polynomials π_j of ``μ/μ(ℝ)``, whose values at 0 are ``±Π_{i≤j} α_i/β_i``: exact for k ≤ m in exact arithmetic.
    A run with round-off follows it until its residuals lose their orthogonality to ``√eps``, which Paige's theorem
    dates: when the first Ritz value converges to ``√eps ‖B‖``. From there on it lags behind, so that the prediction
    is a lower bound, and the last exact value, as losses do not increase, an upper one. After m steps that upper
    bound is also the estimate.

    Reference: Paige & Saunders (1982), doi:10.1145/355984.355989; Szegő, Orthogonal Polynomials, §3.1;
    Paige (1980), doi:10.1016/0024-3795(80)90167-6; Greenbaum (1989), doi:10.1016/0024-3795(89)90285-1.
    """

    def predict(self, seen: Measure, steps: int, /, *, largest: float, eps: float) -> Curves:
        m, k = len(seen), np.arange(steps + 1)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            ratios = np.divide(seen.alpha, seen.beta, out=np.zeros(m), where=seen.alpha > 0)
            squares = np.cumprod(np.append(1.0, ratios**2))
            best = seen.mass / np.cumsum(np.where(np.isnan(squares), 0.0, squares))  # ∞ · 0 after the last α
        loss = best[np.minimum(k, m)]
        lost = _orthogonal_for(seen, eps)
        if seen.exhausted and lost == m and _sharp(seen, eps):
            return loss, loss, loss
        known = k < m if seen.exhausted else k <= m  # round-off hides how much the last step gains
        return loss, np.where(known, loss, 0.0), best[np.minimum(k, lost - 1)]


def _orthogonal_for(seen: Measure, eps: float) -> int:
    """Return the first step at which conjugate gradients lose orthogonality to √eps; m + 1 if none does."""

    def converged(k: int) -> bool:
        left, values, _ = np.linalg.svd(np.diag(seen.alpha[:k]) + np.diag(seen.beta[: k - 1], 1))
        return bool((seen.beta[k - 1] * np.abs(left[-1]) <= eps**0.5 * values[0]).any())

    return 1 + bisect_left(range(1, len(seen) + 1), True, key=converged)


def _sharp(seen: Measure, eps: float) -> bool:
    """Return whether a zero α ends the recurrence, and is √eps times smaller than all that was divided by.

    Its noise is ``eps ‖B‖/σ``, with the smallest singular value or β before it; a zero β, which leaves no residual,
    magnifies whatever orthogonality is lost.
    """
    if seen.alpha[-1] > 0:
        return False
    B = np.diag(seen.alpha[:-1]) + np.diag(seen.beta[:-2], 1) if len(seen) > 1 else np.zeros((0, 0))
    values = np.append(np.linalg.svd(B, compute_uv=False), seen.beta[:-1])
    return not len(values) or bool(values.min() >= eps**0.25 * values.max())


def _dot(weights: np.ndarray, values: np.ndarray) -> float:
    return float(np.sum(weights * values, where=weights > 0))


def _require_rate(name: str, rate: float) -> None:
    if not 0 < rate < np.inf:
        raise ValueError(f"{name}: expected a learning rate η > 0, got {rate}")
