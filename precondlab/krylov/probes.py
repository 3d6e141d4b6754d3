"""Lanczos from many start vectors at once: independent recurrences that share the products."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from precondlab.errors import Breakdown
from precondlab.krylov.recurrences import Tridiagonalization
from precondlab.operator import Operator
from precondlab.space import Space

__all__ = ["orthonormalize", "spherical", "tridiagonalize"]


def tridiagonalize(
    A: Operator, starts: Tensor, /, *, num_steps: int, reorthogonalize: bool = False
) -> list[Tridiagonalization]:
    """Return the Lanczos tridiagonalization of a symmetric operator for each start vector ``[n k]``.

    Without reorthogonalization Ritz values repeat, but each repeated group carries the weight of its
    eigenvalue: quadrature stays right, counts of Ritz values do not. A column whose Krylov
    space is exhausted stops; the others go on. At most n steps are taken, and n steps are always
    orthogonalized. The defect reported is that of neighbors, ``|q_{k−1}ᴴAq_k − β_{k−1}|``.

    Raises
    ------
    Breakdown
        At the first product that is not finite, or for a zero start vector.

    Cost: one product with A per step and unfinished column, in blocks; memory 3k vectors, or
    ``(num_steps + 3) k`` with reorthogonalization.
    Reference: Greenbaum (1989), doi:10.1016/0024-3795(89)90285-1.

    >>> from precondlab.operators import Diagonal
    >>> starts = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    >>> [T.eigh()[0].round(5).tolist() for T in tridiagonalize(Diagonal(torch.tensor([1.0, 4.0])), starts, num_steps=2)]
    [[1.0, 4.0], [1.0]]
    """
    space, count = A.domain, starts.shape[1]
    norms = _norms(space, starts)
    sizes = norms.real.double().cpu().numpy()
    if not (sizes > 0).all():
        raise Breakdown(f"tridiagonalize: start vector {int(np.argmin(sizes > 0)) + 1} is zero or not finite")
    limit = min(num_steps, space.size)
    current = starts / norms
    before = torch.zeros_like(current)
    beta = torch.zeros_like(current[0])
    bases = space.zeros(limit, count) if reorthogonalize or limit == space.size else None
    alphas, betas = np.zeros((limit, count)), np.zeros((limit, count))
    lengths, exhausted = np.full(count, limit), np.zeros(count, dtype=bool)
    scale, defect = np.zeros(count), np.zeros(count)
    active = np.arange(count)
    for step in range(limit):
        W = A.forward(current)
        skew = (space.inner(before, W).diagonal() - beta).abs()
        torch.addcmul(W, before, beta, value=-1, out=before)
        alpha = space.inner(current, before).diagonal()
        before.addcmul_(current, alpha, value=-1)
        if bases is not None:
            bases[:, step, active] = current
            for j, column in enumerate(active):
                before[:, j] = _orthogonal(space, before[:, j : j + 1], bases[:, : step + 1, column])[:, 0]
        beta = _norms(space, before)
        a, b, gap = (x.double().cpu().numpy() for x in (alpha.real, beta.real, skew))
        if not np.isfinite(a + b).all():
            raise Breakdown(
                f"product {step + 1} with {A!r} is not finite; check the model and its residual at this point"
            )
        alphas[step, active], betas[step, active] = a, b
        defect[active] = np.maximum(defect[active], gap)
        scale[active] = np.maximum(scale[active], np.maximum(np.abs(a), b))
        done = b <= 10 * space.eps * scale[active] * (step + 1) ** 0.5
        if step + 1 == space.size:
            done[:] = True
        lengths[active[done]], exhausted[active[done]] = step + 1, True
        if done.any():
            keep = torch.from_numpy(np.flatnonzero(~done)).to(space.device)
            before, current, beta, active = before[:, keep], current[:, keep], beta[keep], active[~done]
        if not len(active):
            break
        before /= beta
        before, current = current, before
    return [
        Tridiagonalization(alphas[:m, j], betas[:m, j], bool(exhausted[j]), float(sizes[j]), float(defect[j]))
        for j, m in enumerate(lengths)
    ]


def orthonormalize(space: Space, Y: Tensor) -> tuple[Tensor, np.ndarray]:
    """Return Q ``[n k]`` and upper triangular R with ``Y = QR``, by Gram–Schmidt done twice.

    A column that depends on those before it, to round-off, leaves a zero column in Q and a zero on
    the diagonal of R; the other columns of Q are orthonormal.

    Cost: no product; 4nk² operations.

    >>> Q, R = orthonormalize(Space(2), torch.tensor([[3.0, 3.0], [4.0, 4.0]], dtype=torch.float64))
    >>> R.round(12).tolist(), Q[:, 1].tolist()
    ([[5.0, 5.0], [0.0, 0.0]], [0.0, 0.0])
    """
    count = Y.shape[1]
    Q, R = torch.zeros_like(Y), torch.zeros(count, count, dtype=Y.dtype, device=Y.device)
    for j in range(count):
        w = Y[:, j : j + 1]
        before = space.inner(w, w).real.sqrt()
        for _ in range(2):
            coefficients = space.inner(Q[:, :j], w)
            w = w - Q[:, :j] @ coefficients
            R[:j, j] += coefficients[:, 0]
        norm = space.inner(w, w).real.sqrt()
        if norm > 10 * space.eps * count**0.5 * before:
            R[j, j] = norm[0, 0]
            Q[:, j] = (w / norm)[:, 0]
    return Q, R.to(torch.complex128 if R.is_complex() else torch.float64).cpu().numpy()


def spherical(space: Space, count: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Return vectors ``[n count]`` uniform on the sphere of radius √n: ``E vvᴴ = I``.

    >>> spherical(Space(4), 2).norm(dim=0)
    tensor([2., 2.], dtype=torch.float64)
    """
    V = space.random(count, generator=generator)
    return V * (space.size**0.5 / _norms(space, V))


def _norms(space: Space, V: Tensor) -> Tensor:
    return space.inner(V, V).diagonal().real.sqrt().to(V.dtype)


def _orthogonal(space: Space, w: Tensor, basis: Tensor) -> Tensor:
    for _ in range(2):
        w = w - basis @ space.inner(basis, w)
    return w
