"""Exceptions, warnings and statuses: everything that tells a user what went wrong and what to do."""

from __future__ import annotations

from enum import Enum

__all__ = [
    "Breakdown",
    "CheckpointError",
    "CheckpointWarning",
    "NotConverged",
    "NotDeterministic",
    "NotPositive",
    "NotSymmetric",
    "Slow",
    "Status",
    "WrongDerivative",
]


class NotPositive(ValueError):
    """An operator declared positive has a direction of negative curvature."""


class NotSymmetric(ValueError):
    """An operator declared symmetric is not."""


class NotDeterministic(ValueError):
    """Two evaluations with the same input differ."""


class WrongDerivative(ValueError):
    """No differentiation route reproduces the finite differences of the map."""


class Breakdown(ArithmeticError):
    """A recurrence cannot be continued: a non-finite or vanishing quantity appeared."""


class CheckpointError(ValueError):
    """A checkpoint is not as it was written, or belongs to something else."""


class CheckpointWarning(RuntimeWarning):
    """A state was restored, but not the last one, or not for the settings it was saved with."""


class NotConverged(RuntimeWarning):
    """A result is a bound or an estimate, not converged to the requested tolerance."""


class Slow(RuntimeWarning):
    """The computation is right but runs on a slow path."""


class Status(Enum):
    """Outcome of a numerical procedure: the member says what happened, its value what to do.

    Subclasses list their outcomes; the member named ``OK`` is a success, the only one unless they say otherwise.

    >>> class Search(Status):
    ...     OK = "the minimum is bracketed"
    ...     FLAT = "the function is constant: widen the bounds"
    >>> Search.FLAT.ok, Search.FLAT.advice
    (False, 'the function is constant: widen the bounds')
    """

    @property
    def ok(self) -> bool:
        """Whether the result is what it claims to be."""
        return self.name == "OK"

    @property
    def advice(self) -> str:
        """What the user can do about it."""
        return self.value
