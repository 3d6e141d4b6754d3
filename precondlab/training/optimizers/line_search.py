"""How far to go along a direction."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import line_search
from torch import Tensor

from precondlab.map import Map
from precondlab.training.optimizers.minimizer import Evaluation, Step

__all__ = ["Search", "SearchStep", "armijo", "strong_wolfe"]

_DECREASE, _CURVATURE = 1e-4, 0.9  # of the Wolfe conditions
_SMALLER = 10  # tenths of the shortest length tried before the search gives up
_HALVINGS = 30  # before :func:`armijo` gives up

Limit = Literal["wolfe", "decrease", "stationary"]


@dataclass(frozen=True)
class Search:
    """Where a line search ended.

    Attributes
    ----------
    end
        Loss and gradient there.
    length
        α in ``θ + αd``; 0 if the search failed.
    trials
        Evaluations.
    limit
        ``"wolfe"`` (both conditions hold), ``"decrease"`` (the loss falls enough but the slope does not) or
        ``"stationary"`` (no length reduces the loss).
    """

    end: Evaluation
    length: float
    trials: int
    limit: Limit


@dataclass(frozen=True)
class SearchStep(Step):
    """What one step with a line search did.

    Attributes
    ----------
    reached
        ``½‖r‖²`` after it.
    trials
        Evaluations of loss and gradient.
    memory
        Steps whose curvature the direction was made from; 0 is the gradient.
    restarts
        Times this step forgot them because they led nowhere.
    limit
        That of :class:`Search`: ``"stationary"`` means that the loss does not fall along the gradient either.
    """

    reached: float
    trials: int
    memory: int
    restarts: int


def strong_wolfe(evaluate: Callable[[Tensor], Evaluation], start: Evaluation, direction: Tensor) -> Search:
    """Find α with ``φ(α) ≤ φ(0) + 10⁻⁴αφ′(0)`` and ``|φ′(α)| ≤ 0.9 |φ′(0)|`` for ``φ(α) = L(θ + αd)``, α = 1 first.

    SciPy's search on the numbers φ and φ′: vectors stay where they are. If it fails, the best of its trials is
    taken, or the first of ever shorter ones that reduces the loss. A loss that is not finite is infinite.

    Cost: one evaluation with gradient per trial, usually 1 or 2; at most about 30.
    Reference: Nocedal & Wright (2006), doi:10.1007/978-0-387-40065-5, Algorithms 3.5 and 3.6.
    """
    slope = (start.gradient @ direction).item()
    if not slope < 0:
        return Search(start, 0.0, 0, "stationary")
    tried: dict[float, tuple[Evaluation, float]] = {0.0: (start, slope)}

    def at(x: np.ndarray) -> tuple[float, float]:
        length = float(x[0])
        if length not in tried:
            there = evaluate(start.point + length * direction)
            tried[length] = (there, (there.gradient @ direction).item() if there.finite else math.inf)
        there, derivative = tried[length]
        return (there.loss, derivative) if there.finite else (math.inf, math.inf)

    def enough(length: float) -> bool:
        loss = at(np.array([length]))[0]
        return loss < start.loss and loss <= start.loss + _DECREASE * length * slope

    with warnings.catch_warnings():  # about what is looked at below
        warnings.simplefilter("ignore")
        found = line_search(
            lambda x: at(x)[0],
            lambda x: np.array([at(x)[1]]),
            *(np.zeros(1), np.ones(1)),
            gfk=np.array([slope]),
            old_fval=start.loss,
            c1=_DECREASE,
            c2=_CURVATURE,
        )[0]
    length = found if found is not None and enough(found) else 0.0
    if not length:
        shortest = min(filter(None, tried))
        length = min(filter(enough, list(tried)), key=lambda a: tried[a][0].loss, default=0.0)
        for _ in range(_SMALLER):
            if length:
                break
            shortest /= 10
            length = shortest if enough(shortest) else 0.0
    end, derivative = tried[length]
    limit = "stationary" if not length else "wolfe" if abs(derivative) <= -_CURVATURE * slope else "decrease"
    return Search(end, length, len(tried) - 1, limit)


def armijo(residual: Map, start: Evaluation, direction: Tensor, length: float = 1.0) -> tuple[float, float, int]:
    """Return the first of ever halved lengths with ``φ(α) ≤ φ(0) + 10⁻⁴αφ′(0)``, the loss there, and the trials.

    The length is 0 if none does; a loss that is not finite does not.

    Cost: one evaluation of r per trial, 30 at most.
    Reference: Armijo (1966), doi:10.2140/pjm.1966.16.1.
    """
    slope = (start.gradient @ direction).item()
    for trials in range(1, _HALVINGS + 1):
        r = residual(start.point + length * direction)
        loss = 0.5 * (r @ r).item()
        if loss <= start.loss + _DECREASE * length * slope and loss < start.loss:
            return length, loss, trials
        length /= 2
    return 0.0, start.loss, _HALVINGS
