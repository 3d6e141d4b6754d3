"""The training loop: budgets, fresh points, a validation residual, and a reason to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from precondlab.errors import Breakdown, Status
from precondlab.map import Map

__all__ = ["Entry", "Outcome", "Trained", "train"]

_FLAT = 1e-3  # relative fall of the loss over the patience below which training has stalled


class Outcome(Status):
    """Why :func:`train` stopped."""

    OK = "the goal is reached"
    STEPS = "the steps are used up: raise steps"
    SECONDS = "the time is used up: raise seconds"
    STALLED = "the loss no longer falls: take a larger model, fresh points (every=…), or other weights"
    OVERFITTED = "the residual falls on the points of training only: take more points, or fresh ones (every=…)"
    STOPPED = "a callback asked to stop"
    BREAKDOWN = "the residual or its Jacobian is not finite: start elsewhere, or lower the step"


class Trainer(Protocol):
    """What is trained with: an optimizer that owns its residual."""

    @property
    def residual(self) -> Map:
        """The map that is minimized; setting it goes on with another one of the same parameters."""
        ...

    @residual.setter
    def residual(self, residual: Map) -> None: ...

    def step(self) -> Tensor:
        """Take one step and return the loss before it."""
        ...


@dataclass(frozen=True)
class Entry:
    """One line of the history.

    Attributes
    ----------
    step
        Steps taken.
    seconds
        Since the start, everything included.
    loss
        ``½‖r‖²`` on the points of training before the last step.
    validation
        ``½‖r‖²`` on points of their own, where they were evaluated; None elsewhere.
    """

    step: int
    seconds: float
    loss: float
    validation: float | None


@dataclass(frozen=True)
class Trained:
    """Result of :func:`train`: the history and the reason to stop."""

    history: tuple[Entry, ...]
    status: Outcome


def train(
    optimizer: Trainer,
    /,
    *,
    steps: int,
    seconds: float = float("inf"),
    goal: float = 0.0,
    sample: Callable[[int], Map] | None = None,
    every: int = 0,
    patience: int = 50,
    overfit: float = 100.0,
    callbacks: Sequence[Callable[[Entry], object]] = (),
) -> Trained:
    """Take steps until a goal, a budget or a reason to stop is reached.

    Parameters
    ----------
    optimizer
        Owns its residual, as :class:`~precondlab.training.optimizers.LevenbergMarquardt` does.
    steps, seconds
        Budgets; a step that was begun is finished.
    goal
        Loss ``½‖r‖²`` at which to stop: that of validation if there is one.
    sample
        ``sample(seed)`` returns the residual of the same model on other points. If given, validation is on
        ``sample(0)`` after every ``patience // 5`` steps and at the end.
    every
        Steps after which training goes on on fresh points ``sample(1)``, ``sample(2)``, …; 0 keeps the points.
    patience
        Steps over which the loss has to fall by 0.1 %, else training has stalled.
    overfit
        Loss of validation over that of training beyond which, if it also rises, the points are overfitted.
    callbacks
        Called with every :class:`Entry`; one that returns True ends the training.

    Raises
    ------
    ValueError
        For budgets below 1, or ``every`` without ``sample``.

    Cost: that of the steps, and one evaluation of r for every validation.

    >>> import torch
    >>> from precondlab.training.optimizers import LevenbergMarquardt
    >>> a = torch.tensor([4.0], requires_grad=True)
    >>> done = train(LevenbergMarquardt(Map(lambda p: p["a"] ** 2 - 4.0, {"a": a})), steps=20, goal=1e-10)
    >>> done.status.ok, done.history[-1].step < 10
    (True, True)
    """
    if steps < 1 or not seconds > 0 or patience < 5:
        raise ValueError(f"train: expected steps ≥ 1, seconds > 0 and patience ≥ 5, got {steps}, {seconds}, {patience}")
    if every < 0 or (every and sample is None):
        raise ValueError(f"train: every={every} needs sample, a function seed -> residual on other points")
    start, history = time.perf_counter(), []
    validate = None if sample is None else sample(0)
    for step in range(1, steps + 1):
        if every and step > 1 and (step - 1) % every == 0:
            assert sample is not None  # checked above
            optimizer.residual = sample((step - 1) // every)
        try:
            loss = optimizer.step().item()
        except Breakdown:
            return Trained(tuple(history), Outcome.BREAKDOWN)
        due = validate is not None and (step % (patience // 5) == 0 or step == steps)
        checked = _loss(validate) if due and validate is not None else None
        history.append(Entry(step, time.perf_counter() - start, loss, checked))
        asked = [bool(callback(history[-1])) for callback in callbacks]
        status = _reason(history, goal, seconds, patience, overfit, judged=validate is not None)
        if any(asked) or status is not None:
            return Trained(tuple(history), status or Outcome.STOPPED)
    return Trained(tuple(history), Outcome.STEPS)


def _reason(
    history: Sequence[Entry], goal: float, seconds: float, patience: int, overfit: float, *, judged: bool
) -> Outcome | None:
    last = history[-1]
    reached = last.validation if judged else last.loss
    if reached is not None and reached <= goal:
        return Outcome.OK
    if last.seconds >= seconds:
        return Outcome.SECONDS
    seen = [entry.validation for entry in history if entry.validation is not None]
    if last.validation is not None and len(seen) > 2:
        rises = last.validation > min(seen[:-1])
        if rises and last.validation > overfit * last.loss:
            return Outcome.OVERFITTED
    if len(history) > patience:
        recent = min(entry.loss for entry in history[-patience:])
        if recent > (1 - _FLAT) * min(entry.loss for entry in history[:-patience]):
            return Outcome.STALLED
    return None


def _loss(residual: Map) -> float:
    return 0.5 * residual.value.square().sum().item()
