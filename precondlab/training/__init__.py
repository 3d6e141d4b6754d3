"""Optimizers that own their residual, the training loop, time slabs, direct solution of linear models, a monitor."""

from precondlab.training import optimizers
from precondlab.training.linear import FeatureFit, LinearFit, LinearStatus, equilibrated, fit_features, solve_linear
from precondlab.training.loop import Entry, Outcome, Trained, train
from precondlab.training.monitor import SpectrumMonitor
from precondlab.training.session import Session
from precondlab.training.slabs import Slabs, march

__all__ = [
    "Entry",
    "FeatureFit",
    "LinearFit",
    "LinearStatus",
    "Outcome",
    "Slabs",
    "Session",
    "SpectrumMonitor",
    "Trained",
    "equilibrated",
    "fit_features",
    "march",
    "optimizers",
    "solve_linear",
    "train",
]
