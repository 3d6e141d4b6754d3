"""Krylov recurrences and linear solvers, written on operators and blocks of torch vectors."""

from precondlab.krylov.cg import cg
from precondlab.krylov.recurrences import Bidiagonalization, Tridiagonalization, golub_kahan, lanczos
from precondlab.krylov.solution import Solution, SolverStatus

__all__ = [
    "Bidiagonalization",
    "Solution",
    "SolverStatus",
    "Tridiagonalization",
    "cg",
    "golub_kahan",
    "lanczos",
]
