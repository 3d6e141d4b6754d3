"""A few eigenvalues or singular values at the ends of the spectrum, by restarted Krylov methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.errors import NotSymmetric, Status
from precondlab.krylov.inverse import ShiftedInverse
from precondlab.krylov.schur import GolubKahanSchur, KrylovSchur
from precondlab.operator import Operator, as_operator
from precondlab.space import Space

__all__ = ["Eigenpairs", "ExtremesStatus", "SingularTriplets", "eigsh", "svds"]

Which = Literal["LM", "LA", "SA", "SM", "BE"]


class ExtremesStatus(Status):
    """Whether all pairs asked for were found."""

    OK = "every residual is below the tolerance"
    NOT_CONVERGED = (
        "the budget ended first; raise it (num_matvecs, or maxiter of lobpcg) or the basis size ncv, ask for fewer "
        "values, or give a preconditioner (lobpcg) for the smallest ones"
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
        Ritz values ``[k]``: they lie inside the spectrum.
    vectors
        Orthonormal Ritz vectors ``[n k]``.
    residuals
        ``‖A x − θ x‖`` of each, from the recurrence: an eigenvalue lies within that distance, up to round-off.
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
    """Singular values, descending, with left and right vectors, residuals ``‖Jᴴu − σv‖``, status, products, method."""

    left: Tensor
    values: np.ndarray
    right: Tensor
    residuals: np.ndarray
    status: ExtremesStatus
    num_matvecs: int
    method: str = "svds"


def eigsh(
    A: LinearOperator,
    /,
    k: int = 6,
    *,
    which: Which = "LM",
    sigma: float | None = None,
    OPinv: LinearOperator | None = None,
    v0: Tensor | None = None,
    ncv: int | None = None,
    memory_budget: int = 2**30,
    num_matvecs: int | None = None,
    tol: float = 0.0,
    generator: torch.Generator | None = None,
    callback: Callable[[KrylovSchur], object] | None = None,
) -> Eigenpairs:
    """Compute k extreme eigenvalues and eigenvectors of a symmetric operator, by block Krylov–Schur.

    The basis is orthogonalized twice per step and restarted with the best Ritz vectors when it is full, so
    that no eigenvalue is returned twice unless it is multiple. A start block of p columns finds
    multiplicities up to p for certain; larger ones through the random vectors that replace a vanishing residual.

    Parameters
    ----------
    A
        Symmetric operator. SciPy's, which declare nothing, are probed for symmetry by two products.
    k
        Number of eigenvalues, below n.
    which
        ``"LM"`` largest in modulus, ``"LA"`` largest, ``"SA"`` smallest, ``"SM"`` smallest in modulus (slow for
        interior values), ``"BE"`` half from each end. With ``sigma`` it belongs to ``1/(λ − σ)``: ``"LM"`` then
        means nearest to σ.
    sigma, OPinv
        Shift σ for interior eigenvalues, and ``(A − σI)⁻¹``: by default solves with
        :func:`~precondlab.krylov.minres`.
    v0
        Start vector ``[n]`` or block ``[n p]``, for example Ritz vectors of a nearby operator; random by default.
    ncv
        Largest number of basis vectors; by default ``min(n, max(2k + 1, 20))``, or fewer if ncv + p vectors do not
        fit the memory budget.
    memory_budget
        Bytes the basis may take; the k vectors returned and about 6p vectors of working memory come on top.
    num_matvecs
        Budget of products; ``100 n`` by default.
    tol
        Accuracy: ``‖A x − θ x‖ ≤ tol |θ| + 10 ε ‖A‖``.
    callback
        Called with the running :class:`~precondlab.krylov.KrylovSchur` after each step.

    Raises
    ------
    NotSymmetric
        If ``⟨u, A v⟩ ≠ ⟨A u, v⟩`` for random vectors (probed only where symmetry is not declared).
    Breakdown
        At the first product that is not finite.

    Cost: p products per step; memory ncv + p vectors.
    Reference: Stewart (2002), doi:10.1137/S0895479800371529.

    >>> from precondlab.operators import Diagonal
    >>> A = Diagonal(torch.arange(1.0, 101.0, dtype=torch.float64))
    >>> eigsh(A, 2, which="LA").check().values.round(10)
    array([ 99., 100.])
    """
    A = as_operator(A)
    n = A.shape[0]
    if A.shape[0] != A.shape[1]:
        raise ValueError(f"eigsh: expected a square operator, got {A!r}; use svds for a rectangular one")
    if which not in ("LM", "LA", "SA", "SM", "BE"):
        raise ValueError(f"eigsh: which should be 'LM', 'LA', 'SA', 'SM' or 'BE', got {which!r}")
    if not A.symmetric:
        _require_symmetry(A)
    target = A if sigma is None else as_operator(OPinv, like=A) if OPinv is not None else ShiftedInverse(A, sigma)
    start = _start("eigsh", A.domain, v0, generator)
    k, size, budget = _sizes("eigsh", A.domain, k, ncv, start.shape[1], num_matvecs, memory_budget)
    K = KrylovSchur(target, start, capacity=size + start.shape[1], generator=generator)
    while True:
        K.step()
        if callback is not None:
            callback(K)
        values, Y, residuals = K.ritz()
        wanted = _select(values, which, k)
        small = residuals <= tol * np.abs(values) + 10 * A.domain.eps * np.abs(values).max()
        done = K.complete or (
            len(wanted) == k and bool(small[wanted].all()) and _nothing_missed(K, values, Y, small, wanted, which)
        )
        if done or K.num_matvecs >= budget:
            break
        if K.basis.room < K.block and K.basis.size < n:
            kept = _select(values, which, min(len(values) - K.block, k + (size - k) // 3))
            K.restart(Y[:, kept])
    values, residuals, X = values[wanted], residuals[wanted], K.vectors(Y[:, wanted])
    products = K.num_matvecs
    if sigma is not None:
        values, residuals = _unshifted(A, X, sigma, values)
        products = len(wanted) + (target.products if isinstance(target, ShiftedInverse) else 0)
    order = np.argsort(values)
    status = ExtremesStatus.OK if done else ExtremesStatus.NOT_CONVERGED
    return Eigenpairs(values[order], X[:, torch.as_tensor(order)], residuals[order], status, products)


def svds(
    J: LinearOperator,
    /,
    k: int = 6,
    *,
    which: Literal["LM", "SM"] = "LM",
    v0: Tensor | None = None,
    ncv: int | None = None,
    memory_budget: int = 2**30,
    num_matvecs: int | None = None,
    tol: float = 0.0,
    generator: torch.Generator | None = None,
    callback: Callable[[GolubKahanSchur], object] | None = None,
) -> SingularTriplets:
    """Compute k extreme singular values and vectors of any operator, by restarted Golub–Kahan bidiagonalization.

    ``JᵀJ`` is never formed: singular values are resolved to ``ε σ_max``. Parameters as for :func:`eigsh`;
    ``v0`` belongs to the smaller of the two sides. The smallest values (``"SM"``) need about as many steps as
    the operator has columns unless it is well conditioned.

    Cost: one product with J and one with Jᵀ per vector; memory ncv + p vectors of either side.
    Reference: Baglama & Reichel (2005), doi:10.1137/04060593X.

    >>> from precondlab.operators import Diagonal
    >>> svds(Diagonal(torch.arange(1.0, 101.0, dtype=torch.float64)), 2).check().values.round(10)
    array([100.,  99.])
    """
    J = as_operator(J)
    if which not in ("LM", "SM"):
        raise ValueError(f"svds: which should be 'LM' or 'SM', got {which!r}")
    wide = J.shape[0] < J.shape[1]
    target = J.H if wide else J
    n = target.shape[1]
    start = _start("svds", target.domain, v0, generator)
    k, size, budget = _sizes("svds", target.domain, k, ncv, start.shape[1], num_matvecs, memory_budget // 2)
    K = GolubKahanSchur(target, start, capacity=size + start.shape[1], generator=generator)
    while True:
        K.step()
        if callback is not None:
            callback(K)
        values, left, right, residuals = K.ritz()
        wanted = np.arange(k) if which == "LM" else np.arange(max(0, len(values) - k), len(values))
        wanted = wanted[wanted < len(values)]
        floor = 10 * J.domain.eps * values[0]
        small = residuals <= tol * values + floor
        settled = len(wanted) == k and bool(small[wanted].all()) and not K.unseen
        done = K.complete or (settled and _nothing_missed(K, values, right, small, wanted, which))
        null = wanted[np.linalg.norm(left[:, wanted], axis=0) < 0.5]  # J v = 0, and u is known once U spans the range
        done = done and (K.complete or not len(null) or values[K.explored(right)].max() <= floor)
        if done or K.num_matvecs >= budget:
            break
        if K.right.room < K.block and K.right.size < n:
            count = min(len(values) - K.block, k + (size - k) // 3)
            kept = np.arange(count) if which == "LM" else np.arange(len(values) - count, len(values))
            K.restart(left[:, kept], right[:, kept])
    U, V = K.vectors(left[:, wanted], right[:, wanted])
    K.left.append_random(len(null))
    U[:, torch.as_tensor(np.isin(wanted, null))] = K.left.vectors[:, K.left.size - len(null) :]
    status = ExtremesStatus.OK if done else ExtremesStatus.NOT_CONVERGED
    return SingularTriplets(
        V if wide else U, values[wanted], U if wide else V, residuals[wanted], status, K.num_matvecs
    )


def _start(who: str, space: Space, v0: Tensor | None, generator: torch.Generator | None) -> Tensor:
    if v0 is None:
        return space.random(1, generator=generator)
    block = torch.as_tensor(v0)
    block = (block[:, None] if block.dim() == 1 else block).to(space.device, space.dtype)
    if block.dim() != 2 or block.shape[0] != space.size or not block.shape[1]:
        raise ValueError(f"{who}: v0 should have shape ({space.size},) or ({space.size}, p), got {tuple(block.shape)}")
    return block


def _sizes(
    who: str, space: Space, k: int, ncv: int | None, p: int, num_matvecs: int | None, memory_budget: int
) -> tuple[int, int, int]:
    """Return k, the number of basis vectors before a restart, and the budget of products."""
    n = space.size
    if not 1 <= k <= n:
        raise ValueError(f"{who}: k should be between 1 and {n}, got {k}")
    least = min(n, k + p)
    size = min(n, max(2 * k + 1, 20, least)) if ncv is None else ncv
    if not least <= size <= n:
        raise ValueError(f"{who}: ncv should be between {least} (k and a block) and {n}, got {ncv}")
    if num_matvecs is not None and num_matvecs < 1:
        raise ValueError(f"{who}: num_matvecs should be ≥ 1, got {num_matvecs}")
    bytes_per_vector = n * space.dtype.itemsize
    fits = memory_budget // max(bytes_per_vector, 1) - p
    if fits < (least if ncv is None else size):
        raise ValueError(
            f"{who}: {(least if ncv is None else size) + p} vectors of {bytes_per_vector:,} bytes exceed the memory "
            f"budget of {memory_budget:,} bytes; raise memory_budget, or lower k or ncv"
        )
    return k, min(size, fits), 100 * n if num_matvecs is None else num_matvecs


def _unshifted(A: Operator, X: Tensor, sigma: float, inverse_values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvalues ``σ + 1/θ`` of A and their residuals, by a product with A."""
    values = sigma + 1 / inverse_values
    R = A.forward(X) - X * torch.as_tensor(values).to(X)
    return values, R.norm(dim=0).double().cpu().numpy()


