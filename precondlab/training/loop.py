"""The training loop: budgets, fresh points, a validation residual, and a reason to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from precondlab.errors import Breakdown, Status
from precondlab.map import Map

__all__ = ["Entry", "Outcome", "Trained", "train"]

_FLAT = 1e-3  # relative fall of the loss over the patience below which training has stalled
_RISE = 10.0  # loss of all steps of the patience over the smallest before them beyond which it has diverged
_ROUNDINGS = 4.0  # norm of r over its change by the rounding of the parameters up to which it is round-off


class Outcome(Status):
    """Why :func:`train` stopped."""

    OK = "the goal is reached"
    STEPS = "the steps are used up: raise steps"
    SECONDS = "the time is used up: raise seconds"
    STALLED = "the loss no longer falls: take a larger model, fresh points (every=…), or other weights"
    ROUNDOFF = "the loss is as small as its dtype allows: for a smaller one take a wider dtype or more points"
    DIVERGED = "the loss has grown and stays large: lower the step (lr), or start elsewhere"
    OVERFITTED = "the residual falls on the points of training only: take more points, or fresh ones (every=…)"
    STOPPED = "a callback asked to stop"
    BREAKDOWN = "the residual or its Jacobian is not finite: start elsewhere, or lower the step"

    @property
    def ok(self) -> bool:
        """Whether the loss is at the goal, or as small as its dtype allows."""
        return self in (Outcome.OK, Outcome.ROUNDOFF)


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
    history: Sequence[Entry] = (),
    callbacks: Sequence[Callable[[Entry], object]] = (),
) -> Trained:
    """Take steps until a goal, a budget or a reason to stop is reached.

    A loss that has not fallen by 0.1 % over the patience ends training: as diverged if it was above ten times the
    smallest before all the while; as overfitted if validation is far above it; as round-off if ``‖r(θ)‖`` is at most
    four times ``‖r(θ') − r(θ)‖``, where θ' is θ with each entry changed by its factor 1 ± ε, the distance of
    neighboring numbers; else as stalled. Validation far above a loss that still falls is overfitting if itself it has
    not fallen over the patience. A validation at its own round-off is never called far above.

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
        Steps over which the loss has to fall by 0.1 %.
    overfit
        Loss of validation over that of training from which it is far above.
    history
        Of an earlier sitting that this one goes on with: budgets and patience count from its beginning.
    callbacks
        Called with every new :class:`Entry`; one that returns True ends the training.

    Raises
    ------
    TypeError
        For an optimizer that does not own its residual.
    ValueError
        For budgets below 1, or ``every`` without ``sample``.

    Cost: that of the steps, one evaluation of r for every validation, and two at the end.

    >>> from precondlab.training.optimizers import LevenbergMarquardt
    >>> a = torch.tensor([4.0], requires_grad=True)
    >>> done = train(LevenbergMarquardt(Map(lambda p: p["a"] ** 2 - 4.0, {"a": a})), steps=20, goal=1e-10)
    >>> done.status.ok, done.history[-1].step < 10
    (True, True)
    """
    if not isinstance(getattr(optimizer, "residual", None), Map):
        kind = type(optimizer).__name__
        raise TypeError(
            f"train: expected an optimizer that owns its residual, such as pl.optim.LevenbergMarquardt(residual), got "
            f"{kind}; to train by a torch optimizer wrap it, pl.optim.Preconditioned(residual, optimizer, make=…)"
        )
    if steps < 1 or not seconds > 0 or patience < 5:
        raise ValueError(f"train: expected steps ≥ 1, seconds > 0 and patience ≥ 5, got {steps}, {seconds}, {patience}")
    if every < 0 or (every and sample is None):
        raise ValueError(f"train: every={every} needs sample, a function seed -> residual on other points")
    validate = None if sample is None else sample(0)
    course = _Course(history, patience, overfit, validate)
    start = time.perf_counter() - course.seconds
    while (status := course.reason(optimizer, goal)) is None:
        if course.seconds >= seconds or course.step >= steps:
            status = Outcome.SECONDS if course.seconds >= seconds else Outcome.STEPS
            break
        step = course.step + 1
        if every and step > 1 and (step - 1) % every == 0:
            assert sample is not None  # checked above
            optimizer.residual = sample((step - 1) // every)
        try:
            loss = optimizer.step().item()
        except Breakdown:
            status = Outcome.DIVERGED if course.loss.above(_RISE, 1) else Outcome.BREAKDOWN
            break
        due = validate is not None and (step % (patience // 5) == 0 or step == steps)
        checked = _loss(validate) if due and validate is not None else None
        course.append(Entry(step, time.perf_counter() - start, loss, checked))
        if any([bool(callback(course.history[-1])) for callback in callbacks]):
            status = course.reason(optimizer, goal) or Outcome.STOPPED
            break
    return Trained(tuple(course.history), status)


class _Course:
    """The history so far, and what it says about going on."""

    def __init__(self, history: Sequence[Entry], patience: int, overfit: float, validate: Map | None) -> None:
        self.patience, self.overfit, self.validate = patience, overfit, validate
        self.history: list[Entry] = []
        self.loss, self.validation = _Series(), _Series()
        for entry in history:
            self.append(entry)

    def append(self, entry: Entry) -> None:
        self.history.append(entry)
        self.loss.append(entry.loss)
        if entry.validation is not None:
            self.validation.append(entry.validation)

    @property
    def step(self) -> int:
        return self.history[-1].step if self.history else 0

    @property
    def seconds(self) -> float:
        return self.history[-1].seconds if self.history else 0.0

    def reason(self, optimizer: Trainer, goal: float) -> Outcome | None:
        """Return why to stop, budgets apart."""
        if not self.history:
            return None
        reached = self.history[-1].validation if self.validate is not None else self.history[-1].loss
        if reached is not None and reached <= goal:
            return Outcome.OK
        if self.loss.above(_RISE, self.patience):
            return Outcome.DIVERGED
        flat = self.loss.above(1 - _FLAT, self.patience)
        validations = self.patience // (self.patience // 5)
        if (flat or self.validation.above(1 - _FLAT, validations)) and self._far_above():
            return Outcome.OVERFITTED
        if flat:
            return Outcome.ROUNDOFF if _is_roundoff(optimizer.residual) else Outcome.STALLED
        return None

    def _far_above(self) -> bool:
        if self.validate is None or not self.validation.values:
            return False
        return self.validation.values[-1] > self.overfit * self.loss.values[-1] and not _is_roundoff(self.validate)


class _Series:
    """Numbers and their running minimum."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.lowest: list[float] = []

    def append(self, value: float) -> None:
        self.values.append(value)
        self.lowest.append(min([value, *self.lowest[-1:]]))

    def above(self, factor: float, window: int) -> bool:
        """Whether the last ones, as many as the window has, are all at least a factor times the smallest before."""
        return len(self.values) > window and min(self.values[-window:]) >= factor * self.lowest[-window - 1]


def _loss(residual: Map) -> float:
    return 0.5 * residual.value.square().sum().item()


def _is_roundoff(residual: Map) -> bool:
    here = residual.domain.ravel(residual.params).detach()
    signs = residual.domain.random(1)[:, 0].sign()
    r = residual(here)
    change = residual(here * (1 + torch.finfo(here.dtype).eps * signs)) - r
    return bool(r.norm() <= _ROUNDINGS * change.norm())
