"""Optimizers with the ``torch.optim`` protocol, each owning the residual map it minimizes."""

from precondlab.training.optimizers.broyden import SelfScaledBroyden
from precondlab.training.optimizers.gradient_descent import GradientDescent
from precondlab.training.optimizers.kfac import KFAC
from precondlab.training.optimizers.lbfgs import LBFGS
from precondlab.training.optimizers.levenberg_marquardt import LevenbergMarquardt
from precondlab.training.optimizers.newton_cg import NewtonCG
from precondlab.training.optimizers.preconditioned import Preconditioned
from precondlab.training.optimizers.spring import Spring

__all__ = [
    "GradientDescent",
    "KFAC",
    "LBFGS",
    "LevenbergMarquardt",
    "NewtonCG",
    "Preconditioned",
    "SelfScaledBroyden",
    "Spring",
]
