"""Optimizers that own their residual, the direct solution of linear models, and a monitor of the spectrum."""

from precondlab.training import optimizers
from precondlab.training.linear import FeatureFit, LinearFit, LinearStatus, equilibrated, fit_features, solve_linear
from precondlab.training.monitor import SpectrumMonitor

__all__ = [
    "FeatureFit",
    "LinearFit",
    "LinearStatus",
    "SpectrumMonitor",
    "equilibrated",
    "fit_features",
    "optimizers",
    "solve_linear",
]
