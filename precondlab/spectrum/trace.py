"""Traces and the Frobenius norm from random vectors, with standard errors."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.errors import Breakdown
from precondlab.krylov.checks import require_integer
from precondlab.krylov.probes import orthonormalize, spherical
from precondlab.operator import Operator, as_operator
from precondlab.space import Space
from precondlab.spectrum.estimate import Estimate, exact

__all__ = ["frobenius_norm", "hutchinson", "hutchpp", "trace", "xtrace"]

_BLOCK = 32  # probes applied at once where none has to be kept


def trace(
    A: LinearOperator,
    /,
    *,
    num_matvecs: int = 60,
    method: Literal["xtrace", "hutch++", "hutchinson"] = "xtrace",
    generator: torch.Generator | None = None,
) -> Estimate[float]:
    """Estimate the trace of a square operator without bias.

    ``"xtrace"`` and ``"hutch++"`` find the large eigenvalues first and are far more accurate where the spectrum
    decays; ``"hutchinson"`` needs one block of vectors only. A budget of n products or more gives the exact trace.
    For a real symmetric A, 95 % intervals held in 91 to 100 % of 300 runs each, over 13 spectra (flat, i^-½, i^-1,
    i^-2, exponential, spikes, low rank, clusters, indefinite; n = 120) and budgets of 8, 12, 30 and 60 products.

    Parameters
    ----------
    A
        Square operator, or SciPy's; symmetric or not.
    num_matvecs
        Budget of products.
    method
        See :func:`xtrace`, :func:`hutchpp` and :func:`hutchinson`.
    generator
        For the probes.

    Raises
    ------
    ValueError
        If A is not square or the budget is too small for the method.
    Breakdown
        If a product is not finite.

    Cost: num_matvecs products; memory of the method.

    >>> from precondlab.operators import LowRank
    >>> A = LowRank(torch.ones(500, 1, dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64))
    >>> round(trace(A, num_matvecs=6).value, 6)  # exact, as the rank is small
    1000.0
    """
    methods = {"xtrace": xtrace, "hutch++": hutchpp, "hutchinson": hutchinson}
    if method not in methods:
        raise ValueError(f"trace: expected a method among {list(methods)}, got {method!r}")
    return methods[method](A, num_matvecs=num_matvecs, generator=generator)


def hutchinson(
    A: LinearOperator, /, *, num_matvecs: int = 60, generator: torch.Generator | None = None
) -> Estimate[float]:
    """Estimate the trace as the mean of ``vᴴAv`` over independent v, uniform on the sphere of radius √n.

    The variance of one sample is ``2n/(n+2) · (‖A‖_F² − tr(A)²/n)`` for a real symmetric A, estimated without bias by
    ``2‖Av − (vᴴAv/n) v‖²``. That says more than the spread of few samples that are as skew as χ²₁ where one eigenvalue
    dominates: with as many degrees of freedom as samples, Student's intervals hold there too. For an A that is not
    symmetric it is too large, by what the antisymmetric part adds.

    Cost: num_matvecs products; memory two blocks of 32 vectors.
    Reference: Hutchinson (1990), doi:10.1080/03610919008812866.

    >>> from precondlab.operators import Identity
    >>> print(hutchinson(Identity(Space(100)), num_matvecs=2))
    100 ± ... (2 products)
    """
    A = square(A, "hutchinson", num_matvecs, least=2)
    generator = generator or torch.Generator().manual_seed(0)
    if num_matvecs >= A.shape[0]:
        return _exact(A)
    found = []
    for first in range(0, num_matvecs, _BLOCK):
        V = spherical(A.domain, min(_BLOCK, num_matvecs - first), generator=generator)
        found.append(_forms(A, V, A.forward(V)))
    forms, variances = np.concatenate(found, axis=1)
    return _average(A, forms, variances, num_matvecs)


def hutchpp(
    A: LinearOperator, /, *, num_matvecs: int = 60, generator: torch.Generator | None = None
) -> Estimate[float]:
    """Estimate the trace by Hutch++: exactly on a random range Q, by Hutchinson on its complement.

    With k = ⌊num_matvecs/3⌋ columns of Q = orth(AS), ``tr QᴴAQ + mean gᴴAg`` over the other probes g, projected on
    the complement of Q and scaled to its sphere; the error is that of :func:`hutchinson` for A on the complement.
    Exact for rank A ≤ k.

    Cost: num_matvecs products; memory num_matvecs vectors.
    Reference: Meyer, Musco, Musco & Woodruff (2021), doi:10.1137/1.9781611976496.16.

    >>> from precondlab.operators import Identity
    >>> print(hutchpp(Identity(Space(100)), num_matvecs=6))
    100 ± ... (6 products)
    """
    A = square(A, "hutchpp", num_matvecs, least=4)
    if num_matvecs >= A.shape[0]:
        return _exact(A)
    space, count = A.domain, num_matvecs // 3
    V = spherical(space, num_matvecs - count, generator=generator)
    S, G = V[:, :count], V[:, count : num_matvecs - count]
    Q, R = orthonormalize(space, finite(A.forward(S), A))
    captured = float(host(columnwise(space, Q, A.forward(Q)), A).sum())
    N = G - Q @ space.inner(Q, G)
    N = N * ((space.size - int(np.count_nonzero(R.diagonal()))) / columnwise(space, N, N)).sqrt()
    AN = finite(A.forward(N), A)
    forms, variances = _forms(A, N, AN - Q @ space.inner(Q, AN))
    return _average(A, captured + forms, variances, num_matvecs)


def xtrace(A: LinearOperator, /, *, num_matvecs: int = 60, generator: torch.Generator | None = None) -> Estimate[float]:
    """Estimate the trace by XTrace: Hutch++ with every vector used twice.

    For each of k = ⌊num_matvecs/2⌋ probes ω_i, the trace is exact on the range Q₍ᵢ₎ of the other k − 1 products,
    plus one sample ``ν_iᴴAν_i`` with ν_i the projection of ω_i on the complement, scaled to its sphere; the
    estimate is the mean over i. Exact for rank A < k.

    The k estimates are exchangeable, not independent: where what a pair of probes share enters the estimates of both,
    the variance of their mean is twice that of independent ones, and taken to be. Measured, it is at most 2.5 times as
    large (a 95 % interval then holds in 90 % of runs), and more only where k is just the numerical rank (73 to 98 %) or
    one more (89 to 97 %).

    Cost: 2⌊num_matvecs/2⌋ products; memory 6k vectors.
    Reference: Epperly, Tropp & Webber (2024), doi:10.1137/23M1548323.

    >>> from precondlab.operators import Identity
    >>> print(xtrace(Identity(Space(100)), num_matvecs=6))
    100 ± ... (6 products)
    """
    A = square(A, "xtrace", num_matvecs, least=4)
    if num_matvecs >= A.shape[0]:
        return _exact(A)
    space, count = A.domain, num_matvecs // 2
    probes = spherical(space, count, generator=generator)
    Y = finite(A.forward(probes), A)
    Q, R = orthonormalize(space, Y)
    Z = finite(A.forward(Q), A)
    H, W = _double(space.inner(Q, Z)), _double(space.inner(Q, probes))
    S, _ = left_out(R)
    captured = (H.trace() - (S.conj() * (H @ S)).sum(0)).real
    C = _without(S, W)
    N, AN = probes - Q @ _like(C, Q), Y - Z @ _like(C, Q)
    left = space.size - int(np.count_nonzero(R.diagonal())) + int(S.any())
    scale = (left / columnwise(space, N, N)).sqrt()
    BN = AN - Q @ _like(_without(S, R - H @ C), Q)
    forms, variances = _forms(A, N * scale, BN * scale)
    return _average(A, captured + forms, 2 * variances, 2 * count)


def frobenius_norm(
    A: LinearOperator, /, *, num_matvecs: int = 30, generator: torch.Generator | None = None
) -> Estimate[float]:
    """Estimate ``‖A‖_F = (E‖Av‖²)^½`` of any operator, v uniform on the sphere of radius √n.

    The variance of ``‖Av‖²`` is that of :func:`hutchinson` for AᴴA; images of different probes of a block tell it too,
    as ``E|v_iᴴMv_j|² = ‖M‖_F²`` for the deviation ``M = AᴴA − (tr AᴴA/n) I``. The square is unbiased; the root and its
    standard error are right to first order in the relative error: measured as for :func:`trace`, 95 % intervals held in
    91 to 97 % of runs with 30 products, and 87 to 98 % with 10, the least for one large singular value. A budget of n
    products or more gives the exact norm.

    Cost: num_matvecs products; memory two blocks of 32 vectors.

    >>> from precondlab.operators import Identity
    >>> print(frobenius_norm(Identity(Space(100)), num_matvecs=2))
    10 ± ... (2 products)
    """
    A = as_operator(A)
    num_matvecs = require_integer("frobenius_norm", "num_matvecs", num_matvecs, least=2)  # one has no error bar
    generator = generator or torch.Generator().manual_seed(0)
    n, real = A.shape[1], not A.domain.dtype.is_complex
    if num_matvecs >= n:
        columns = finite(A.forward(torch.eye(n, dtype=A.domain.dtype, device=A.domain.device)), A)
        return exact(float(host(columnwise(A.codomain, columns, columns), A).sum() ** 0.5), n)
    found = []
    for first in range(0, num_matvecs, _BLOCK):
        V = spherical(A.domain, min(_BLOCK, num_matvecs - first), generator=generator)
        images = A.forward(V)
        found.append((_double(finite(A.codomain.inner(images, images), A)), _double(A.domain.inner(V, V))))
    square_norm = np.concatenate([images.diagonal().real for images, _ in found]).mean()
    deviations = [np.abs(images - square_norm / n * probes) ** 2 for images, probes in found]
    alone = sum(D.trace() for D in deviations)  # of v_iᴴMv_i: its variance
    between = (1 + real) * n / (n + 1 + real) * sum(D.sum() - D.trace() for D in deviations)
    variance = (alone + between) / (num_matvecs - 1 + sum(len(D) * (len(D) - 1) for D in deviations))
    value = float(square_norm**0.5)
    stderr = float((variance / num_matvecs) ** 0.5 / (2 * value)) if value > 0 else 0.0
    return Estimate(value, stderr, value, value, (num_matvecs - 1) * (2 - real), num_matvecs)


def square(A: LinearOperator, who: str, num_matvecs: int, *, least: int) -> Operator:
    """Return A as an operator after checking that it is square and the budget suffices."""
    require_integer(who, "num_matvecs", num_matvecs, least=least)  # fewer have no error bar
    A = as_operator(A)
    if A.shape[0] != A.shape[1]:
        raise ValueError(f"{who}: expected a square operator, got {A!r} of shape {A.shape}; take pl.Gram of it")
    return A


def left_out(R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return S ``[k k]`` and d ``[k]``: ``Q(I − s_i s_iᴴ)Qᴴ`` projects on the range of all columns of QR but i.

    s_i is the i-th column of R⁻ᴴ, scaled to norm one, and d_i = s_iᴴr_i. Where the columns are
    dependent, none adds to the range of the others: S and d are zero.
    """
    if not R.diagonal().all():
        return np.zeros_like(R), np.zeros(len(R))
    S = np.linalg.inv(R).conj().T
    sizes = np.linalg.norm(S, axis=0)
    return S / sizes, 1 / sizes


