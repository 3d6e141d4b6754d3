"""Optimizers with the ``torch.optim`` protocol, each owning the residual map it minimizes."""

from precondlab.training.optimizers.gradient_descent import GradientDescent

__all__ = ["GradientDescent"]
