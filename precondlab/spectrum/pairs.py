"""What the eigensolvers return: pairs or triplets, their residuals, and whether all that was asked for was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from precondlab.errors import Breakdown, Status
from precondlab.krylov.checks import dots, require_finite
from precondlab.operator import Operator

__all__ = ["Eigenpairs", "ExtremesStatus", "SingularTriplets"]


class ExtremesStatus(Status):
    """Whether all pairs asked for were found."""

    OK = "every residual is below the tolerance"
    NOT_CONVERGED = (
        "the budget ended first; raise it (num_matvecs, or maxiter of lobpcg) or the basis size ncv, ask for fewer "
        "values, or give a preconditioner (lobpcg) for the smallest ones"
    )
    INACCURATE = (
        "the recurrence converged, but residuals taken by products of their own exceed the tolerance: equal products "
        "differ, A is not symmetric, or OPinv is not (A − σI)⁻¹. Make the model deterministic, move the shift, or give "
        "a tol that the residuals meet"
    )


class Extremes:
    """What the results have in common: residuals, a status, and the method that found them."""

    residuals: np.ndarray
    status: ExtremesStatus
    num_matvecs: int
    method: str

    def check(self) -> Self:
        """Return self if everything asked for converged, else raise ``ArithmeticError`` with the advice."""
        if not self.status.ok:
            raise ArithmeticError(
                f"{self.method}: residuals {self.residuals} after {self.num_matvecs} products: {self.status.advice}"
            )
        return self


@dataclass(frozen=True)
class Eigenpairs(Extremes):
    """Eigenvalues, ascending, and what is known about their error.

    Attributes
    ----------
    values
        Ritz values ``[k]``: they lie inside the spectrum, up to round-off and noise of the products.
    vectors
        Orthonormal Ritz vectors ``[n k]``.
    residuals
        ``‖A x − θ x‖`` of each: an eigenvalue lies within that distance, up to round-off ``100 ε ‖A‖``. They are those
        of the recurrence as long as a product with the sum of all vectors agrees with it, else (and always with a
        shift) taken by a product with each vector, noise included.
    status
        What happened; ``status.ok`` and ``status.advice``.
    num_matvecs
        Products with A.
    method
        Name of the function that found them.
    """

    values: np.ndarray
    vectors: Tensor
    residuals: np.ndarray
    status: ExtremesStatus
    num_matvecs: int
    method: str = "eigsh"


@dataclass(frozen=True)
class SingularTriplets(Extremes):
    """Singular values, descending, with left and right vectors, residuals, status, products, method.

    Residuals are ``‖Jᴴu − σv‖``, or the larger of that and ``‖Jv − σu‖`` where products of their own disagree with
    the recurrence (see :class:`Eigenpairs`).
    """

    left: Tensor
    values: np.ndarray
    right: Tensor
    residuals: np.ndarray
    status: ExtremesStatus
    num_matvecs: int
    method: str = "svds"


def rayleigh_ritz(A: Operator, X: Tensor) -> tuple[np.ndarray, Tensor, np.ndarray, float]:
    """Return the Ritz values of ``XᴴAX``, ascending, their vectors, true residuals and ``‖A X‖``, by k products."""
    AX = A.forward(X)
    T = A.domain.inner(X, AX)
    T = T.to(torch.complex128 if T.is_complex() else torch.float64).numpy(force=True)
    if not np.isfinite(T).all():
        raise Breakdown(f"a product with {A!r} is not finite; check the model and its residual at this point")
    values, Y = np.linalg.eigh((T + T.conj().T) / 2)
    Y = torch.as_tensor(Y).to(X)
    X, AX = X @ Y, AX @ Y
    R = AX - X * _row(values, X)
    squares, sizes = dots(A.domain, (R, R), (AX, AX))
    return values, X, squares**0.5, float(sizes.max() ** 0.5)


def triplet_residuals(J: Operator, U: Tensor, values: np.ndarray, V: Tensor) -> np.ndarray:
    """Return ``max(‖J v − σ u‖, ‖Jᴴu − σ v‖)`` of each triplet."""
    R, S = J.forward(V) - U * _row(values, U), J.backward(U) - V * _row(values, V)
    found = np.maximum(dots(J.codomain, (R, R))[0], dots(J.domain, (S, S))[0])
    require_finite(found, J, J.num_matvecs)
    return found**0.5


def judged(small: np.ndarray | bool, converged: bool) -> ExtremesStatus:
    """Return the status of residuals within the tolerance or not, after a recurrence that converged or did not."""
    if not converged:
        return ExtremesStatus.NOT_CONVERGED
    return ExtremesStatus.OK if np.all(small) else ExtremesStatus.INACCURATE


def _row(values: np.ndarray, like: Tensor) -> Tensor:
    return like.new_tensor(values.tolist())
