"""Boundary value problems ``D u = f`` with exact solutions, and their residual maps."""

from precondlab.problems.coefficients import convection_diffusion, variable_diffusion
from precondlab.problems.condition import Condition
from precondlab.problems.diffusion import heat
from precondlab.problems.elliptic import biharmonic, helmholtz, poisson
from precondlab.problems.problem import Problem
from precondlab.problems.reaction import allen_cahn, fisher
from precondlab.problems.transport import advection, burgers, kdv, wave

__all__ = [
    "Condition",
    "Problem",
    "advection",
    "allen_cahn",
    "biharmonic",
    "burgers",
    "convection_diffusion",
    "fisher",
    "heat",
    "helmholtz",
    "kdv",
    "poisson",
    "variable_diffusion",
    "wave",
]
