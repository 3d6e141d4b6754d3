"""How training moves: loss curves and step counts predicted from the spectrum, and measured."""

from precondlab.dynamics.descent import Descent, descent, steps_bound
from precondlab.dynamics.drift import Observation, observe, remainder
from precondlab.dynamics.methods import ConjugateGradients, GradientDescent, Momentum
from precondlab.dynamics.modes import Modes, ModesStatus, modes
from precondlab.dynamics.prediction import Departure, TrainingCurve, departure, predict_training

__all__ = [
    "ConjugateGradients",
    "Departure",
    "Descent",
    "GradientDescent",
    "Modes",
    "ModesStatus",
    "Momentum",
    "Observation",
    "TrainingCurve",
    "departure",
    "descent",
    "modes",
    "observe",
    "predict_training",
    "remainder",
    "steps_bound",
]
