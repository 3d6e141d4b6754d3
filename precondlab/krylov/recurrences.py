"""Lanczos and Golub–Kahan: an operator seen from one vector, as a small matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from precondlab.errors import Breakdown, NotPositive
from precondlab.krylov.basis import Basis, require_finite
from precondlab.krylov.checks import require_integer
from precondlab.operator import Operator
from precondlab.space import Space

__all__ = ["Bidiagonalization", "Tridiagonalization", "golub_kahan", "lanczos"]


@dataclass(frozen=True)
class Tridiagonalization:
    """``A Q_k = Q_k T_k + β_k q_{k+1} e_kᵀ`` after k Lanczos steps; T_k is symmetric tridiagonal.

    Attributes
    ----------
    diagonal, offdiagonal
        α_1 … α_k and β_1 … β_k; β_k belongs to the next vector.
    exhausted
        Whether β_k is zero to round-off: the start vector spans an invariant subspace of dimension k.
    norm
        Norm of the start vector.
    defect
        Largest deviation of a computed ``qᵢᴴ A qⱼ`` from the symmetric tridiagonal form: the round-off and noise
        of the products, or how far A is from symmetric.
    """

    diagonal: np.ndarray
    offdiagonal: np.ndarray
    exhausted: bool
    norm: float
    defect: float

    def eigh(self) -> tuple[np.ndarray, np.ndarray]:
        """Return Ritz values, ascending, and the eigenvectors of T_k as columns."""
        T = np.diag(self.diagonal) + np.diag(self.offdiagonal[:-1], 1) + np.diag(self.offdiagonal[:-1], -1)
        return np.linalg.eigh(T)


@dataclass(frozen=True)
class Bidiagonalization:
    """``J V_k = U_k B_k`` after k Golub–Kahan steps; B_k is upper bidiagonal.

    Its singular values lie between the smallest and the largest singular value of J.

    Attributes
    ----------
    diagonal, superdiagonal
        α_1 … α_k and β_1 … β_k; β_k belongs to the next vector.
    exhausted
        Whether β_k is zero to round-off: the singular values are then some of J's, up to round-off.
    defect
        Largest deviation of a computed ``uᵢᴴ J vⱼ``, ``vᵢᴴ Jᴴ uⱼ`` from the bidiagonal form: the round-off and noise
        of the products, or how far Jᴴ is from the adjoint of J.
    """

    diagonal: np.ndarray
    superdiagonal: np.ndarray
    exhausted: bool
    defect: float

    def svd(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the singular values of B_k, descending, and the residual norm ``‖Jᵀu − θv‖`` of each."""
        B = np.diag(self.diagonal) + np.diag(self.superdiagonal[:-1], 1)
        left, values, _ = np.linalg.svd(B)
        return values, np.abs(self.superdiagonal[-1] * left[-1])


def lanczos(A: Operator, start: Tensor, *, num_matvecs: int, M: Operator | None = None) -> Iterator[Tridiagonalization]:
    """Yield the Lanczos tridiagonalization of a symmetric operator, one step at a time.

    With a preconditioner M the recurrence is that of ``M A`` in the inner product of ``M⁻¹``, which
    needs no factor of M; T_k then belongs to ``M A``. The basis is orthogonalized twice per step.

    Raises
    ------
    Breakdown
        At the first product that is not finite, or for a zero start vector.
    NotPositive
        If ``wᵀMw < 0`` for some vector.

    Cost: one product with A (and M) per step; memory k vectors (2k with M).
    Reference: Golub & Van Loan, Matrix Computations, 4th ed., §10.1 and §11.5.2.

    >>> from precondlab.operators import Diagonal
    >>> for T in lanczos(Diagonal(torch.tensor([1.0, 4.0])), torch.ones(2), num_matvecs=2):
    ...     pass
    >>> T.eigh()[0].round(5), T.exhausted
    (array([1., 4.]), True)
    """
    space = A.domain
    w = start.to(space.device, space.dtype)
    z = w if M is None else M.forward(w[:, None])[:, 0]
    norm = _norm(space, w, z)
    if norm == 0:
        raise Breakdown("lanczos: the start vector is zero; give one with a component in the range of the operator")
    limit = min(require_integer("lanczos", "num_matvecs", num_matvecs), space.size)
    Q = _columns(space, limit)
    Z = Q if M is None else _columns(space, limit)
    alphas: list[float] = []
    betas: list[float] = []
    beta, scale, defect = norm, 0.0, 0.0
    for k in range(limit):
        Q[:, k] = w / beta
        if M is not None:
            Z[:, k] = z / beta
        w = A.forward(Z[:, k : k + 1])[:, 0]
        require_finite(w, A, k + 1)
        basis, dual = Q[:, : k + 1], Z[:, : k + 1]
        coefficients = space.inner(dual, w[:, None])
        w = w - (basis @ coefficients)[:, 0]
        again = space.inner(dual, w[:, None])
        w = w - (basis @ again)[:, 0]
        coefficients = coefficients + again
        alphas.append(coefficients[-1, 0].real.item())
        defect = max(defect, _deviation(coefficients[:-1, 0], betas[-1:]))
        z = w if M is None else M.forward(w[:, None])[:, 0]
        beta = _norm(space, w, z)
        scale = max(scale, abs(alphas[-1]), beta)
        betas.append(beta)
        exhausted = k + 1 == space.size or beta <= 10 * space.eps * scale * (k + 1) ** 0.5
        yield Tridiagonalization(np.array(alphas), np.array(betas), exhausted, norm, defect)
        if exhausted:
            return


