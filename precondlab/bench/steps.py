"""Steps of gradient descent and of conjugate gradients: promised by κ, predicted from the spectrum, and made."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from precondlab.dynamics import ConjugateGradients, GradientDescent, predict_training, steps_bound
from precondlab.dynamics.methods import Method
from precondlab.operator import Operator
from precondlab.operators import Gram
from precondlab.preconditioners.trial import steps_promised, trial
from precondlab.spectrum import Condition

__all__ = ["conjugate_gradients", "made", "steps_promised"]

Row = dict[str, Any]


def made(A: Gram, M: Operator | None, found: Condition, start: Tensor, *, rtol: float, limit: int) -> Row:
    """Train a linear model until ``√(L/L₀) ≤ rtol``, and say what was predicted.

    The loss is ``L = ½ eᵀAe`` of the error e in the parameters, so that ``√(L/L₀)`` is the error in the norm of A,
    which both bounds belong to: gradient descent ``e ← e − ηMAe`` with the best ``η = 2/(λ_min + λ_max)`` contracts it
    by ``(κ − 1)/(κ + 1)`` per step; where κ is not bounded it is 1/λ_max.

    Returns
    -------
    ``descent`` and ``cg``, each with ``bound`` (from κ; None where that is not bounded), ``predicted`` (from the
    spectral measure at the start, in exact arithmetic) and ``steps`` (made); None beyond the limit.
    """
    kappa, bounded = found.upper, math.isfinite(found.upper)
    rate = 2 / (found.smallest + found.largest) if bounded else 1 / found.largest
    descent, gradients = GradientDescent(rate), ConjugateGradients()
    rows = {
        "descent": {"predicted": _predicted(A, M, start, descent, rtol, limit), "learning_rate": rate},
        "cg": {"predicted": _predicted(A, M, start, gradients, rtol, limit)},
    }
    rows["descent"]["steps"] = _descent(A, M, start, rate, rtol, limit)
    rows["cg"]["steps"] = conjugate_gradients(A, M, start, rtol=rtol, limit=limit)
    rows["descent"]["bound"] = steps_bound(max(kappa, 1.0), rtol=rtol, rule="best") if bounded else None
    rows["cg"]["bound"] = steps_promised(kappa, rtol=rtol) if bounded else None
    return rows


def _predicted(A: Gram, M: Operator | None, start: Tensor, method: Method, rtol: float, limit: int) -> int | None:
    r = A.J.forward(start[:, None])[:, 0]
    curve = predict_training(A.J, r, steps=limit, method=method, preconditioner=M, num_matvecs=min(A.shape[0], limit))
    below = (curve.loss <= rtol**2 * curve.loss[0]).nonzero()[0]
    return int(below[0]) if len(below) else None


def _descent(A: Gram, M: Operator | None, start: Tensor, rate: float, rtol: float, limit: int) -> int | None:
    error, first = start[:, None], math.inf
    for step in range(limit + 1):
        gradient = A.forward(error)
        loss = (error * gradient).sum().item()
        first = loss if step == 0 else first
        if loss <= rtol**2 * first:
            return step
        if not loss < 1e6 * first:  # an η from an unfinished κ may be too large
            return None
        error = error - rate * (gradient if M is None else M.forward(gradient))
    return None


def conjugate_gradients(A: Gram, M: Operator | None, start: Tensor, *, rtol: float, limit: int) -> int | None:
    """Return the steps that reduce the error, first ``start``, by ``rtol`` in the norm of A; None beyond a limit."""
    found = trial(A, start, M=M, rtol=rtol, maxiter=limit)
    return found.steps if found.status.ok else None
