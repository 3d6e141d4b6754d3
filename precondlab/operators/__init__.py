"""Linear operators: derivatives of maps, their squares, and operators known by their entries."""

from precondlab.operators.curvature import GGN
from precondlab.operators.differential import Differential, Multiplier
from precondlab.operators.gram import Gram, Kernel
from precondlab.operators.hessian import Hessian
from precondlab.operators.jacobian import Jacobian, tangent
from precondlab.operators.structured import BlockDiagonal, Dense, Diagonal, HStack, Identity, LowRank, VStack

__all__ = [
    "GGN",
    "Hessian",
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