def _select(values: np.ndarray, which: Which, k: int) -> np.ndarray:
    """Return the indices of the k wanted of some ascending values."""
    m = len(values)
    k = min(k, m)
    if which == "BE":
        low = k // 2
        return np.r_[0:low, m - (k - low) : m]
    order = {"LA": -values, "SA": values, "LM": -np.abs(values), "SM": np.abs(values)}[which]
    return np.sort(np.argsort(order, kind="stable")[:k])


def _nothing_missed(
    K: KrylovSchur | GolubKahanSchur,
    values: np.ndarray,
    Y: np.ndarray,
    small: np.ndarray,
    wanted: np.ndarray,
    which: Which,
) -> bool:
    """Whether no copy of a multiple value outside an invariant subspace can be among the wanted ones.

    A random vector outside sees each value that is left: its best one must be found, and no better than the
    wanted ones.
    """
    if not K.invariant and not K.locked:
        return True
    k = len(wanted)
    ends = {"LA": [values], "SA": [-values], "LM": [np.abs(values)], "SM": [-np.abs(values)], "BE": [values, -values]}
    counts = [k] if which != "BE" else [k - k // 2, k // 2]
    for score, count in zip(ends[which], counts, strict=True):
        if not count:
            continue
        best = max(np.flatnonzero(K.explored(Y)), key=lambda i: score[i])
        worst = np.sort(score[wanted])[-count]
        if not small[best] or score[best] > worst + 1e-8 * np.abs(values).max():
            return False
    return True


def _require_symmetry(A: Operator) -> None:
    U = A.domain.random(2)
    W = A.forward(U)
    gap = A.domain.inner(U[:, :1], W[:, 1:]) - A.domain.inner(W[:, :1], U[:, 1:])
    if gap.abs().item() > 1e3 * A.domain.eps * A.shape[0] ** 0.5 * W.norm().item() * U.norm().item():
        raise NotSymmetric(f"eigsh: {A!r} is not symmetric: ⟨u, Av⟩ − ⟨Au, v⟩ = {gap.item():.3e}; use svds")
