"""Krylov recurrences and linear solvers, written on operators and blocks of torch vectors."""

from precondlab.krylov.basis import Basis
from precondlab.krylov.cg import cg
from precondlab.krylov.inverse import Inverse, NearEigenvalue, ShiftedInverse
from precondlab.krylov.lsqr import lsqr
from precondlab.krylov.minres import minres
from precondlab.krylov.recurrences import Bidiagonalization, Tridiagonalization, golub_kahan, lanczos
from precondlab.krylov.schur import GolubKahanSchur, KrylovSchur
from precondlab.krylov.solution import Solution, SolverStatus

__all__ = [
    "Basis",
    "Bidiagonalization",
    "GolubKahanSchur",
    "Inverse",
    "KrylovSchur",
    "NearEigenvalue",
    "ShiftedInverse",
    "Solution",
    "SolverStatus",
    "Tridiagonalization",
    "cg",
    "golub_kahan",
    "lanczos",
    "lsqr",
    "minres",
]
