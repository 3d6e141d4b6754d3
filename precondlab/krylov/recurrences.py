"""Lanczos and Golub–Kahan: an operator seen from one vector, as a small matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from precondlab.errors import Breakdown, NotPositive
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
    """

    diagonal: np.ndarray
    offdiagonal: np.ndarray
    exhausted: bool
    norm: float

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
    """

    diagonal: np.ndarray
    superdiagonal: np.ndarray
    exhausted: bool

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
    limit = min(num_matvecs, space.size)
    Q = space.zeros(limit)
    Z = Q if M is None else space.zeros(limit)
    alphas: list[float] = []
    betas: list[float] = []
    beta, scale = norm, 0.0
    for k in range(limit):
        Q[:, k] = w / beta
        if M is not None:
            Z[:, k] = z / beta
        w = A.forward(Z[:, k : k + 1])[:, 0]
        _require_finite(w, A, k)
        basis, dual = Q[:, : k + 1], Z[:, : k + 1]
        coefficients = space.inner(dual, w[:, None])
        w = w - (basis @ coefficients)[:, 0]
        again = space.inner(dual, w[:, None])
        w = w - (basis @ again)[:, 0]
        alphas.append((coefficients + again)[-1, 0].real.item())
        z = w if M is None else M.forward(w[:, None])[:, 0]
        beta = _norm(space, w, z)
        scale = max(scale, abs(alphas[-1]), beta)
        betas.append(beta)
        exhausted = k + 1 == space.size or beta <= 10 * space.eps * scale * (k + 1) ** 0.5
        yield Tridiagonalization(np.array(alphas), np.array(betas), exhausted, norm)
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
    domain, codomain = J.domain, J.codomain
    limit = min(num_matvecs, domain.size)
    V, U = domain.zeros(limit), codomain.zeros(limit)
    v = start.to(domain.device, domain.dtype)
    beta = v.norm().item()
    if beta == 0:
        raise Breakdown("golub_kahan: the start vector is zero; give a non-zero one")
    alphas: list[float] = []
    betas: list[float] = []
    scale = 0.0
    for k in range(limit):
        V[:, k] = v / beta
        u = J.forward(V[:, k : k + 1])[:, 0]
        _require_finite(u, J, k)
        u = _orthogonalize(codomain, u, U[:, :k])
        alpha = u.norm().item()
        scale = max(scale, alpha)
        if alpha > 10 * domain.eps * scale:
            U[:, k] = u / alpha
            v = J.backward(U[:, k : k + 1])[:, 0]
            _require_finite(v, J, k)
            v = _orthogonalize(domain, v, V[:, : k + 1])
            beta = v.norm().item()
        else:  # J v_k depends on the columns before: J is singular on the Krylov space
            beta = 0.0
        scale = max(scale, beta)
        alphas.append(alpha)
        betas.append(beta)
        exhausted = k + 1 == domain.size or beta <= 10 * domain.eps * scale * (k + 1) ** 0.5
        yield Bidiagonalization(np.array(alphas), np.array(betas), exhausted)
        if exhausted:
            return


def _orthogonalize(space: Space, w: Tensor, basis: Tensor) -> Tensor:
    for _ in range(2):
        w = w - (basis @ space.inner(basis, w[:, None]))[:, 0]
    return w


def _norm(space: Space, w: Tensor, z: Tensor) -> float:
    square = space.inner(w[:, None], z[:, None])[0, 0].real.item()
    if square < -10 * space.eps * w.norm().item() * z.norm().item():
        raise NotPositive("lanczos: the preconditioner is not positive: wᵀMw < 0 for a vector w of the recurrence")
    return max(square, 0.0) ** 0.5


def _require_finite(w: Tensor, A: Operator, step: int) -> None:
    if not torch.isfinite(w).all():
        raise Breakdown(f"product {step + 1} with {A!r} is not finite; check the model and its residual at this point")
