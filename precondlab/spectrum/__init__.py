"""What can be said about the spectrum of an operator, with bounds that say what they rest on."""

from precondlab.spectrum.condition import Condition, ConditionStatus, condition

__all__ = ["Condition", "ConditionStatus", "condition"]
