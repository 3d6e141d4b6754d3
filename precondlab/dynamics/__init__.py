"""How training moves: loss curves and step counts predicted from the spectrum, and measured."""

from precondlab.dynamics.descent import Descent, descent, steps_bound
from precondlab.dynamics.prediction import TrainingCurve, predict_training

__all__ = ["Descent", "TrainingCurve", "descent", "predict_training", "steps_bound"]
