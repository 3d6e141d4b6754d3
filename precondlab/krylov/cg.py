"""Conjugate gradients for positive operators, on blocks of right-hand sides."""

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

__all__ = ["cg"]


def cg(
    A: LinearOperator,
    b: Any,
    /,
    *,
    x0: Any = None,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: LinearOperator | None = None,
    floor: float | None = None,
    callback: Callable[[Any], object] | None = None,
) -> Solution:
    """Solve ``A x = b`` for a positive operator by preconditioned conjugate gradients.

    ``x_k`` minimizes ``‖x − A⁻¹b‖_A`` on the Krylov space; the error falls at least like ``2 ((√κ − 1)/(√κ + 1))^k``
    with κ of ``M A``. Columns of a block are independent recurrences that share the product with A; a column that has
    converged drops out. Convergence is declared only when the residual recomputed from x meets
    ``‖b − A x‖ ≤ max(rtol ‖b‖, atol)``; a recurrence that has drifted restarts from the true residual.

    Parameters
    ----------
    A
        Positive operator on n unknowns. If it is not declared symmetric, the symmetry is checked once that costs less
        than 5 % of the products, and whenever the solver fails.
    b
        Right-hand side ``[n]`` or ``[n k]``: a tensor like A's vectors, or an array.
    x0
        Starting point, of b's shape; zero if None.
    rtol, atol
        Tolerance on the residual norm.
    maxiter
        Steps; by default ``10 n``.
    M
        Positive operator approximating ``A⁻¹``.
    floor
        A number known to be a lower bound on every eigenvalue of A (of ``M A`` with a preconditioner), e.g. the
        damping: gives ``error_bound``, an upper bound on ``‖x − A⁻¹b‖_A`` by Gauss–Radau quadrature.
    callback
        Called with x after every step.

    Returns
    -------
    Solution
        ``status`` is OK, MAXITER, ROUND_OFF, NOISY, STAGNATED, SINGULAR, INDEFINITE (with ``direction``) or
        M_NOT_POSITIVE.

    Raises
    ------
    NotSymmetric
        If A is found not to be symmetric.
    Breakdown
        At the first product, with A or M, that is not finite.
    ValueError
        For wrong shapes or tolerances, or if a Ritz value refutes ``floor``.

    Cost: one product with A (and M) per step and column, one for the true residual, one for x0; memory 6 blocks.
    Reference: Hestenes & Stiefel (1952), doi:10.6028/jres.049.044; bounds: Meurant & Tichý (2013),
    doi:10.1007/s11075-012-9591-9.

    >>> import torch
    >>> from precondlab.operators import Diagonal
    >>> solution = cg(Diagonal(torch.tensor([1.0, 4.0])), torch.tensor([1.0, 2.0])).check()
    >>> solution.x, solution.steps, solution.ritz_values.round(4)
    (tensor([1.0000, 0.5000]), 2, array([1., 4.]))
    """
    if floor is not None and not 0 < floor < np.inf:
        raise ValueError(f"cg: floor should be a positive lower bound on the eigenvalues, got {floor!r}")
    system = System("cg", A, b, x0=x0, rtol=rtol, atol=atol, maxiter=maxiter, M=M)
    method = _ConjugateGradients(system, floor)
    return method.finish(solve(system, method, callback=callback))


@dataclass
class _State(Columns):
    r: Tensor
    p: Tensor
    best: Tensor  # iterate whose residual was smallest, up to a factor of 2
    lowest: np.ndarray  # norm of that residual
    rz: np.ndarray  # rᴴMr of the step before
    step: np.ndarray  # α of the step before
    gamma: np.ndarray  # Gauss–Radau: ‖x − A⁻¹b‖²_A ≤ γ rᴴMr


