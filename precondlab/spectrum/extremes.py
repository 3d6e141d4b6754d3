"""A few eigenvalues or singular values at the ends of the spectrum, by restarted Krylov methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.errors import Breakdown, NotSymmetric
from precondlab.krylov.basis import require_finite
from precondlab.krylov.checks import require_integer
from precondlab.krylov.inverse import NearEigenvalue, ShiftedInverse
from precondlab.krylov.schur import GolubKahanSchur, KrylovSchur
from precondlab.operator import Operator, as_operator
from precondlab.space import Space
from precondlab.spectrum.pairs import Eigenpairs, SingularTriplets, judged, rayleigh_ritz, triplet_residuals

__all__ = ["eigsh", "svds"]

Which = Literal["LM", "LA", "SA", "SM", "BE"]


_DENSE_SIZE = 3000  # columns up to which a dense decomposition is affordable
_ROUND_OFF = 100  # multiples of ε‖A‖ by which a product may differ from what the recurrence says


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
        :func:`~precondlab.krylov.minres`. Where an eigenvalue lies within ``⅛ ε^¼ ‖A − σI‖`` of σ the solves
        are with a shift that is twice as far below it, and the k values nearest to σ are chosen from k + 2.
    v0
        Start vector ``[n]`` or block ``[n p]``, for example Ritz vectors of a nearby operator; random by default.
    ncv
        Largest number of basis vectors; by default ``min(n, max(2k + 1, 20))``, or fewer if ncv + p vectors do not
        fit the memory budget.
    memory_budget
        Bytes the basis may take; the k vectors returned and about 6p vectors of working memory come on top.
    num_matvecs
        Budget of products of the recurrence (with a shift: of solves); ``100 n`` by default.
    tol
        Accuracy: ``‖A x − θ x‖ ≤ tol |θ| + 10 ε ‖A‖``, up to round-off of the products, ``100 ε ‖A‖``, and with a shift
        that of solves, ``√ε |θ − σ| + ε^¾ ‖A‖``; the error of θ goes with its square.
    callback
        Called with the running :class:`~precondlab.krylov.KrylovSchur` after each step.

    Raises
    ------
    NotSymmetric
        If ``⟨u, A v⟩ ≠ ⟨A u, v⟩`` for random vectors (probed only where symmetry is not declared).
    Breakdown
        At the first product that is not finite; if σ is too close to several eigenvalues, or a solve fails.

    Cost: p products per step, and one to check the recurrence, k more if it fails; with a shift as many solves, and
    k + 1 products for the residuals; memory ncv + p vectors.
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
    start = _start("eigsh", A.domain, v0, generator)
    k, size, budget = _sizes("eigsh", A.domain, k, ncv, start.shape[1], num_matvecs, memory_budget)

    def converge(target: Operator, k: int) -> tuple[KrylovSchur, bool, np.ndarray, np.ndarray, np.ndarray]:
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
                return K, done, values[wanted], residuals[wanted], Y[:, wanted]
            if K.basis.room < K.block and K.basis.size < n:
                kept = _select(values, which, min(len(values) - K.block, k + (size - k) // 3))
                K.restart(Y[:, kept])

    if sigma is not None:
        return _by_shift(A, sigma, OPinv, k, min(k + 2, size), which, tol, start, converge)
    K, done, values, residuals, Y = converge(A, k)
    X, scale, products = K.vectors(Y), float(np.abs(K.T).max()), K.num_matvecs + 1
    small: np.ndarray | bool = True
    if not K.defect(Y.sum(1)) <= _ROUND_OFF * A.domain.eps * scale * len(values) ** 0.5:
        values, X, residuals, _ = rayleigh_ritz(A, X)
        products += len(values)
        small = residuals <= tol * np.abs(values) + _ROUND_OFF * A.domain.eps * scale
    order = np.argsort(values)
    return Eigenpairs(values[order], X[:, torch.as_tensor(order)], residuals[order], judged(small, done), products)


def _by_shift(
    A: Operator,
    sigma: float,
    OPinv: LinearOperator | None,
    k: int,
    more: int,
    which: Which,
    tol: float,
    start: Tensor,
    converge: Callable[[Operator, int], tuple[KrylovSchur, bool, np.ndarray, np.ndarray, np.ndarray]],
) -> Eigenpairs:
    """Return eigenvalues by a recurrence with ``(A − σI)⁻¹``, with their true residuals.

    Where σ is too close to an eigenvalue for the solves, the recurrence is that of a shift beside it; ``more`` values
    are then found, so that the k nearest to σ itself are among them.
    """
    inverse = ShiftedInverse(A, sigma) if OPinv is None else as_operator(OPinv, like=A)
    shift, used = sigma, A.num_matvecs
    try:
        K, done, _, _, Y = converge(inverse, k)
    except NearEigenvalue as near:
        if which != "LM":
            raise
        shift = sigma - near.distance
        K, done, _, _, Y = converge(ShiftedInverse(A, shift), more)
    values, X, residuals, _ = rayleigh_ritz(A, K.vectors(Y))
    scale = (A.forward(start[:, :1]).norm() / start[:, :1].norm()).item()
    distances = np.abs(values - shift)
    round_off = (_ROUND_OFF * A.domain.eps + A.domain.eps**0.75) * max(scale, np.abs(values).max(), abs(sigma))
    small = residuals <= tol * np.abs(values) + A.domain.eps**0.5 * distances + round_off
    nearest = np.arange(len(values))
    if shift != sigma:
        nearest = np.sort(np.argsort(np.abs(values - sigma), kind="stable")[:k])
        sure = distances.max() - abs(shift - sigma) + round_off + residuals.max()
        if done and len(values) < len(start) and np.abs(values[nearest] - sigma).max() > sure:
            raise Breakdown(
                f"eigsh: σ = {sigma:g} is too close to an eigenvalue, and {more} or more lie as near; move it by more "
                f"than {abs(shift - sigma):.1e}, or give OPinv"
            )
    X, status = X[:, torch.as_tensor(nearest)], judged(small[nearest], done)
    return Eigenpairs(values[nearest], X, residuals[nearest], status, A.num_matvecs - used)


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
    the operator has columns unless it is well conditioned: where they have not converged after min(m, n) products, the
    budget allows for as many again, and J fits the memory budget three times, it is decomposed densely.

    Cost: one product with J and one with Jᵀ per vector, and one of either to check the recurrence, k more if it
    fails; memory ncv + p vectors of either side.
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
    dense = which == "SM" and budget > n <= _DENSE_SIZE and _dense_bytes(target) <= memory_budget
    limit = min(n, budget - n) if dense else budget  # products after which another n for all columns are well spent
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
        if done or K.num_matvecs >= limit:
            break
        if K.right.room < K.block and K.right.size < n:
            count = min(len(values) - K.block, k + (size - k) // 3)
            kept = np.arange(count) if which == "LM" else np.arange(len(values) - count, len(values))
            K.restart(left[:, kept], right[:, kept])
    if done or not dense:
        allowed = _ROUND_OFF * J.domain.eps * float(np.abs(K.B).max(initial=0.0))
        left, right, values, residuals = left[:, wanted], right[:, wanted], values[wanted], residuals[wanted]
        agrees = K.defect(left.sum(1), right.sum(1)) <= allowed * len(wanted) ** 0.5
        U, V = K.vectors(left, right)
        K.left.append_random(len(null))
        U[:, torch.as_tensor(np.isin(wanted, null))] = K.left.vectors[:, K.left.size - len(null) :]
        products, status = K.num_matvecs + 1, judged(True, done)
        if not agrees:
            residuals, products = triplet_residuals(target, U, values, V), products + len(wanted)
            status = judged(residuals <= tol * values + allowed, done)
    else:
        matrix = target.dense()
        require_finite(matrix, target, n)
        U, sigma, right = torch.linalg.svd(matrix, full_matrices=False)
        U, V, values = U[:, n - k :], right[n - k :].mH, sigma[n - k :].double().numpy(force=True)
        residuals, products = triplet_residuals(target, U, values, V), K.num_matvecs + n + k
        allowed = _ROUND_OFF * J.domain.eps * sigma[0].item()
        status = judged(residuals <= tol * values + allowed, True)
    return SingularTriplets(V if wide else U, values, U if wide else V, residuals, status, products)


def _dense_bytes(J: Operator) -> int:
    """Return the memory of a matrix and its singular value decomposition."""
    m, n = J.shape
    return 3 * m * n * J.domain.dtype.itemsize


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
    k = require_integer(who, "k", k, most=n)
    least = min(n, k + p)  # values and a block
    size = min(n, max(2 * k + 1, 20, least))
    size = size if ncv is None else require_integer(who, "ncv", ncv, least=least, most=n)
    budget = 100 * n if num_matvecs is None else require_integer(who, "num_matvecs", num_matvecs)
    memory_budget = require_integer(who, "memory_budget", memory_budget)
    bytes_per_vector = n * space.dtype.itemsize
    fits = memory_budget // max(bytes_per_vector, 1) - p
    if fits < (least if ncv is None else size):
        raise ValueError(
            f"{who}: {(least if ncv is None else size) + p} vectors of {bytes_per_vector:,} bytes exceed the memory "
            f"budget of {memory_budget:,} bytes; raise memory_budget, or lower k or ncv"
        )
    return k, min(size, fits), budget


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
