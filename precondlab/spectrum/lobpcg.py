"""Extreme eigenvalues with a preconditioner: LOBPCG with an orthonormal basis."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.krylov.basis import Basis, require_finite
from precondlab.krylov.checks import require_integer
from precondlab.operator import Operator, as_operator
from precondlab.operators import Identity, LowRank
from precondlab.spectrum.pairs import Eigenpairs, judged, rayleigh_ritz

__all__ = ["lobpcg"]

_CHECKED = 10  # steps after which products are compared with what is known of them
_ROUND_OFF = 100  # multiples of ε‖A‖ by which they may differ


def lobpcg(
    A: LinearOperator,
    X: Tensor | np.ndarray,
    /,
    *,
    M: LinearOperator | None = None,
    Y: Tensor | np.ndarray | None = None,
    tol: float = 0.0,
    maxiter: int = 200,
    largest: bool = True,
    callback: Callable[[np.ndarray], object] | None = None,
) -> Eigenpairs:
    """Compute extreme eigenpairs of a symmetric operator by locally optimal block preconditioned conjugate gradients.

    Every step takes the best pairs in the space of the iterates X, the preconditioned residuals ``M (A X − X Θ)`` and
    the directions before. The space is orthonormalized twice and the projected problem solved densely, so that
    nothing breaks down when residuals become small. Converged columns leave the residual block but stay in X. With
    ``M ≈ A⁻¹`` the smallest eigenvalues converge at a rate that depends on κ(M A) only.

    Parameters
    ----------
    A
        Symmetric operator.
    X
        Starting block ``[n k]``, a tensor or an array; k is the number of pairs, at most n/3.
    M
        Positive operator approximating ``A⁻¹``, for the smallest ones.
    Y
        Constraints ``[n q]``, for example eigenvectors that are known: the pairs are those of ``PAP``, orthogonal to Y,
        with the projector P on the complement. M is corrected: ``M − MY (YᴴMY)⁻¹ YᴴM`` is the inverse of ``PAP`` there
        if M is that of A.
    tol
        Accuracy: ``‖A x − θ x‖ ≤ tol |θ| + 100 ε ‖A‖``.
    maxiter
        Steps.
    largest
        Which end, as in SciPy.
    callback
        Called with the Ritz values after every step.

    Where products are noisy, residuals below five times the noise end the iteration, with INACCURATE.

    Cost: at most k products with A and M per step, k at the start, one in ten steps and at the end to check ``A X``, k
    more if it is wrong; memory 8k + 2q vectors.
    References: Knyazev (2001), doi:10.1137/S1064827500366124; Hetmaniuk & Lehoucq (2006),
    doi:10.1016/j.jcp.2006.03.007.

    >>> from precondlab.operators import Diagonal
    >>> A = Diagonal(torch.arange(1.0, 101.0, dtype=torch.float64) ** 4)
    >>> lobpcg(A, A.domain.random(2), M=A.inverse, largest=False).check().values.round(8)
    array([ 1., 16.])
    """
    A = as_operator(A)
    M = None if M is None else as_operator(M, like=A)
    maxiter = require_integer("lobpcg", "maxiter", maxiter, least=0)
    N = _orthonormal(A, Y)
    X = _start(A, X, M, N)
    n, k = X.shape
    MN = N if M is None else M.forward(N)
    if N.shape[1]:
        projector = Identity(A.domain) - LowRank(N, N.new_ones(N.shape[1]))
        A = as_operator(projector @ A @ projector)
    AX = A.forward(X)
    require_finite(AX, A, k)
    products, scale, noise = k, 0.0, 0.0
    P = AP = X[:, :0]
    best, _ = _project(A, X, AX, k, largest)
    X, AX = _rotate(X, best), _rotate(AX, best)
    for step in range(maxiter + 1):
        theta = (X.conj() * AX).sum(0).real
        R = AX - X * theta
        values, residuals = _host(theta), _host(R.norm(dim=0))
        scale = max(scale, np.abs(values).max())
        if step % _CHECKED == _CHECKED - 1:
            noise, products = max(noise, _defect(A, X, AX)), products + 1
        allowed = max(_ROUND_OFF * A.domain.eps * scale, 5 * noise)
        active = residuals > tol * np.abs(values) + allowed
        if callback is not None:
            callback(values)
        if not active.any() or step == maxiter:
            break
        W = R[:, torch.as_tensor(active)]
        if M is not None:
            W = M.forward(W)
            if N.shape[1]:
                W = W - MN @ torch.linalg.solve(A.domain.inner(N, MN), A.domain.inner(N, W))
        known = torch.cat([N, X, P], dim=1)
        basis = Basis(A.domain, min(n, known.shape[1] + W.shape[1]))
        basis.restore(known)
        basis.append(W)
        W = basis.vectors[:, known.shape[1] :].contiguous()
        AW = A.forward(W)
        products += W.shape[1]
        require_finite(AW, A, products)
        S, AS = torch.cat([X, P, W], dim=1), torch.cat([AX, AP, AW], dim=1)
        best, norm = _project(A, S, AS, k, largest)
        scale = max(scale, norm)
        beyond = _beyond(best, k)
        X, AX, P, AP = _rotate(S, best), _rotate(AS, best), _rotate(S, beyond), _rotate(AS, beyond)
    small: np.ndarray | bool = True
    products += 1
    if not _defect(A, X, AX) <= _ROUND_OFF * A.domain.eps * scale:
        values, X, residuals, _ = rayleigh_ritz(A, X)
        products += k
        small = residuals <= tol * np.abs(values) + _ROUND_OFF * A.domain.eps * scale
    order, status = np.argsort(values), judged(small, not active.any())
    return Eigenpairs(values[order], X[:, torch.as_tensor(order)], residuals[order], status, products, "lobpcg")


def _orthonormal(A: Operator, Y: Tensor | np.ndarray | None) -> Tensor:
    """Return an orthonormal basis of constraints."""
    n = A.shape[1]
    Y = A.domain.zeros(0) if Y is None else torch.as_tensor(Y).to(A.domain.device, A.domain.dtype)
    if Y.dim() != 2 or Y.shape[0] != n or not Y.isfinite().all():
        raise ValueError(f"lobpcg: expected finite constraints Y of shape ({n}, q), got {tuple(Y.shape)}")
    basis = Basis(A.domain, Y.shape[1])
    basis.append(Y)
    return basis.vectors.contiguous()


def _defect(A: Operator, X: Tensor, AX: Tensor) -> float:
    """Return by how much a product and what is known of it differ, per vector."""
    return (A.forward(X.sum(1, keepdim=True)) - AX.sum(1, keepdim=True)).norm().item() / X.shape[1] ** 0.5


def _start(A: Operator, X: Tensor | np.ndarray, M: Operator | None, N: Tensor) -> Tensor:
    """Return an orthonormal block from the one given, orthogonal to N."""
    n, X = A.shape[0], torch.as_tensor(X)
    if A.shape[0] != A.shape[1] or (M is not None and M.shape != A.shape):
        raise ValueError(f"lobpcg: expected square operators of one shape, got {A!r} and M = {M!r}")
    if M is not None and not M.positive:
        raise ValueError(f"lobpcg: the preconditioner {M!r} should be declared positive")
    most = (n - N.shape[1]) // 3
    if X.dim() != 2 or X.shape[0] != n or not 1 <= X.shape[1] <= most:
        raise ValueError(
            f"lobpcg: expected a starting block of shape ({n}, k) with 1 ≤ k ≤ {most}, got {tuple(X.shape)}; "
            "use eigsh or a dense decomposition for small operators"
        )
    if not X.isfinite().all():
        raise ValueError("lobpcg: the starting block is not finite; give A.domain.random(k)")
    basis = Basis(A.domain, N.shape[1] + X.shape[1])
    basis.restore(N)
    basis.append(X.to(A.domain.device, A.domain.dtype))
    basis.append_random(basis.room)
    return basis.vectors[:, N.shape[1] :].contiguous()


def _project(A: Operator, S: Tensor, AS: Tensor, k: int, largest: bool) -> tuple[np.ndarray, float]:
    """Return the coefficients ``[m k]`` of the best Ritz vectors in an orthonormal basis, and the norm of ``SᴴAS``."""
    T = _host(A.domain.inner(S, AS))
    values, Y = np.linalg.eigh((T + T.conj().T) / 2)
    return (Y[:, ::-1] if largest else Y)[:, :k], float(np.abs(values).max())


def _beyond(best: np.ndarray, k: int) -> np.ndarray:
    """Return an orthonormal basis of what the new iterates have beyond the k old ones, orthogonal to the new."""
    step = best.copy()
    step[:k] = 0
    for _ in range(2):
        step -= best @ (best.conj().T @ step)
    U, weights, _ = np.linalg.svd(step, full_matrices=False)
    return U[:, weights > 1e-14]


def _rotate(S: Tensor, Y: np.ndarray) -> Tensor:
    return S @ torch.as_tensor(Y.copy()).to(S)


def _host(T: Tensor) -> np.ndarray:
    return T.to(torch.complex128 if T.is_complex() else torch.float64).cpu().numpy()
