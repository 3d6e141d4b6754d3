"""A training run that can be interrupted: what the command line makes of the loop, the checkpoints and the error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from precondlab.map import Map
from precondlab.training.loop import Entry, Outcome, train
from precondlab.training.optimizers.minimizer import Minimizer

__all__ = ["Session"]

_SPACING = 1.15  # ratio of the seconds at which the error is measured
_NAMES = ("step", "seconds", "loss", "validation", "error")


class Session:
    """Train a model in one or several sittings, and record loss, validation and error.

    ``Autosave(folder)(session)`` before :meth:`run` goes on from the last checkpoint in the folder.

    Parameters
    ----------
    model
        Of which r is the residual.
    make
        Makes the optimizer from r.
    sample
        ``sample(number)``: r on points number 1, 2, …; number 0 is for validation.
    error
        Of the model, e.g. against an exact solution.
    every
        Steps after which points are replaced by the next ones; 0 keeps them.

    Attributes
    ----------
    history : list of dict
        ``step, seconds, loss`` of every step, ``validation`` and ``error`` where they were measured, else None.

    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> x = torch.ones(3, 1, dtype=torch.float64)
    >>> r = Map(lambda p: x @ p["weight"].T - 2.0, dict(model.named_parameters()))
    >>> from precondlab.training.optimizers import LevenbergMarquardt
    >>> session = Session(model, LevenbergMarquardt, lambda number: r, error=lambda: abs(model.weight.item() - 2))
    >>> session.run(steps=9).name, session.history[-1]["error"] < 1e-12
    ('OK', True)
    """

    def __init__(
        self,
        model: nn.Module,
        make: Callable[[Map], Minimizer],
        sample: Callable[[int], Map],
        *,
        error: Callable[[], float],
        every: int = 0,
    ) -> None:
        self.model, self.sample, self.error, self.every = model, sample, error, every
        self.optimizer = make(sample(1))
        self.history: list[dict[str, Any]] = []

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return self.history[-1]["step"] if self.history else 0

    @property
    def seconds(self) -> float:
        """Seconds of training so far, measurements and checkpoints included."""
        return self.history[-1]["seconds"] if self.history else 0.0

    def run(
        self,
        *,
        steps: int,
        seconds: float = float("inf"),
        callbacks: Sequence[Callable[[Session], object]] = (),
    ) -> Outcome:
        """Train until the budgets, which count earlier sittings, are used up or there is a reason to stop.

        Callbacks are called after every step; one that returns True ends the sitting.
        """
        before, spent = self.steps, self.seconds
        if before >= steps or spent >= seconds:
            return Outcome.STEPS if before >= steps else Outcome.SECONDS
        self._renew()
        due = spent * _SPACING

        def record(entry: Entry) -> bool:
            nonlocal due
            now = spent + entry.seconds
            measured = self.error() if now >= due or entry.step == 1 or before + entry.step == steps else None
            due = now * _SPACING if measured is not None else due
            values = (before + entry.step, now, entry.loss, entry.validation, measured)
            self.history.append(dict(zip(_NAMES, values, strict=True)))
            if self.every and self.steps % self.every == 0:
                self._renew()
            return any([bool(callback(self)) for callback in callbacks])

        done = train(
            self.optimizer,
            steps=steps - before,
            seconds=seconds - spent,
            sample=self.sample,
            callbacks=[record],
        )
        if self.history and self.history[-1]["error"] is None:
            self.history[-1]["error"] = self.error()
        return done.status

    def _renew(self) -> None:
        """Put the optimizer on the points of the next step."""
        self.optimizer.residual = self.sample(1 + self.steps // self.every if self.every else 1)

    def state_dict(self) -> dict[str, Any]:
        """Return what it takes to go on as if there had been no interruption."""
        rows = [[float("nan") if row[name] is None else row[name] for name in _NAMES] for row in self.history]
        history = torch.tensor(rows, dtype=torch.float64).reshape(-1, len(_NAMES))
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "history": history}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state; refuses that of another optimizer or of other parameters."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.model.load_state_dict(state["model"])
        self.history = []
        for step, *values in state["history"].tolist():
            known = [None if value != value else value for value in values]
            self.history.append(dict(zip(_NAMES, (int(step), *known), strict=True)))
