"""Diagonals from random signs, with a standard error for every entry."""

from __future__ import annotations

import math
from typing import Literal

import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.krylov.probes import orthonormalize
from precondlab.operator import Operator
from precondlab.spectrum.estimate import Estimate
from precondlab.spectrum.trace import finite, left_out, square

__all__ = ["diagonal"]

_BLOCK = 32  # probes applied at once where none has to be kept


def diagonal(
    A: LinearOperator,
    /,
    *,
    num_matvecs: int = 60,
    method: Literal["xdiag", "hutchinson"] = "xdiag",
    generator: torch.Generator | None = None,
) -> Estimate[Tensor]:
    """Estimate the diagonal ``[n]`` of a square operator without bias.

    ``"hutchinson"`` is the mean of ``ω ∘ Aω`` over random signs ω; the variance of an entry is the sum of
    squares of its row outside the diagonal. ``"xdiag"`` is exact on the range Q₍ᵢ₎ of all probes but one, which
    serves to sample what is left, and averages over i: exact for rank A < k = ⌊num_matvecs/2⌋. Its k estimates are
    exchangeable, not independent: as for :func:`~precondlab.spectrum.xtrace` the variance of their mean is taken to
    be twice what their spread tells. Measured as for :func:`~precondlab.spectrum.trace`, 95 % intervals hold for 94 to
    100 % of the entries. A budget of n products or more gives the exact diagonal.

    Parameters
    ----------
    A
        Square operator, or SciPy's; symmetric or not. XDiag also applies its adjoint.
    num_matvecs
        Budget of products.
    method
        See above.
    generator
        For the probes.

    Raises
    ------
    ValueError
        If A is not square or the budget is too small for the method.
    Breakdown
        If a product is not finite.

    Cost: num_matvecs products; memory 4k vectors (xdiag) or 64 (hutchinson).
    References: Bekas, Kokiopoulou & Saad (2007), doi:10.1016/j.apnum.2007.01.003; Epperly, Tropp & Webber
    (2024), doi:10.1137/23M1548323.

    >>> from precondlab.operators import LowRank
    >>> U = torch.arange(1.0, 101.0, dtype=torch.float64)[:, None]
    >>> diagonal(LowRank(U, torch.ones(1, dtype=torch.float64)), num_matvecs=4).value[:3]
    tensor([1., 4., 9.], dtype=torch.float64)
    """
    methods = {"xdiag": _xdiag, "hutchinson": _hutchinson}
    if method not in methods:
        raise ValueError(f"diagonal: expected a method among {list(methods)}, got {method!r}")
    A = square(A, "diagonal", num_matvecs, least=4 if method == "xdiag" else 2)
    if num_matvecs >= A.shape[0]:
        entries = finite(A.dense(), A).diagonal().clone()
        return Estimate(entries, torch.zeros_like(entries).real, entries, entries, math.inf, A.shape[0])
    return methods[method](A, num_matvecs, generator or torch.Generator().manual_seed(0))


def _hutchinson(A: Operator, num_matvecs: int, generator: torch.Generator) -> Estimate[Tensor]:
    mean, spread, seen = A.domain.zeros(), A.domain.zeros().real, 0
    for first in range(0, num_matvecs, _BLOCK):
        signs = A.domain.random(min(_BLOCK, num_matvecs - first), generator=generator).sgn()
        samples = signs.conj() * finite(A.forward(signs), A)
        count, block_mean = samples.shape[1], samples.mean(1)
        gap = block_mean - mean  # blocks are merged by the parallel-axis rule
        spread = spread + (samples - block_mean[:, None]).abs().square().sum(1)
        spread = spread + gap.abs().square() * (seen * count / (seen + count))
        mean, seen = mean + gap * (count / (seen + count)), seen + count
    return _estimate(mean, spread, seen, num_matvecs)


def _xdiag(A: Operator, num_matvecs: int, generator: torch.Generator) -> Estimate[Tensor]:
    space, count = A.domain, num_matvecs // 2
    signs = space.random(count, generator=generator).sgn()
    Q, R = orthonormalize(space, finite(A.forward(signs), A))
    Z = finite(A.backward(Q), A)
    S, lengths = left_out(R)
    S = torch.from_numpy(S).to(space.device, space.dtype)
    removed = Q @ S
    correction = removed * (signs.conj() * torch.from_numpy(lengths).to(signs) - (Z @ S).conj())
    mean = correction.mean(1)
    spread = 2 * (correction - mean[:, None]).abs().square().sum(1)
    return _estimate((Q * Z.conj()).sum(1) + mean, spread, count, 2 * count)


def _estimate(mean: Tensor, spread: Tensor, count: int, num_matvecs: int) -> Estimate[Tensor]:
    stderr = (spread / (count * (count - 1))).sqrt()
    return Estimate(mean, stderr, mean, mean, count - 1, num_matvecs)
