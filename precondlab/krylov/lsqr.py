"""Least squares by Golub–Kahan bidiagonalization, on blocks of right-hand sides."""

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

__all__ = ["lsqr"]


def lsqr(
    J: LinearOperator,
    b: Any,
    /,
    *,
    damp: float = 0.0,
    x0: Any = None,
    rtol: float = 1e-6,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: LinearOperator | None = None,
    callback: Callable[[Any], object] | None = None,
) -> Solution:
    """Minimize ``‖b − J x‖² + damp² ‖x‖²`` by LSQR.

    In exact arithmetic the iterates are those of conjugate gradients on ``(JᴴJ + damp²) x = Jᴴb``, but JᴴJ is never
    formed: the attainable accuracy depends on κ(J), not on its square. Damping is a second block ``damp·I`` below J.

    Parameters
    ----------
    J
        Operator ``[m n]`` with its adjoint.
    b
        Right-hand side ``[m]`` or ``[m k]``: a tensor like J's vectors, or an array.
    damp
        Size μ of the damping; the minimizer is unique if it is positive.
    x0
        Starting point ``[n]`` or ``[n k]``. It does not change a unique minimizer; of several the one nearest to x0 in
        the norm of ``M⁻¹`` is found.
    rtol, atol
        A column ends as OK when the residual r, of ``[J; damp·I] x = [b; 0]``, meets ``‖r‖ ≤ max(rtol ‖b‖, atol)`` or
        when its gradient meets ``‖Jᴴr‖ ≤ rtol ‖J‖ ‖r‖`` (in the geometry of M); either is verified by products of its
        own. ``solution.compatible`` says which.
    maxiter
        Steps; by default ``10 n``.
    M
        Positive operator approximating ``(JᴴJ + damp²)⁻¹``; its factor is not needed.
    callback
        Called with x after every step.

    Returns
    -------
    Solution
        ``residual_norm`` is that of the damped system. ``status`` is OK, MAXITER, ROUND_OFF, NOISY, STAGNATED or
        M_NOT_POSITIVE. ``condition`` is a lower bound on κ of the damped, preconditioned J.

    Raises
    ------
    Breakdown
        At the first product, with J, Jᴴ or M, that is not finite.
    ValueError
        For wrong shapes or tolerances, or negative damping.

    Cost: one product with J and one with Jᴴ (and M) per step and column, up to two more for the true residual and
    gradient; memory 5 blocks of n and 2 of m numbers.
    Reference: Paige & Saunders (1982), doi:10.1145/355984.355989; with M: Arridge, Betcke & Harhanen (2014),
    doi:10.1088/0266-5611/30/7/075009.

    >>> import torch
    >>> from precondlab.operators import Dense
    >>> J = Dense(torch.tensor([[1.0], [1.0]], dtype=torch.float64))
    >>> solution = lsqr(J, torch.tensor([1.0, 3.0], dtype=torch.float64)).check()
    >>> solution.x, round(solution.residual_norm, 6), solution.compatible
    (tensor([2.], dtype=torch.float64), 1.414214, False)
    """
    if not 0 <= damp < np.inf:
        raise ValueError(f"lsqr: damp should be a number ≥ 0, got {damp!r}")
    system = System("lsqr", J, b, x0=x0, rtol=rtol, atol=atol, maxiter=maxiter, M=M, square=False)
    if damp:
        system.damp(damp)
    method = _LSQR(system, least=max(rtol, 10 * system.A.domain.eps))
    return method.finish(solve(system, method, callback=callback))


@dataclass
class _State(Columns):
    u: Tensor  # left vectors, unit
    p: Tensor  # right vectors, v = M p and vᴴp = 1
    v: Tensor
    w: Tensor  # search directions
    alpha: np.ndarray
    rho_bar: np.ndarray
    phi_bar: np.ndarray  # ± norm of the residual
    cos: np.ndarray  # rotation of the last step


