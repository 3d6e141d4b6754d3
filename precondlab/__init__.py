"""Matrix-free operators, spectra and preconditioners for physics-informed training."""

from importlib.metadata import PackageNotFoundError, version

from precondlab import (
    checkpoint,
    dynamics,
    krylov,
    models,
    operators,
    preconditioners,
    problems,
    spectrum,
    testing,
)
from precondlab.differentiation import Pointwise
from precondlab.dynamics import predict_training
from precondlab.map import Map
from precondlab.operator import Operator, as_operator
from precondlab.operators import GGN, Gram, Hessian, Jacobian, Kernel, tangent
from precondlab.space import Space
from precondlab.spectrum import (
    condition,
    diagonal,
    effective_dimension,
    frobenius_norm,
    kernel_polynomial,
    logdet,
    spectral_density,
    spectral_measure,
    trace,
)
from precondlab.symbol import Symbol
from precondlab.training import optimizers as optim

try:
    __version__ = version("precondlab")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0"

__all__ = [
    "GGN",
    "Gram",
    "Hessian",
    "Jacobian",
    "Kernel",
    "Map",
    "Operator",
    "Pointwise",
    "Space",
    "Symbol",
    "as_operator",
    "checkpoint",
    "condition",
    "diagonal",
    "effective_dimension",
    "frobenius_norm",
    "kernel_polynomial",
    "dynamics",
    "krylov",
    "logdet",
    "models",
    "operators",
    "optim",
    "preconditioners",
    "predict_training",
    "problems",
    "spectral_density",
    "spectral_measure",
    "spectrum",
    "tangent",
    "testing",
    "trace",
]
