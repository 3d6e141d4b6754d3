"""Optimizers that own their residual, and the direct solution of linear models."""

from precondlab.training import optimizers
from precondlab.training.linear import FeatureFit, LinearFit, LinearStatus, equilibrated, fit_features, solve_linear

__all__ = [
    "FeatureFit",
    "LinearFit",
    "LinearStatus",
    "equilibrated",
    "fit_features",
    "optimizers",
    "solve_linear",
]
