"""Linear operators: derivatives of maps, their squares, and operators known by their entries."""

from precondlab.operators.differential import Differential, Multiplier
from precondlab.operators.gram import Gram, Kernel
from precondlab.operators.jacobian import Jacobian, tangent
from precondlab.operators.structured import BlockDiagonal, Dense, Diagonal, HStack, Identity, LowRank, VStack

__all__ = [
    "BlockDiagonal",
    "Dense",
    "Diagonal",
    "Differential",
    "Gram",
    "HStack",
    "Identity",
    "Jacobian",
    "Kernel",
    "LowRank",
    "Multiplier",
    "VStack",
    "tangent",
]
