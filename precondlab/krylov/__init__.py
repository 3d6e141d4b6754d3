"""Krylov recurrences, written on operators and blocks of torch vectors."""

from precondlab.krylov.recurrences import Bidiagonalization, Tridiagonalization, golub_kahan, lanczos

__all__ = ["Bidiagonalization", "Tridiagonalization", "golub_kahan", "lanczos"]
