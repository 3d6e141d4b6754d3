"""Linear operators: derivatives of maps, their squares, and operators known by their entries."""

from precondlab.operators.gram import Gram, Kernel
from precondlab.operators.jacobian import Jacobian, tangent
from precondlab.operators.structured import BlockDiagonal, Dense, Diagonal, HStack, Identity, LowRank, VStack

__all__ = [
    "BlockDiagonal",
    "Dense",
    "Diagonal",
    "Gram",
    "HStack",
    "Identity",
    "Jacobian",
    "Kernel",
    "LowRank",
    "VStack",
    "tangent",
]