class _ConjugateGradients(Method[_State]):
    def __init__(self, system: System, floor: float | None) -> None:
        super().__init__(system)
        self.floor = floor
        self.bound = np.zeros(system.B.shape[1])
        self.direction: Tensor | None = None

    def start(self, x: Tensor, r: Tensor, index: np.ndarray) -> _State:
        self.runs[index] += 1
        norms = self.system.size(r)
        count = len(index)
        return _State(
            x=x.clone(),
            norms=norms,
            index=index,
            outcome=np.full(count, None, dtype=object),
            r=r.clone(),
            p=r * 0,
            best=x.clone(),
            lowest=norms.copy(),
            rz=np.full(count, np.inf),
            step=np.zeros(count),
            gamma=np.full(count, np.nan if self.floor is None else 1 / self.floor),
        )

    def step(self, s: _State) -> None:
        system = self.system
        space, host = system.A.domain, system.host
        z = self._preconditioned(s.r)
        rz = s.norms**2 if system.M is None else dots(space, (s.r, z))[0]
        beta = rz / s.rz
        negative = rz <= 0
        if self.floor is not None:
            s.gamma = self._radau(s, rz)
        s.p.mul_(host(beta)).add_(z)
        q = system.A.forward(s.p)
        curvature, length, image = dots(space, (s.p, q), (s.p, s.p), (q, q))
        require_finite(np.stack([curvature, image]), system.A, system.products)
        length = np.where(length > 0, length, 1)
        self.norm = max(self.norm, float(np.sqrt(image / length).max()))
        rayleigh = curvature / length
        flat = rayleigh <= 10 * space.eps * self.norm
        bent = rayleigh < -10 * space.eps * space.size**0.5 * self.norm
        good = ~(negative | flat)
        alpha = np.where(good, rz / np.where(good, curvature, 1), 0.0)
        s.x.addcmul_(s.p, host(alpha))
        s.r.addcmul_(q, host(-alpha))
        s.norms = system.size(s.r)
        better = good & (s.norms < 0.5 * s.lowest)
        if better.any():
            s.best[:, better] = s.x[:, better]
            s.lowest = np.where(better, s.norms, s.lowest)
        if not good.all():
            singular = flat & ~bent & ~negative
            s.x[:, singular] = s.best[:, singular]
            s.outcome[singular] = SolverStatus.SINGULAR
            s.outcome[bent] = SolverStatus.INDEFINITE
            s.outcome[negative] = SolverStatus.M_NOT_POSITIVE
        self.record(s, good, alpha, beta)
        s.rz, s.step = rz, alpha

    def _preconditioned(self, R: Tensor) -> Tensor:
        M = self.system.M
        if M is None:
            return R
        Z = M.forward(R)
        require_finite(self.system.size(Z), M, M.num_matvecs)
        return Z

    def stop(self, s: _State, r: Tensor) -> None:
        """Bound the errors of columns that end with true residuals r, and keep directions of negative curvature."""
        space = self.system.A.domain
        bent = s.outcome == SolverStatus.INDEFINITE
        if bent.any():
            if self.direction is None:
                self.direction = space.zeros(self.system.B.shape[1])
            p = s.p[:, bent]
            self.direction[:, s.index[bent]] = p / self.system.host(self.system.size(p))
        if self.floor is None or not len(s.index):
            return
        gap = r - s.r
        energy, drift, recurred = np.maximum(dots(space, *[(v, self._preconditioned(v)) for v in (r, gap, s.r)]), 0)
        radau = recurred * self._radau(s, recurred)
        self.bound[s.index] = np.minimum(np.sqrt(energy / self.floor), np.sqrt(radau) + np.sqrt(drift / self.floor))

    def _radau(self, s: _State, rz: np.ndarray) -> np.ndarray:
        """Advance γ to the residual with ``rᴴMr = rz``, rounded up: the bound grows with γ, so it stays one."""
        floor = self.floor or np.nan
        gap = np.maximum(s.gamma * (1 + self.system.A.domain.eps**0.5) - s.step, 0)
        return np.where(gap > 0, gap / np.where(gap > 0, floor * gap + rz / s.rz, 1), 1 / floor)

    def finish(self, solution: Solution) -> Solution:
        """Add what the recurrence has shown."""
        tridiagonals = []
        for alpha, beta in self.coefficients():
            diagonal = 1 / alpha
            diagonal[1:] += beta[1:] / alpha[:-1]
            tridiagonals.append((diagonal, np.sqrt(beta[1:]) / alpha[:-1]))
        solution = replace(solution, tridiagonals=tuple(tridiagonals))
        if self.direction is not None:
            p = self.direction[:, 0] if self.system.vector else self.direction
            solution = replace(solution, direction=p if self.system.tensor else p.numpy(force=True))
        if self.floor is None:
            return solution
        ritz = solution.ritz_values
        if len(ritz) and ritz[0] < self.floor * (1 - self.system.A.domain.eps**0.5):
            raise ValueError(
                f"cg: floor={self.floor:g} is no lower bound on the eigenvalues, {ritz[0]:g} lies below; lower it"
            )
        return replace(solution, error_bound=self.system.number(self.bound * self.system.scale))
