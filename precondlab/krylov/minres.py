"""Minimal residuals for symmetric operators, positive or not, on blocks of right-hand sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.krylov.checks import dots, require_finite
from precondlab.krylov.iteration import Columns, Method, System, solve
from precondlab.krylov.solution import Solution, SolverStatus
from precondlab.operator import as_operator
from precondlab.operators import Identity

__all__ = ["minres"]


def minres(
    A: LinearOperator,
    b: Any,
    /,
    *,
    x0: Any = None,
    rtol: float = 1e-5,
    atol: float = 0.0,
    shift: float = 0.0,
    maxiter: int | None = None,
    M: LinearOperator | None = None,
    callback: Callable[[Any], object] | None = None,
) -> Solution:
    """Solve ``(A − shift I) x = b`` for a symmetric operator by minimal residuals.

    ``x_k`` minimizes ``‖b − A x‖`` (with a preconditioner ``rᴴMr``) on the Krylov space. A may be indefinite or
    singular: where b is not in its range the result is a least-squares solution, and the status says so.

    Parameters
    ----------
    A
        Symmetric operator on n unknowns. If it is not declared so, the symmetry is checked once that costs less than
        5 % of the products, and whenever the solver fails.
    b, x0
        Right-hand side and starting point, ``[n]`` or ``[n k]``: tensors like A's vectors, or arrays.
    rtol, atol
        ``‖b − A x‖ ≤ max(rtol ‖b‖, atol)`` ends a column as OK; ``‖A r‖ ≤ √ε ‖A‖ ‖r‖`` (in the geometry of
        M), whatever rtol, as LEAST_SQUARES. Both are verified by products of their own.
    shift
        Number whose multiple of the identity is subtracted from A.
    maxiter
        Steps; by default ``10 n``.
    M
        Positive operator approximating ``|A|⁻¹``.
    callback
        Called with x after every step.

    Returns
    -------
    Solution
        ``status`` is OK, LEAST_SQUARES (with ``gradient_norm``), MAXITER, ROUND_OFF, NOISY, STAGNATED or
        M_NOT_POSITIVE.

    Raises
    ------
    NotSymmetric
        If A is found not to be symmetric.
    Breakdown
        At the first product, with A or M, that is not finite.
    ValueError
        For wrong shapes or tolerances.

    Cost: one product with A (and M) per step and column, one for the true residual, one for x0; memory 8 blocks.
    Reference: Paige & Saunders (1975), doi:10.1137/0712047; with a preconditioner: Elman, Silvester & Wathen, Finite
    Elements and Fast Iterative Solvers, 2nd ed., §4.1, doi:10.1093/acprof:oso/9780199678792.001.0001.

    >>> import torch
    >>> from precondlab.operators import Diagonal
    >>> A = Diagonal(torch.tensor([1.0, -4.0, 0.0]))
    >>> minres(A, torch.tensor([1.0, 2.0, 0.0])).check().x
    tensor([ 1.0000, -0.5000,  0.0000])
    >>> minres(A, torch.tensor([1.0, 2.0, 1.0])).status.name
    'LEAST_SQUARES'
    """
    A = as_operator(A)
    if shift:
        A = A - shift * Identity(A.domain)
    system = System("minres", A, b, x0=x0, rtol=rtol, atol=atol, maxiter=maxiter, M=M)
    method = _MinimalResiduals(system, least=system.A.domain.eps**0.375)
    return method.finish(solve(system, method, callback=callback))


@dataclass
class _State(Columns):
    r: Tensor  # residual
    u: Tensor  # Lanczos vectors, uᴴMu = 1
    before: Tensor
    z: Tensor  # M u
    w: Tensor  # search directions
    w_before: Tensor
    best: Tensor  # iterate with the smallest ‖A r‖ / ‖r‖, up to a factor of 2
    ratio: np.ndarray  # that ratio, relative to ‖A‖, and |η| there
    level: np.ndarray
    gamma: np.ndarray  # off-diagonal of T that couples u to the vector before
    eta: np.ndarray  # ± norm of the residual, √(rᴴMr)
    c: np.ndarray  # Givens rotations of the last two steps
    c_before: np.ndarray
    s: np.ndarray
    s_before: np.ndarray


class _MinimalResiduals(Method[_State]):
    size = 0.0  # lower bound on ‖A‖ in the geometry of M

    def start(self, x: Tensor, r: Tensor, index: np.ndarray) -> _State:
        self.runs[index] += 1
        count = len(index)
        z, gamma, wrong = self._preconditioned(r, 0.0)
        outcome = np.full(count, None, dtype=object)
        outcome[wrong] = SolverStatus.M_NOT_POSITIVE
        inverse = self.system.host(_inverse(gamma))
        return _State(
            x=x.clone(),
            norms=self.system.size(r),
            index=index,
            outcome=outcome,
            r=r.clone(),
            u=r * inverse,
            before=r * 0,
            z=z * inverse,
            w=r * 0,
            w_before=r * 0,
            best=x.clone(),
            ratio=np.full(count, np.inf),
            level=gamma,
            gamma=np.zeros(count),
            eta=gamma,
            c=np.ones(count),
            c_before=np.ones(count),
            s=np.zeros(count),
            s_before=np.zeros(count),
        )

    def step(self, s: _State) -> None:
        system, host = self.system, self.system.host
        q = system.A.forward(s.z)
        delta, length, image = dots(system.A.domain, (s.z, q), (s.z, s.z), (q, q))
        require_finite(np.stack([delta, image]), system.A, system.products)
        self.norm = max(self.norm, float(np.sqrt(image / np.where(length > 0, length, 1)).max()))
        v = q - s.u * host(delta) - s.before * host(s.gamma)
        z, gamma, wrong = self._preconditioned(v, np.sqrt(image))
        self.size = max(self.size, float(np.sqrt(s.gamma**2 + delta**2 + gamma**2).max()))
        a0 = s.c * delta - s.c_before * s.s * s.gamma
        a1 = np.hypot(a0, gamma)
        a2 = s.s * delta + s.c_before * s.c * s.gamma
        a3 = s.s_before * s.gamma
        ratio = np.hypot(a0, s.c * gamma) / (self.size or 1)  # ‖A r‖ / ‖A‖ ‖r‖ before this step
        lower = ratio < 0.5 * s.ratio
        if lower.any():
            which = np.flatnonzero(lower)
            s.best[:, which] = s.x[:, which]
            s.ratio, s.level = np.where(lower, ratio, s.ratio), np.where(lower, np.abs(s.eta), s.level)
        least = ratio <= system.A.domain.eps**0.5
        lost = (s.ratio <= self.least) & (ratio > 100 * s.ratio) & (np.abs(s.eta) > 0.99 * s.level)
        if lost.any():  # round-off takes over after the minimizer of a singular system has been passed
            which = np.flatnonzero(lost)
            s.x[:, which] = s.best[:, which]
            least |= lost
        wrong |= s.outcome != None  # noqa: E711 (elementwise)
        good = ~(least | wrong)
        a1 = np.where(good, a1, 1)
        cos, sin = np.where(good, a0 / a1, 0), np.where(good, gamma / a1, 1)
        w = (s.z - s.w_before * host(a3) - s.w * host(a2)) / host(a1)
        s.x.addcmul_(w, host(cos * s.eta))
        s.eta = -sin * s.eta
        s.before, s.u, s.z = s.u, v * host(_inverse(gamma)), z * host(_inverse(gamma))
        s.r.mul_(host(sin**2)).addcmul_(s.u, host(cos * s.eta))
        s.w_before, s.w = s.w, w
        s.gamma, s.c_before, s.c, s.s_before, s.s = gamma, s.c, cos, s.s, sin
        s.norms = system.size(s.r)
        s.outcome[least] = SolverStatus.LEAST_SQUARES
        s.outcome[wrong] = SolverStatus.M_NOT_POSITIVE
        self.record(s, ~wrong, delta, gamma)

    def _preconditioned(self, V: Tensor, scale: np.ndarray | float) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """Return ``MV``, the norms ``√(vᴴMv)``, and where M is not positive: v is not round-off, but its norm is."""
        M = self.system.M
        if M is None:
            return V, self.system.size(V), np.zeros(V.shape[1], dtype=bool)
        Z = M.forward(V)
        square, v, z = dots(M.domain, (V, Z), (V, V), (Z, Z))
        require_finite(z, M, M.num_matvecs)
        eps = M.domain.eps
        wrong = (square <= 10 * eps * np.sqrt(v * z)) & (np.sqrt(v) > eps**0.5 * scale)
        return Z, np.sqrt(np.maximum(square, 0)), wrong

    def optimality(self, r: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return ``‖A r‖ / (‖A‖ ‖r‖)`` in the geometry of M, and ``‖A M r‖``."""
        z, norms, _ = self._preconditioned(r, 0.0)
        gradient = self.system.A.forward(z)
        _, sizes, _ = self._preconditioned(gradient, np.inf)
        return sizes / np.where(norms > 0, norms * (self.size or 1), 1), self.system.size(gradient)

    def finish(self, solution: Solution) -> Solution:
        """Add what the recurrence has shown."""
        return replace(solution, tridiagonals=tuple((delta, gamma[:-1]) for delta, gamma in self.coefficients()))


def _inverse(values: np.ndarray) -> np.ndarray:
    return np.divide(1, values, out=np.zeros_like(values), where=values > 0)
