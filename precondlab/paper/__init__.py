"""The tables of De Ryck, Bonnet, Mishra & de Bézenac (2024), recomputed from matrix-free operators.

Every function makes one table: the value theory gives beside the value measured.
"""

from precondlab.paper.fourier import (
    advection_resonance,
    advection_speeds,
    growth,
    hard_boundary,
    helmholtz_frequencies,
    pieces,
    poisson_gamma,
    poisson_large,
    poisson_steps,
    poisson_weight_sweep,
    poisson_weights,
)
from precondlab.paper.networks import fourier_network, tanh_network

__all__ = [
    "advection_resonance",
    "advection_speeds",
    "fourier_network",
    "growth",
    "hard_boundary",
    "helmholtz_frequencies",
    "pieces",
    "poisson_gamma",
    "poisson_large",
    "poisson_steps",
    "poisson_weight_sweep",
    "poisson_weights",
    "tanh_network",
]
