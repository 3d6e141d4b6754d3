"""Gradient descent on a quadratic: how many steps it takes, predicted and measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from precondlab.errors import Breakdown
from precondlab.operator import Operator

__all__ = ["Descent", "descent", "steps_bound"]

Rule = Literal["safe", "best"]
_BETWEEN_CHECKS = 1000  # steps taken before the error is looked at


@dataclass(frozen=True)
class Descent:
    """Steps of gradient descent ``θ ← θ − η∇L`` until the parameter error has fallen by ``rtol``.

    Attributes
    ----------
    bound
        Steps that suffice from any start, from κ alone.
    predicted
        Steps from this start, from the eigenvalues and the start's components.
    measured
        Steps taken, iterating.
    learning_rate
        η.
    """

    bound: int
    predicted: int
    measured: int
    learning_rate: float


def steps_bound(kappa: float, /, *, rtol: float, rule: Rule = "safe") -> int:
    """Return how many steps of gradient descent reduce any error by ``rtol`` at a condition number κ.

    The factor per step is ``1 − 1/κ`` for ``η = 1/λ_max`` (``"safe"``) and
    ``(κ − 1)/(κ + 1)`` for ``η = 2/(λ_min + λ_max)`` (``"best"``).

    >>> steps_bound(3.0, rtol=1e-3, rule="best")  # the factor is 1/2
    10
    """
    if not kappa >= 1 or not 0 < rtol < 1:
        raise ValueError(f"steps_bound: expected κ ≥ 1 and 0 < rtol < 1, got κ={kappa} and rtol={rtol}")
    contraction = 1 / kappa if rule == "safe" else 2 / (kappa + 1)
    return 1 if contraction >= 1 else math.ceil(math.log(rtol) / math.log1p(-contraction))


def descent(
    A: Operator, error: Tensor, /, *, rtol: float = 1e-8, rule: Rule = "safe", maxiter: int = 10_000_000
) -> Descent:
    """Count the steps of gradient descent on ``½ eᵀAe`` until ``‖e_k‖ ≤ rtol ‖e₀‖``.

    ``e_k = (I − ηA)ᵏ e₀`` is the parameter error ``θ_k − θ*`` of a linear model, whatever the data.
    To follow a preconditioned iteration in the coordinates ``θ = Pθ̂`` pass ``P.H @ A @ P``.

    Parameters
    ----------
    A
        Positive definite operator; formed densely, as millions of steps are cheap only then.
    error
        e₀ ``[n]``.
    rtol
        Relative reduction of the error.
    rule
        ``"safe"``: ``η = 1/λ_max``; ``"best"``: ``η = 2/(λ_min + λ_max)``.
    maxiter
        Steps after which the measurement gives up.

    Raises
    ------
    Breakdown
        If A is not positive definite to round-off, or maxiter steps do not suffice.

    Cost: n products with A, then O(n²) operations per step.

    >>> from precondlab.operators import Diagonal
    >>> A = Diagonal(torch.tensor([1.0, 3.0], dtype=torch.float64))
    >>> descent(A, torch.ones(2, dtype=torch.float64), rtol=1e-3, rule="best").measured
    10
    """
    matrix = A.dense()
    values, vectors = torch.linalg.eigh((matrix + matrix.mH) / 2)
    smallest, largest = values[0].item(), values[-1].item()
    if smallest <= 0:
        raise Breakdown(f"descent: {A!r} is not positive definite (smallest eigenvalue {smallest:.3e})")
    rate = 1 / largest if rule == "safe" else 2 / (smallest + largest)
    factors = (1 - rate * values).abs()
    components = (vectors.mH @ error).abs()
    return Descent(
        bound=steps_bound(largest / smallest, rtol=rtol, rule=rule),
        predicted=_predicted(factors, components, rtol),
        measured=_measured(matrix, error, rate, rtol, maxiter),
        learning_rate=rate,
    )


def _predicted(factors: Tensor, components: Tensor, rtol: float) -> int:
    """Return the first k with ``‖factorsᵏ · components‖ ≤ rtol ‖components‖``, by bisection."""
    target = rtol * components.norm().item()
    low, high = 0, 1
    while (factors**high * components).norm().item() > target:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if (factors**middle * components).norm().item() <= target else (middle, high)
    return high


def _measured(matrix: Tensor, error: Tensor, rate: float, rtol: float, maxiter: int) -> int:
    target = rtol * error.norm().item()
    step = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device) - rate * matrix
    e, taken = error.clone(), 0
    while taken < maxiter:
        before, e = e, _iterate(step, e, _BETWEEN_CHECKS)
        if e.norm().item() <= target:
            e = before
            while e.norm().item() > target:
                e, taken = step @ e, taken + 1
            return taken
        taken += _BETWEEN_CHECKS
    raise Breakdown(f"descent: {maxiter} steps did not reduce the error by {rtol:g}; raise maxiter")


def _iterate(step: Tensor, e: Tensor, count: int) -> Tensor:
    e, spare = e.clone(), torch.empty_like(e)
    for _ in range(count):
        torch.mv(step, e, out=spare)
        e, spare = spare, e
    return e
