"""SciPy's ways to a condition number: ARPACK, shift and invert, LOBPCG, svds, LSMR, a dense factorization."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, cg, eigsh, lobpcg, lsmr, svds

from precondlab.bench.ways.spectral.computation import Computation
from precondlab.bench.ways.spectral.fourier import FourierPoisson

__all__ = ["Arpack", "Dense", "Lobpcg", "Lsmr", "ShiftInvert", "Svds"]

_SOLVE_RTOL = 1e-10
_MANY = 10**6  # iterations: the budget ends what does not converge
_DENSE_BYTES = 2**30


class _Fourier(Computation):
    """Options: ``K``; ``products`` and ``seconds`` of the budget."""

    def problem(self) -> FourierPoisson:
        return FourierPoisson(self.options["K"], self.budget)

    def operator(self, problem: FourierPoisson) -> LinearOperator:
        n = problem.size
        return LinearOperator((n, n), matvec=problem.product, rmatvec=problem.product, dtype=np.float64)  # pyright: ignore[reportCallIssue]

    def near(self, problem: FourierPoisson) -> LinearOperator:
        n = problem.size
        return LinearOperator((n, n), matvec=problem.precondition, dtype=np.float64)  # pyright: ignore[reportCallIssue]

    def factor(self, problem: FourierPoisson) -> LinearOperator:
        shape = problem.size + 1, problem.size
        return LinearOperator(shape, matvec=problem.forward, rmatvec=problem.backward, dtype=np.float64)  # pyright: ignore[reportCallIssue]

    def largest(self, A: LinearOperator) -> float:
        return float(eigsh(A, 1, which="LA", v0=_start(A.shape[0]), return_eigenvectors=False)[0])


class Arpack(_Fourier):
    """``eigsh`` at both ends; option ``which`` for the small one."""

    def run(self) -> dict[str, Any]:
        A = self.operator(self.problem())
        smallest = eigsh(A, 1, which=self.options["which"], v0=_start(A.shape[0]), return_eigenvectors=False)[0]
        return {"value": self.largest(A) / float(smallest)}


class ShiftInvert(_Fourier):
    """``eigsh(sigma=0, OPinv=…)`` with CG, preconditioned by the symbol if ``preconditioned``."""

    def run(self) -> dict[str, Any]:
        problem = self.problem()
        A = self.operator(problem)
        M = self.near(problem) if self.options.get("preconditioned") else None
        failures = 0

        def solve(b: np.ndarray) -> np.ndarray:
            nonlocal failures
            x, info = cg(A, b, rtol=_SOLVE_RTOL, maxiter=10 * problem.size, M=M)
            failures += info != 0
            return x

        inverse = LinearOperator(A.shape, matvec=solve, dtype=np.float64)  # pyright: ignore[reportCallIssue]
        smallest = eigsh(A, 1, sigma=0.0, OPinv=inverse, v0=_start(A.shape[0]), return_eigenvectors=False)[0]
        doubt = {"doubt": f"{failures} solves by cg did not converge"} if failures else {}
        return {"value": self.largest(A) / float(smallest)} | doubt


class Lobpcg(_Fourier):
    """``lobpcg`` at both ends, the small one preconditioned by the symbol if ``preconditioned``."""

    def run(self) -> dict[str, Any]:
        problem = self.problem()
        A = self.operator(problem)
        M = self.near(problem) if self.options.get("preconditioned") else None
        X = np.random.default_rng(0).standard_normal((problem.size, 3))
        small = lobpcg(A, X.copy(), M=M, largest=False, maxiter=_MANY)[0]
        large = lobpcg(A, X.copy(), largest=True, maxiter=_MANY)[0]
        return {"value": float(np.max(large) / np.min(small))}


class Svds(_Fourier):
    """``svds`` of J at both ends."""

    def run(self) -> dict[str, Any]:
        J = self.factor(self.problem())
        v0 = _start(min(J.shape))
        ends: list[Any] = [svds(J, 1, which=which, v0=v0, return_singular_vectors=False) for which in ("SM", "LM")]
        return {"value": float(ends[1][0] / ends[0][0]) ** 2}


class Lsmr(_Fourier):
    """The estimate ``conda`` of ``lsmr(J, b)``, run to round-off."""

    def run(self) -> dict[str, Any]:
        J = self.factor(self.problem())
        b = np.random.default_rng(0).standard_normal(J.shape[0])
        found = lsmr(J, b, atol=1e-14, btol=1e-14, conlim=0, maxiter=_MANY)
        return {"value": float(found[6]) ** 2}


class Dense(_Fourier):
    """J from its columns, and LAPACK's singular values."""

    def run(self) -> dict[str, Any]:
        problem = self.problem()
        size = 8 * problem.size**2
        if size > _DENSE_BYTES:
            return {"status": "gave up", "reason": f"J takes {size / 1e9:.1f} GB"}
        J = np.stack([problem.forward(e) for e in np.eye(problem.size)], axis=1)
        values = np.linalg.svd(J, compute_uv=False)
        return {"value": float(values[0] / values[-1]) ** 2}


def _start(size: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(size)
