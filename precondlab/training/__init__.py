"""Optimizers that own their residual."""

from precondlab.training import optimizers

__all__ = ["optimizers"]