def columnwise(space: Space, U: Tensor, V: Tensor) -> Tensor:
    """Return ``uᵢᴴvᵢ`` for columns, as real numbers."""
    return space.inner(U, V).diagonal().real


def finite(V: Tensor, A: Operator) -> Tensor:
    """Return V, or raise Breakdown if a product is not finite."""
    if not V.isfinite().all():
        bad = (~V.isfinite()).any(0).nonzero()[0].item()
        raise Breakdown(f"product {bad + 1} of a block with {A!r} is not finite; check the model at this point")
    return V


def host(values: Tensor, A: Operator) -> np.ndarray:
    """Return numbers on the host in double precision, checked to be finite."""
    return finite(values.double()[None], A)[0].cpu().numpy()


def _forms(A: Operator, V: Tensor, BV: Tensor) -> np.ndarray:
    """Return ``vᴴBv`` of columns v uniform on a sphere, and its variance, estimated from each ``[2 k]``.

    By Poincaré's equality for quadratic forms, ``2‖Bv − (vᴴBv/vᴴv)v‖²`` has the variance as its mean; half as much for
    complex v.
    """
    forms = columnwise(A.domain, V, BV)
    residual = BV - V * (forms / columnwise(A.domain, V, V))
    squares = columnwise(A.domain, residual, residual) * (1 if V.is_complex() else 2)
    return host(torch.cat([forms, squares]), A).reshape(2, -1)


def _average(A: Operator, samples: np.ndarray, variances: np.ndarray, num_matvecs: int) -> Estimate[float]:
    """Return the mean of independent samples of given variances; complex probes have two degrees of freedom."""
    mean, count = float(samples.mean()), len(samples)
    stderr = float((variances.mean() / count) ** 0.5)
    return Estimate(mean, stderr, mean, mean, count * (2 if A.domain.dtype.is_complex else 1), num_matvecs)


def _without(S: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Return ``(I − s_i s_iᴴ)x_i`` of columns."""
    return X - S * (S.conj() * X).sum(0)


def _double(x: Tensor) -> np.ndarray:
    return x.to(torch.complex128 if x.is_complex() else torch.float64).cpu().numpy()


def _like(x: np.ndarray, V: Tensor) -> Tensor:
    return torch.from_numpy(x).to(V)


def _exact(A: Operator) -> Estimate[float]:
    return exact(float(finite(A.dense(), A).diagonal().real.double().sum()), A.shape[0])
