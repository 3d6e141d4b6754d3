"""Loss curves of training in the linear regime, predicted from a few products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.dynamics.measure import measure, require_residual
from precondlab.dynamics.methods import GradientDescent, Method
from precondlab.errors import Status
from precondlab.krylov.checks import require_integer
from precondlab.operator import Operator, as_operator

__all__ = ["Departure", "DepartureStatus", "TrainingCurve", "departure", "predict_training"]


@dataclass(frozen=True)
class TrainingCurve:
    """Predicted losses ``L(0) … L(steps)``; the index is the step.

    Attributes
    ----------
    loss
        The prediction: exact for the first ``exact`` entries.
    lower, upper
        Bounds on the loss of the linearized model, up to round-off; see the method. They are equal where the
        prediction is exact; infinity where nothing bounds the loss.
    num_matvecs
        Products with ``J M Jᵀ`` used.
    exact
        Leading entries that are exact up to round-off, that of training in the same precision included: to 1e-9 of
        themselves or ε of ``loss[0]`` in double precision.
    """

    loss: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    num_matvecs: int
    exact: int


def predict_training(
    J: LinearOperator,
    residual: Tensor | np.ndarray,
    /,
    *,
    steps: int,
    learning_rate: float | None = None,
    method: Method | None = None,
    preconditioner: LinearOperator | None = None,
    largest: float | None = None,
    num_matvecs: int = 50,
) -> TrainingCurve:
    """Predict the loss ``½‖r‖²`` of training while the model stays near its linearization.

    There ``r_k = p_k(K) r₀`` with ``K = J M Jᵀ`` and the method's polynomial ``p_k``, so ``L(k) = ∫ p_k² dμ`` with the
    spectral measure μ of K at r₀. A bidiagonalization started at r₀ gives its Gauss rule, which is exact while the
    degree of ``p_k²`` is below 2 num_matvecs, hence for ``k < num_matvecs``; each method says what it knows after that
    and, for conjugate gradients, where round-off parts them from it. An upper bound after that also needs a bound on
    the largest eigenvalue of K. No condition number is needed, and singular operators need no special care: what is not
    in the range of K does not move.

    Parameters
    ----------
    J
        Jacobian ``[m n]``.
    residual
        r₀ ``[m]``.
    steps
        Number of steps predicted.
    learning_rate
        η of gradient descent; short for ``method=GradientDescent(η)``.
    method
        ``GradientDescent(η)``, ``Momentum(η, β)``, ``ConjugateGradients()`` or anything that predicts alike.
    preconditioner
        Symmetric positive M ``[n n]``: every gradient ∇L becomes ``M ∇L``.
    largest
        An upper bound on the eigenvalues of K: from theory, or what `condition` or `eigsh` found, once converged, with
        a margin. Without it ``upper`` of gradient descent and momentum is infinite after the exact entries: an
        eigenvalue that the residual has not shown yet may make them diverge.
    num_matvecs
        Products with K.

    Raises
    ------
    TypeError
        For steps or num_matvecs that are not integers, or a method that is none.
    ValueError
        For steps < 0, shapes that do not fit, a residual that is not finite, a Ritz value above ``largest``, or
        unless exactly one of learning_rate and method is given.
    NotPositive
        If the preconditioner turns out not to be.

    Cost: num_matvecs products with J, with Jᵀ and with M; memory num_matvecs vectors of either space.
    Reference: Golub & Meurant, Matrices, Moments and Quadrature with Applications (2010), ch. 6.

    >>> import torch
    >>> from precondlab.dynamics import ConjugateGradients
    >>> from precondlab.operators import Diagonal
    >>> J = Diagonal(torch.tensor([1.0, 0.5], dtype=torch.float64))
    >>> r = torch.ones(2, dtype=torch.float64)
    >>> predict_training(J, r, steps=2, learning_rate=1.0).loss.round(6)
    array([1.      , 0.28125 , 0.158203])
    >>> predict_training(J, r, steps=2, method=ConjugateGradients()).loss.round(6)  # two eigenvalues: two steps
    array([1.      , 0.264706, 0.      ])
    """
    J = as_operator(J)
    M = None if preconditioner is None else as_operator(preconditioner, like=J)
    chosen = _method(learning_rate, method)
    residual = torch.as_tensor(residual).detach()
    _require(J, residual, M, steps, num_matvecs)
    if not residual.any():
        zero = np.zeros(steps + 1)
        return TrainingCurve(zero, zero, zero, 0, steps + 1)
    seen, eps = measure(J, residual, preconditioner=M, num_matvecs=num_matvecs), J.codomain.eps
    seen_largest = seen.gauss.nodes[-1]
    if largest is not None and not largest >= seen_largest * (1 - 100 * eps):
        raise ValueError(
            f"predict_training: expected largest ≥ every eigenvalue of J M Jᵀ, got {largest}, but there is the Ritz "
            f"value {seen_largest:.6g}; give a larger bound or none"
        )
    loss, lower, upper = chosen.predict(seen, steps, largest=np.inf if largest is None else largest, eps=eps)
    exact = int(np.argmin(np.append(lower == upper, False)))
    return TrainingCurve(loss, lower, upper, len(seen), exact)


class DepartureStatus(Status):
    """Whether training followed its prediction; the value is advice."""

    OK = "the losses stayed within the predicted bounds: the model behaves like its linearization"
    LEFT = (
        "the losses left the predicted bounds: the model has moved away from its linearization. Predict again from "
        "that step, or compare with the remainder that `observe` measures"
    )


@dataclass(frozen=True)
class Departure:
    """Where measured losses leave a prediction.

    Attributes
    ----------
    step
        The first step outside the bounds by more than the tolerance; None if there is none.
    gap
        Distance from ``[lower, upper]`` at every step, relative to the bound that is exceeded, or to ``ε L(0)``, the
        round-off of losses in float64, where that is larger.
    status
        ``OK`` or ``LEFT``.
    """

    step: int | None
    gap: np.ndarray
    status: DepartureStatus


def departure(curve: TrainingCurve, measured: Sequence[float] | np.ndarray, /, *, rtol: float = 0.01) -> Departure:
    """Say at which step measured losses ``L(0), L(1), …`` leave the predicted bounds by more than ``rtol``.

    Raises ValueError for losses that are more than predicted, or none.

    >>> flat = TrainingCurve(np.ones(3), np.ones(3), np.ones(3), 1, 3)
    >>> departure(flat, [1.0, 1.001, 1.1]).step
    2
    """
    losses = np.asarray(measured, dtype=float)
    if losses.ndim != 1 or not 0 < len(losses) <= len(curve.loss):
        raise ValueError(
            f"departure: expected between 1 and {len(curve.loss)} losses, got shape {losses.shape}; predict more steps"
        )
    lower, upper = curve.lower[: len(losses)], curve.upper[: len(losses)]
    floor = max(np.finfo(float).eps * curve.loss[0], np.finfo(float).tiny)
    with np.errstate(invalid="ignore"):
        gap = np.maximum(0.0, np.maximum((lower - losses) / np.maximum(lower, floor), _excess(losses, upper, floor)))
    gap = np.where(np.isfinite(losses), gap, np.inf)
    outside = np.flatnonzero(gap > rtol)
    step = int(outside[0]) if len(outside) else None
    return Departure(step, gap, DepartureStatus.OK if step is None else DepartureStatus.LEFT)


def _excess(losses: np.ndarray, upper: np.ndarray, floor: float) -> np.ndarray:
    return np.where(np.isinf(upper), 0.0, (losses - upper) / np.maximum(upper, floor))


def _method(learning_rate: float | None, method: Method | None) -> Method:
    if learning_rate is not None and method is None:
        return GradientDescent(learning_rate)
    if method is not None and learning_rate is None:
        if isinstance(method, type) or not isinstance(method, Method):
            raise TypeError(
                "predict_training: expected method=GradientDescent(η), Momentum(η, β), ConjugateGradients() of "
                f"precondlab.dynamics or anything with their `predict`, got {method!r}"
            )
        return method
    raise ValueError("predict_training: expected either a learning_rate or a method, got both or neither")


def _require(J: Operator, residual: Tensor, M: Operator | None, steps: int, num_matvecs: int) -> None:
    n = J.shape[1]
    require_integer("predict_training", "steps", steps, least=0)
    require_integer("predict_training", "num_matvecs", num_matvecs)
    require_residual("predict_training", J, residual)
    if M is not None and M.shape != (n, n):
        raise ValueError(f"predict_training: expected a preconditioner of shape ({n}, {n}), got {M!r}")
