"""What can be said about the spectrum of an operator, with bounds that say what they rest on."""

from precondlab.spectrum.chebyshev import kernel_polynomial
from precondlab.spectrum.condition import Condition, ConditionStatus, condition
from precondlab.spectrum.density import Density, spectral_density
from precondlab.spectrum.diagonal import diagonal
from precondlab.spectrum.estimate import Estimate
from precondlab.spectrum.extremes import eigsh, svds
from precondlab.spectrum.functionals import effective_dimension, logdet
from precondlab.spectrum.lobpcg import lobpcg
from precondlab.spectrum.measure import Measure, Share, spectral_measure
from precondlab.spectrum.pairs import Eigenpairs, ExtremesStatus, SingularTriplets
from precondlab.spectrum.smoothing import Smoothed
from precondlab.spectrum.trace import frobenius_norm, hutchinson, hutchpp, trace, xtrace

__all__ = [
    "Condition",
    "ConditionStatus",
    "Density",
    "Eigenpairs",
    "Estimate",
    "ExtremesStatus",
    "Measure",
    "Share",
    "SingularTriplets",
    "Smoothed",
    "condition",
    "diagonal",
    "effective_dimension",
    "eigsh",
    "frobenius_norm",
    "hutchinson",
    "hutchpp",
    "kernel_polynomial",
    "lobpcg",
    "logdet",
    "spectral_density",
    "spectral_measure",
    "svds",
    "trace",
    "xtrace",
]
