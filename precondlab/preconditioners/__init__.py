"""Preconditioners: functions that return an operator approximating the inverse of A."""

from precondlab.preconditioners.deflation import deflation
from precondlab.preconditioners.design import Candidate, Design, DesignStatus, design
from precondlab.preconditioners.diagonal import block_jacobi, jacobi
from precondlab.preconditioners.equalize import Weighting, compare_weights, equalize
from precondlab.preconditioners.frozen import frozen
from precondlab.preconditioners.lowrank import nystrom, nystrom_adaptive, pivoted_cholesky
from precondlab.preconditioners.preconditioner import Preconditioner
from precondlab.preconditioners.symbol import symbol
from precondlab.preconditioners.weights import Balance, balance

__all__ = [
    "Balance",
    "Candidate",
    "Design",
    "DesignStatus",
    "Preconditioner",
    "Weighting",
    "balance",
    "block_jacobi",
    "compare_weights",
    "deflation",
    "design",
    "equalize",
    "frozen",
    "jacobi",
    "nystrom",
    "nystrom_adaptive",
    "pivoted_cholesky",
    "symbol",
]
