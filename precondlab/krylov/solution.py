"""What a linear solver returns: the solution, its true residual, and what the run has shown about the operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import eigvalsh_tridiagonal

from precondlab.errors import Status

__all__ = ["Solution", "SolverStatus"]


class SolverStatus(Status):
    """How a solver ended; the value is advice. Of several columns the worst counts: the last in this order."""

    OK = "the residual recomputed at the end meets the tolerance (least squares: or the gradient Jᴴr does)"
    LEAST_SQUARES = (
        "a least-squares solution: ‖A r‖ ≤ √ε ‖A‖ ‖r‖, so the residual r is in the null space of A, or among "
        "eigenvalues below √ε ‖A‖, and will not fall further. Accept the minimizer, subtract r from b, or precondition"
    )
    MAXITER = "not converged within maxiter steps; give a preconditioner M, raise maxiter, or loosen rtol"
    ROUND_OFF = (
        "the residual has reached the round-off of a product, ε‖A‖‖x‖, above the tolerance; loosen rtol, use float64, "
        "or rescale the unknowns"
    )
    NOISY = (
        "equal products differ by .noise, and the residual stagnates there; make the model deterministic (no dropout, "
        "fixed points), or loosen rtol beyond the noise"
    )
    STAGNATED = (
        "the true residual no longer follows the recurrence, above the tolerance and above round-off; the operator or "
        "the preconditioner is not linear, or changes from product to product"
    )
    SINGULAR = (
        "A is numerically singular on the Krylov space and the right-hand side is not in its range; x is the iterate "
        "with the smallest residual. Use minres or lsqr, or add damping"
    )
    INDEFINITE = (
        "A is not positive: pᴴAp < 0 for p = .direction; use minres, or add damping beyond the negative curvature"
    )
    M_NOT_POSITIVE = "the preconditioner is not positive: rᴴMr ≤ 0 for a residual r; symmetrize M or leave it out"


@dataclass(frozen=True)
class Solution:
    """Result of a linear solver, for one right-hand side or for k columns together.

    Per-column quantities are numbers for a vector b and arrays ``[k]`` for a block.

    Attributes
    ----------
    x
        Solution ``[n]`` or ``[n k]``: a tensor on the device if b is one, else an array.
    status, statuses
        Worst outcome of all columns, and that of each column.
    residual_norm
        ``‖b − A x‖``, recomputed from x by a product of its own, never taken from the recurrence.
    relative_residual
        ``‖b − A x‖ / ‖b‖``; 0 for b = 0.
    tolerance
        What ``residual_norm`` was asked to be: ``max(rtol ‖b‖, atol)``.
    num_matvecs
        Products with A (and Aᴴ), counted in columns, those of checks and of the true residual included.
    history
        Residual norms of the recurrence, ``[steps + 1]`` or ``[steps + 1, k]``; entry 0 is the start. A column that
        has stopped keeps its last value.
    tridiagonals
        For every column the Lanczos matrix of the run, as (diagonal, off-diagonal): its eigenvalues are Ritz values
        of A, or of ``M A`` with a preconditioner. Empty for lsqr.
    bidiagonals
        For every column of lsqr the diagonal and the subdiagonal of the lower bidiagonal matrix ``[k + 1, k]``.
    error_bound
        Upper bound on ``‖x − A⁻¹b‖_A``, up to round-off in the residual (cg with ``floor=``), else None.
    gradient_norm
        ``‖Aᴴ(b − A x)‖``, recomputed where a column ends as a minimizer, else NaN; None if no column does. With a
        preconditioner minres minimizes ``rᴴMr``, and this is ``‖A M r‖``.
    direction
        Unit vector p with ``pᴴAp < 0`` if a column ended INDEFINITE (zero in the other columns), else None.
    noise
        Relative difference of two equal products, if it was measured, else None.
    """

    x: Any
    status: SolverStatus
    statuses: tuple[SolverStatus, ...]
    residual_norm: Any
    relative_residual: Any
    tolerance: Any
    num_matvecs: int
    history: np.ndarray
    tridiagonals: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    bidiagonals: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    error_bound: Any = None
    gradient_norm: Any = None
    direction: Any = None
    noise: float | None = None

    @property
    def steps(self) -> int:
        """Steps of the recurrence."""
        return len(self.history) - 1

    @property
    def compatible(self) -> bool:
        """Whether every residual meets the tolerance: b is in the range of A as far as the tolerance can tell."""
        return bool(np.all(self.residual_norm <= self.tolerance))

    @property
    def ritz_values(self) -> np.ndarray:
        """Ritz values of all columns, ascending; without reorthogonalization some may be copies of one eigenvalue."""
        values = [eigvalsh_tridiagonal(d, e) for d, e in self.tridiagonals if len(d)]
        return np.sort(np.concatenate([np.zeros(0), *values]))

    @property
    def singular_values(self) -> np.ndarray:
        """Singular values of all bidiagonals, ascending: between the extreme ones of J (of J P with ``M = PPᴴ``)."""
        values: list[Any] = [np.zeros(0)]
        for alpha, beta in self.bidiagonals:
            if len(alpha):
                pairs = np.stack([alpha, beta], axis=1).ravel()  # [0 B; Bᵀ 0], permuted to a tridiagonal matrix
                values.append(eigvalsh_tridiagonal(np.zeros(len(pairs) + 1), pairs)[len(alpha) + 1 :])
        return np.sort(np.concatenate(values))

    @property
    def condition(self) -> float:
        """Lower bound on κ of A (of ``M A``; of J for lsqr) that the run gives for free, up to round-off.

        The ratio of the extreme Ritz or singular values. NaN if there is none: no step was taken, or a Ritz value is
        not positive.
        """
        values = self.singular_values if self.bidiagonals else self.ritz_values
        return float(values[-1] / values[0]) if len(values) and values[0] > 0 else float("nan")

    def check(self) -> Solution:
        """Return self if the status is OK, else raise ``ArithmeticError`` with the advice."""
        if not self.status.ok:
            raise ArithmeticError(f"{self}: {self.status.advice}")
        return self

    def __str__(self) -> str:
        return (
            f"{self.status.name.lower()}: relative residual {np.max(self.relative_residual):.2g} after {self.steps} "
            f"steps, {self.num_matvecs} products"
        )
