"""One training run on a clock that stands still while the error is measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from precondlab.problems import Problem
from precondlab.problems.sampling import evaluation_points

__all__ = ["Trial"]

_POINTS = 10_000  # of the grid on which errors are measured
_AT_ONCE = 4096
_MEASUREMENTS = 30
_DECADES = 2.5  # from the first measurement to the last


class Trial:
    """A problem, a seed, and a budget of processor seconds; called after every step with the model as it is.

    A call returns whether the budget is used up. At about 30 times, equally spaced in their logarithms, it also
    measures the error, off the clock, relative to the exact solution on points that no rule of quadrature uses.

    Parameters
    ----------
    problem
        With an exact solution.
    seed
        Of networks and points.
    seconds
        Budget.
    clock
        Returns seconds.

    Attributes
    ----------
    curve
        Lists of equal length: ``seconds``, ``error`` (relative L²), ``largest`` (relative maximum), ``steps`` and
        ``loss``.
    steps
        Calls so far.
    off
        Seconds spent on measurements.
    parameters
        Trainable numbers of the model measured last.
    """

    def __init__(
        self, problem: Problem, *, seed: int, seconds: float, clock: Callable[[], float] = time.process_time
    ) -> None:
        if problem.exact is None:
            raise ValueError(f"Trial: {problem.name} has no exact solution to measure errors against")
        self.problem, self.seed, self.budget = problem, seed, seconds
        self.curve: dict[str, list[Any]] = {name: [] for name in ("seconds", "error", "largest", "steps", "loss")}
        self.steps = self.parameters = 0
        self._points = evaluation_points(problem.domain, _POINTS)
        self._exact = torch.cat([problem.exact(x) for x in self._points.split(_AT_ONCE)])
        self._due = [seconds * 10 ** (-_DECADES * (1 - k / (_MEASUREMENTS - 1))) for k in range(_MEASUREMENTS)]
        self._clock = clock
        self._last: tuple[nn.Module, float | Tensor | None] | None = None
        self.off, self._begin = 0.0, clock()

    @property
    def elapsed(self) -> float:
        """Seconds used so far, measurements left out."""
        return self._clock() - self._begin - self.off

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.budget - self.elapsed

    def __call__(self, model: nn.Module, loss: float | Tensor | None = None) -> bool:
        """Note a step; measure the error if that is due; return whether the time is used up."""
        self.steps += 1
        self._last = model, loss
        elapsed = self.elapsed
        if self._due and elapsed >= self._due[0]:
            self.measure(model, loss, elapsed=elapsed)
        return elapsed >= self.budget

    def measure(self, model: nn.Module, loss: float | Tensor | None = None, *, elapsed: float | None = None) -> float:
        """Add a point to the curve, whether it is due or not, and return the error."""
        elapsed = self.elapsed if elapsed is None else elapsed
        begin = self._clock()
        self._last = None
        self.parameters = sum(value.numel() for value in model.parameters() if value.requires_grad)
        with torch.no_grad():
            u = torch.cat([model(x) for x in self._points.split(_AT_ONCE)]).double()
        difference = u - self._exact
        error = (difference.norm() / self._exact.norm()).item()
        largest = (difference.abs().max() / self._exact.abs().max()).item()
        values = (elapsed, error, largest, self.steps, None if loss is None else float(loss))
        for name, value in zip(self.curve, values, strict=True):
            self.curve[name].append(value if value is None or math.isfinite(value) else None)
        self._due = [due for due in self._due if due > elapsed]
        self.off += self._clock() - begin
        return error

    def finish(self) -> None:
        """Measure the last step if it was not."""
        if self._last is not None:
            self.measure(*self._last)
