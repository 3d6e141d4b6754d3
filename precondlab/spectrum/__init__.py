"""What can be said about the spectrum of an operator, with bounds that say what they rest on."""

from precondlab.spectrum.condition import Condition, ConditionStatus, condition
from precondlab.spectrum.extremes import Eigenpairs, ExtremesStatus, SingularTriplets, eigsh, svds
from precondlab.spectrum.lobpcg import lobpcg

__all__ = [
    "Condition",
    "ConditionStatus",
    "Eigenpairs",
    "ExtremesStatus",
    "SingularTriplets",
    "condition",
    "eigsh",
    "lobpcg",
    "svds",
]
