"""Boundary value problems ``D u = f`` with exact solutions, and their residual maps."""

from precondlab.problems.coefficients import convection_diffusion, variable_diffusion
from precondlab.problems.condition import Condition
from precondlab.problems.diffusion import heat
from precondlab.problems.elliptic import biharmonic, helmholtz, nonlinear_poisson, poisson
from precondlab.problems.flow import kovasznay
from precondlab.problems.phases import phase_separation
from precondlab.problems.problem import Problem
from precondlab.problems.published import (
    heat_rod,
    helmholtz_sines,
    logistic,
    poisson_cosines,
    poisson_sines,
    two_waves,
)
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
    "heat_rod",
    "helmholtz",
    "helmholtz_sines",
    "kdv",
    "kovasznay",
    "logistic",
    "nonlinear_poisson",
    "phase_separation",
    "poisson",
    "poisson_cosines",
    "poisson_sines",
    "two_waves",
    "variable_diffusion",
    "wave",
]
