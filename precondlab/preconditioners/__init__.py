"""Preconditioners: functions that return an operator approximating the inverse of A."""

from precondlab.preconditioners.composition import additive, blockwise, multiplicative, nested, two_level
from precondlab.preconditioners.constraints import Constraint, Constraints, compare_constraints
from precondlab.preconditioners.deflation import deflation
from precondlab.preconditioners.design import Candidate, Design, DesignStatus, design
from precondlab.preconditioners.diagonal import block_jacobi, jacobi
from precondlab.preconditioners.equalize import Weighting, compare_weights, equalize
from precondlab.preconditioners.frozen import frozen
from precondlab.preconditioners.greens import greens_operator
from precondlab.preconditioners.kfac import kfac
from precondlab.preconditioners.lowrank import nystrom, nystrom_adaptive, pivoted_cholesky
from precondlab.preconditioners.mass import mass_stiffness
from precondlab.preconditioners.polynomial import chebyshev, lanczos_polynomial
from precondlab.preconditioners.preconditioner import Preconditioner
from precondlab.preconditioners.quasi_newton import lbfgs
from precondlab.preconditioners.saddle_free import saddle_free
from precondlab.preconditioners.schwarz import schwarz, subdomains
from precondlab.preconditioners.sketch import sketch
from precondlab.preconditioners.symbol import symbol
from precondlab.preconditioners.weights import Balance, balance

__all__ = [
    "Balance",
    "Candidate",
    "Constraint",
    "Constraints",
    "Design",
    "DesignStatus",
    "Preconditioner",
    "Weighting",
    "additive",
    "balance",
    "block_jacobi",
    "blockwise",
    "chebyshev",
    "compare_constraints",
    "compare_weights",
    "deflation",
    "design",
    "equalize",
    "frozen",
    "greens_operator",
    "jacobi",
    "kfac",
    "lanczos_polynomial",
    "lbfgs",
    "mass_stiffness",
    "multiplicative",
    "nested",
    "nystrom",
    "nystrom_adaptive",
    "pivoted_cholesky",
    "saddle_free",
    "schwarz",
    "sketch",
    "subdomains",
    "symbol",
    "two_level",
]
