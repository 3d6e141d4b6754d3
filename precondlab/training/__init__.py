"""Optimizers that own their residual, the training loop, the direct solution of linear models, a spectrum monitor."""

from precondlab.training import optimizers
from precondlab.training.linear import FeatureFit, LinearFit, LinearStatus, equilibrated, fit_features, solve_linear
from precondlab.training.loop import Entry, Outcome, Trained, train
from precondlab.training.monitor import SpectrumMonitor

__all__ = [
    "Entry",
    "FeatureFit",
    "LinearFit",
    "LinearStatus",
    "Outcome",
    "SpectrumMonitor",
    "Trained",
    "equilibrated",
    "fit_features",
    "optimizers",
    "solve_linear",
    "train",
]
