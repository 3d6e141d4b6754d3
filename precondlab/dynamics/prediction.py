"""Loss curves of gradient descent in the linear regime, predicted from a few products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from precondlab.krylov import lanczos
from precondlab.operator import Operator
from precondlab.operators import Kernel

__all__ = ["TrainingCurve", "predict_training"]


@dataclass(frozen=True)
class TrainingCurve:
    """Predicted losses ``L(0) … L(steps)``; the index is the step.

    Attributes
    ----------
    loss
        Gauss rule: exact for the first ``num_matvecs`` entries; a lower bound after.
    lower, upper
        Bounds on the loss of the linearized model.
    num_matvecs
        Products with ``JJᵀ`` used.
    """

    loss: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    num_matvecs: int


def predict_training(
    J: Operator, residual: Tensor, /, *, steps: int, learning_rate: float, num_matvecs: int = 50
) -> TrainingCurve:
    """Predict the loss of gradient descent on ``½‖r‖²`` while the model stays near its linearization.

    There ``r_k = (I − ηK)ᵏ r₀`` with ``K = JJᵀ``, so
    ``L(k) = ½ ∫ (1 − ηλ)^{2k} dμ(λ)`` with the spectral measure μ of K at r₀. Lanczos started
    at r₀ gives its Gauss rule, which is exact for ``k < num_matvecs`` and, as even
    derivatives of the integrand are ≥ 0, a lower bound for every k. The Gauss–Lobatto rule with
    nodes 0 and 2/η is an upper bound provided the iteration is stable, ``λ_max ≤ 2/η``; where a Ritz
    value shows that it is not, the upper bound after the exact entries is infinite.
    Singular operators need no special care: what is not in the range of K does not move.

    Parameters
    ----------
    J
        Jacobian ``[m n]``; for a preconditioned iteration pass ``J @ P``.
    residual
        r₀ ``[m]``.
    steps
        Number of steps predicted.
    learning_rate
        η.
    num_matvecs
        Lanczos steps.

    Raises
    ------
    ValueError
        For steps < 0 or η ≤ 0.

    Cost: num_matvecs products with J and with Jᵀ.
    Reference: Golub & Meurant, Matrices, Moments and Quadrature with Applications (2010), ch. 6.

    >>> import torch
    >>> from precondlab.operators import Diagonal
    >>> J = Diagonal(torch.tensor([1.0, 0.5], dtype=torch.float64))
    >>> r = torch.ones(2, dtype=torch.float64)
    >>> predict_training(J, r, steps=2, learning_rate=1.0).loss.round(6)
    array([1.      , 0.28125 , 0.158203])
    """
    if steps < 0 or not learning_rate > 0:
        raise ValueError(f"predict_training: expected steps ≥ 0 and η > 0, got {steps} and {learning_rate}")
    mass = 0.5 * residual.norm().item() ** 2
    k = np.arange(steps + 1)
    if mass == 0:
        zero = np.zeros(steps + 1)
        return TrainingCurve(zero, zero, zero, 0)
    *_, T = lanczos(Kernel(J), residual, num_matvecs=num_matvecs)
    nodes, vectors = T.eigh()
    gauss = mass * _decay(nodes, vectors[0] ** 2, learning_rate, k)
    edge = 2 / learning_rate
    if T.exhausted:
        upper = gauss
    elif nodes[-1] > edge:
        upper = np.where(k < len(nodes), gauss, np.inf)
    else:
        upper = mass * _decay(*_lobatto(T.diagonal, T.offdiagonal, 0.0, edge), learning_rate, k)
    return TrainingCurve(gauss, gauss, np.maximum(upper, gauss), len(nodes))


def _decay(nodes: np.ndarray, weights: np.ndarray, rate: float, k: np.ndarray) -> np.ndarray:
    factors = np.abs(1 - rate * nodes)
    with np.errstate(divide="ignore"):
        return np.exp(2 * np.outer(k, np.log(np.maximum(factors, 1e-300)))) @ weights


def _lobatto(alpha: np.ndarray, beta: np.ndarray, a: float, b: float) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights of the Gauss–Lobatto rule: the Jacobi matrix extended to have eigenvalues a, b.

    Reference: Golub (1973), Some modified matrix eigenvalue problems, doi:10.1137/1015032.
    """
    size = len(alpha)
    T = np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
    last = np.eye(size)[:, -1]
    left = np.linalg.solve(T - a * np.eye(size), last)[-1]
    right = np.linalg.solve(T - b * np.eye(size), last)[-1]
    corner, square = np.linalg.solve([[1.0, -left], [1.0, -right]], [a, b])
    off = np.sqrt(max(square, 0.0))
    extended = np.zeros((size + 1, size + 1))
    extended[:size, :size] = T
    extended[size, size], extended[size, size - 1], extended[size - 1, size] = corner, off, off
    values, vectors = np.linalg.eigh(extended)
    return values, vectors[0] ** 2