def golub_kahan(J: Operator, start: Tensor, *, num_matvecs: int) -> Iterator[Bidiagonalization]:
    """Yield the Golub–Kahan bidiagonalization of any operator, one step at a time.

    Singular values are resolved to ``ε‖J‖``, hence eigenvalues of ``JᵀJ`` to ``ε²‖J‖²``: the square
    is never formed. Both bases are orthogonalized twice per step.

    Raises
    ------
    Breakdown
        At the first product that is not finite, or for a zero start vector.

    Cost: one product with J and one with Jᵀ per step; memory k vectors of either side.
    Reference: Golub & Kahan (1965), doi:10.1137/0702016.

    >>> from precondlab.operators import Diagonal
    >>> for B in golub_kahan(Diagonal(torch.tensor([1.0, 2.0])), torch.ones(2), num_matvecs=2):
    ...     pass
    >>> B.svd()[0].round(5)
    array([2., 1.])
    """
    limit = min(require_integer("golub_kahan", "num_matvecs", num_matvecs), J.domain.size)
    right, left = Basis(J.domain, limit + 1), Basis(J.codomain, limit)
    if not right.append(start.to(J.domain.device, J.domain.dtype)[:, None])[1].any():
        raise Breakdown("golub_kahan: the start vector is zero; give a non-zero one")
    alphas: list[float] = []
    betas: list[float] = []
    defect, scale = 0.0, 0.0
    for k in range(limit):
        u = J.forward(right.vectors[:, k:].contiguous())
        require_finite(u, J, k + 1)
        C, alpha = left.append(u, scale=scale)
        defect = max(defect, _deviation(C[:, 0], betas[-1:]))
        alphas.append(alpha[0, 0].real.item() if len(alpha) else 0.0)
        if len(alpha):
            v = J.backward(left.vectors[:, k:].contiguous())
            require_finite(v, J, k + 1)
            C, beta = right.append(v, scale=scale)
            defect = max(defect, _deviation(C[:, 0], alphas[-1:]))
            betas.append(beta[0, 0].real.item() if len(beta) else 0.0)
        else:  # J v_k depends on the columns before: J is singular on the Krylov space
            betas.append(0.0)
        scale = max(scale, alphas[-1], betas[-1])
        exhausted = betas[-1] == 0
        yield Bidiagonalization(np.array(alphas), np.array(betas), exhausted, defect)
        if exhausted:
            return


def _columns(space: Space, count: int) -> Tensor:
    """Return room for columns: contiguous, and memory is touched only when one is written."""
    return torch.empty(count, space.size, dtype=space.dtype, device=space.device).T


def _deviation(found: Tensor, last: list[float]) -> float:
    """Return the largest deviation of coefficients from ``(0, …, 0, last)``."""
    if not len(found):
        return 0.0
    deviation = found.clone()
    deviation[-1] -= last[0]
    return deviation.abs().max().item()


def _norm(space: Space, w: Tensor, z: Tensor) -> float:
    square = space.inner(w[:, None], z[:, None])[0, 0].real.item()
    if square < -10 * space.eps * w.norm().item() * z.norm().item():
        raise NotPositive("lanczos: the preconditioner is not positive: wᵀMw < 0 for a vector w of the recurrence")
    return max(square, 0.0) ** 0.5
