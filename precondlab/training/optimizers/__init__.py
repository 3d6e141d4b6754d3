"""Optimizers with the ``torch.optim`` protocol, each owning the residual map it minimizes."""

from precondlab.training.optimizers.gradient_descent import GradientDescent
from precondlab.training.optimizers.levenberg_marquardt import LevenbergMarquardt

__all__ = ["GradientDescent", "LevenbergMarquardt"]