class _LSQR(Method[_State]):
    hermitian = False
    minimizer = SolverStatus.OK
    size = 0.0  # lower bound on ‖J‖ in the geometry of M

    def start(self, x: Tensor, r: Tensor, index: np.ndarray) -> _State:
        self.runs[index] += 1
        system, host = self.system, self.system.host
        norms = system.size(r)
        u = r * host(_inverse(norms))
        p, v, alpha, outcome = self._right(system.A.backward(u), len(index))
        return _State(
            x=x.clone(),
            norms=norms,
            index=index,
            outcome=outcome,
            u=u,
            p=p,
            v=v,
            w=v.clone(),
            alpha=alpha,
            rho_bar=alpha.copy(),
            phi_bar=norms.copy(),
            cos=np.ones(len(index)),
        )

    def step(self, s: _State) -> None:
        system, host = self.system, self.system.host
        image = system.A.forward(s.v)
        length, product = dots(system.A.domain, (s.v, s.v))[0], system.size(image)
        require_finite(product, system.A, system.products)
        self.norm = max(self.norm, float((product * _inverse(np.sqrt(length))).max()))
        u = image - s.u * host(s.alpha)
        beta = system.size(u)
        s.u = u * host(_inverse(beta))
        p, v, alpha, outcome = self._right(system.A.backward(s.u) - s.p * host(beta), len(s.index))
        first = np.hypot(s.alpha, beta)
        self.size = max(self.size, float(first.max()))
        rho = np.hypot(s.rho_bar, beta)
        cos, sin = s.rho_bar * _inverse(rho), np.where(rho > 0, beta * _inverse(rho), 1)
        s.x.addcmul_(s.w, host(cos * s.phi_bar * _inverse(rho)))
        s.w = v - s.w * host(sin * alpha * _inverse(rho))
        self.record(s, s.outcome == None, s.alpha, beta)  # noqa: E711 (elementwise)
        s.rho_bar, s.phi_bar, s.cos = -cos * alpha, sin * s.phi_bar, cos
        s.p, s.v, s.alpha = p, v, alpha
        s.norms = np.abs(s.phi_bar)
        outcome[(np.abs(cos) * alpha <= self.least * self.size) & (outcome == None)] = SolverStatus.LEAST_SQUARES  # noqa: E711
        s.outcome = np.where(s.outcome == None, outcome, s.outcome)  # noqa: E711

    def _right(self, p: Tensor, count: int) -> tuple[Tensor, Tensor, np.ndarray, np.ndarray]:
        """Return p and ``M p`` scaled to ``pᴴMp = 1``, the scale α, and M_NOT_POSITIVE where there is none."""
        A, M = self.system.A, self.system.M
        outcome = np.full(count, None, dtype=object)
        if M is None:
            alpha, v = self.system.norm(p, A.domain), p
            require_finite(alpha, A, self.system.products)
        else:
            v = M.forward(p)
            square, sizes, images = dots(M.domain, (p, v), (p, p), (v, v))
            require_finite(sizes, A, self.system.products)
            require_finite(images, M, M.num_matvecs)
            outcome[square < 0] = SolverStatus.M_NOT_POSITIVE
            outcome[(square == 0) & (sizes > 0)] = SolverStatus.M_NOT_POSITIVE
            alpha = np.sqrt(np.maximum(square, 0))
        inverse = self.system.host(_inverse(alpha))
        p = p * inverse
        return p, p if M is None else v * inverse, alpha, outcome

    def optimality(self, r: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return ``‖Jᴴr‖ / (‖J‖ ‖r‖)`` in the geometry of M, and ``‖Jᴴr‖``."""
        gradient = self.system.A.backward(r)
        sizes = self.system.norm(gradient, self.system.A.domain)
        _, _, alpha, _ = self._right(gradient, r.shape[1])
        return alpha * _inverse(self.system.size(r)) / (self.size or 1), sizes

    def finish(self, solution: Solution) -> Solution:
        """Add what the recurrence has shown."""
        return replace(solution, bidiagonals=tuple((alpha, beta) for alpha, beta in self.coefficients()))


def _inverse(values: np.ndarray) -> np.ndarray:
    return np.divide(1, values, out=np.zeros_like(values), where=values > 0)
