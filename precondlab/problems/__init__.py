"""Boundary value problems ``D u = f`` with exact solutions, and their residual maps."""

from precondlab.problems.condition import Condition
from precondlab.problems.diffusion import heat
from precondlab.problems.elliptic import biharmonic, helmholtz, poisson
from precondlab.problems.problem import Problem
from precondlab.problems.reaction import fisher
from precondlab.problems.transport import advection, burgers, kdv, wave

__all__ = [
    "Condition",
    "Problem",
    "advection",
    "biharmonic",
    "burgers",
    "fisher",
    "heat",
    "helmholtz",
    "kdv",
    "poisson",
    "wave",
]
