"""A training run that can be interrupted: what the command line makes of the loop, the checkpoints and the error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from precondlab.map import Map
from precondlab.training.loop import Entry, Outcome, train
from precondlab.training.optimizers.minimizer import Minimizer

__all__ = ["Session"]

_DIGITS = {torch.float64: 6}  # of recorded losses, of which others depend on the number of threads; else 3
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
    single
        Number of first steps taken in float32, fewer if there is nothing more to gain by them; then a new optimizer
        goes on in float64, which the model has to be in. Sample makes residuals in the dtype of the model.

    Attributes
    ----------
    history : list of dict
        ``step, seconds, loss`` of every step, ``validation`` and ``error`` where they were measured, else None.
    record : dict
        ``every, single`` and the losses on points 0 and 1 at the start, by which a state is known to be of this run.

    Raises
    ------
    ValueError
        For negative numbers of steps, or a model or residual in another dtype than ``single`` asks for.

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
        single: int = 0,
    ) -> None:
        if every < 0 or single < 0:
            raise ValueError(f"Session: expected every ≥ 0 and single ≥ 0, got {every} and {single}")
        if single and {p.dtype for p in model.parameters()} != {torch.float64}:
            raise ValueError(f"Session: single={single} goes on in float64; make the model in it, model.double()")
        self.model, self.make, self.sample, self.error = model, make, sample, error
        self.every, self.single = every, single
        self.history: list[dict[str, Any]] = []
        self._begin = 0  # number of steps before the present phase
        first = sample(1)
        digits = _DIGITS.get(first.domain.dtype, 3)
        losses = [float(f"{0.5 * r.value.square().sum().item():.{digits}g}") for r in (first, sample(0))]
        self.record = {"every": every, "single": single, "training": losses[0], "validation": losses[1]}
        self._fixed = _fixed(model) if single else {}
        self._in_single = bool(single)
        self._renew(first)

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
        if steps < 1 or not seconds > 0:
            raise ValueError(f"Session: expected steps ≥ 1 and seconds > 0, got {steps} and {seconds}")
        while True:
            last = min(steps, max(self.single, 1)) if self._in_single else steps
            status = self._train(last, seconds, callbacks)
            done = status in (Outcome.OK, Outcome.STALLED, Outcome.ROUNDOFF, Outcome.BREAKDOWN)
            if not self._in_single or not (done or (status is Outcome.STEPS and self.steps < steps)):
                return status
            self._begin, self._in_single = self.steps, False
            self._renew()

    def _train(self, steps: int, seconds: float, callbacks: Sequence[Callable[[Session], object]]) -> Outcome:
        """Go on with the present phase."""
        begin, earlier = self._begin, self.history[: self._begin]
        spent = earlier[-1]["seconds"] if earlier else 0.0
        if self.seconds >= seconds or begin >= steps:
            return Outcome.SECONDS if self.seconds >= seconds else Outcome.STEPS
        due = self.seconds * _SPACING

        def record(entry: Entry) -> bool:
            nonlocal due
            now, step = spent + entry.seconds, begin + entry.step
            measured = self.error() if now >= due or step in (1, steps) else None
            due = now * _SPACING if measured is not None else due
            values = (step, now, entry.loss, entry.validation, measured)
            self.history.append(dict(zip(_NAMES, values, strict=True)))
            if self.every and step % self.every == 0:
                self._renew()
            return any([bool(callback(self)) for callback in callbacks])

        done = train(
            self.optimizer,
            steps=steps - begin,
            seconds=seconds - spent,
            sample=self.sample,
            history=[
                Entry(row["step"] - begin, row["seconds"] - spent, row["loss"], row["validation"])
                for row in self.history[begin:]
            ],
            callbacks=[record],
        )
        if self.history and self.history[-1]["error"] is None:
            self.history[-1]["error"] = self.error()
        return done.status

    def _renew(self, residual: Map | None = None) -> None:
        """Put the optimizer on the points of the next step, a new one if the dtype is new."""
        if self.single:
            dtype = torch.float32 if self._in_single else torch.float64
            if any(p.dtype != dtype for p in self.model.parameters()):
                _convert(self.model, dtype, self._fixed)
                residual = None
        if residual is None:
            residual = self.sample(1 + self.steps // self.every if self.every else 1)
        if self.single and residual.domain.dtype != dtype:
            raise ValueError(
                f"Session: for single={self.single} sample should make residuals in the dtype of the model, now "
                f"{dtype}; got {residual.domain.dtype}"
            )
        optimizer = getattr(self, "optimizer", None)
        if optimizer is None or optimizer.residual.domain.dtype != residual.domain.dtype:
            self.optimizer = self.make(residual)
        else:
            self.optimizer.residual = residual
        self._drawn = self.optimizer.point()

    def state_dict(self) -> dict[str, Any]:
        """Return what it takes to go on as if there had been no interruption."""
        rows = [[float("nan") if row[name] is None else row[name] for name in _NAMES] for row in self.history]
        history = torch.tensor(rows, dtype=torch.float64).reshape(-1, len(_NAMES))
        return {
            "record": dict(self.record),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": history,
            "phase": {"begin": self._begin, "single": self._in_single},
            "drawn": self._drawn,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state; refuses that of another training, another optimizer or other parameters."""
        if state.get("record") != self.record:
            raise ValueError(
                f"Session: the state belongs to another training, {state.get('record')} where this one has "
                f"{self.record}; take the problem, points, weights and network it was saved with, or another folder"
            )
        self._begin, self._in_single = state["phase"]["begin"], state["phase"]["single"]
        self._renew()
        self.optimizer.load_state_dict(state["optimizer"])
        self.model.load_state_dict(state["model"])
        self.history = []
        for step, *values in state["history"].tolist():
            known = [None if value != value else value for value in values]
            self.history.append(dict(zip(_NAMES, (int(step), *known), strict=True)))
        now = self.optimizer.point()
        with torch.no_grad():
            self.optimizer.move(state["drawn"])  # where sample was called, for points that depend on the model
            self._renew()
            self.optimizer.move(now)


def _fixed(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of what is not trained."""
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    entries = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: value.detach().clone() for name, value in entries.items() if name not in trained}


def _convert(model: nn.Module, dtype: torch.dtype, fixed: Mapping[str, Tensor]) -> None:
    """Convert a model in place; what is not trained is as exact as the dtype allows."""
    model.to(dtype)
    entries = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for name, value in fixed.items():
            entries[name].copy_(value)
