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
from precondlab.spectrum.estimate import Estimate, exact, sampled

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
    How often the intervals hold, less than they claim with few products, is measured in each method's own text.

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

    The variance of one sample is ``2n/(n+2) · (‖A‖_F² − tr(A)²/n)`` for a real symmetric A. Samples are skew where one
    eigenvalue dominates: measured as for :func:`hutchpp`, a 95 % interval holds in 90–95 % of runs.

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
    samples = []
    for first in range(0, num_matvecs, _BLOCK):
        V = spherical(A.domain, min(_BLOCK, num_matvecs - first), generator=generator)
        samples.append(host(columnwise(A.domain, V, A.forward(V)), A))
    return sampled(np.concatenate(samples), num_matvecs)


def hutchpp(
    A: LinearOperator, /, *, num_matvecs: int = 60, generator: torch.Generator | None = None
) -> Estimate[float]:
    """Estimate the trace by Hutch++: exactly on a random range Q, by Hutchinson on its complement.

    With k = ⌊num_matvecs/3⌋ columns of Q = orth(AS), ``tr QᴴAQ + mean gᴴAg`` over the other probes g, projected on
    the complement of Q and scaled to its sphere. Given Q the samples are independent, but fewer than Hutchinson's, and
    where Q has missed a part of one large eigenvalue they are as skew as χ²₁, which Student's interval does not allow
    for: measured over nine spectra of 120 values, a 95 % interval holds in 82–95 % of runs with 12 products, 85–95 %
    with 30, 90–96 % with 60; the lowest for a spike over a flat rest. Exact for rank A ≤ k.

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
    samples = _on_sphere(space, N, finite(A.forward(N), A), space.size - int(np.count_nonzero(R.diagonal())))
    return sampled(captured + samples, num_matvecs)


def xtrace(A: LinearOperator, /, *, num_matvecs: int = 60, generator: torch.Generator | None = None) -> Estimate[float]:
    """Estimate the trace by XTrace: Hutch++ with every vector used twice.

    For each of k = ⌊num_matvecs/2⌋ probes ω_i, the trace is exact on the range Q₍ᵢ₎ of the other k − 1 products,
    plus one sample ``ν_iᴴAν_i`` with ν_i the projection of ω_i on the complement, scaled to its sphere; the
    estimate is the mean over i. Exact for rank A < k. The standard error is the spread of the k
    exchangeable, not independent, estimates: an error estimate rather than a guarantee. Measured as for
    :func:`hutchpp`, a 95 % interval holds in 74–96 % of runs with 12 products, 79–93 % with 30, 78–90 % with 60.

    Cost: 2⌊num_matvecs/2⌋ products; memory 5k vectors.
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
    H, W = (
        x.to(torch.complex128 if x.is_complex() else torch.float64).cpu().numpy()
        for x in (space.inner(Q, Z), space.inner(Q, probes))
    )
    S, _ = left_out(R)
    captured = H.trace() - np.einsum("ij,ik,kj->j", S.conj(), H, S)
    C = torch.from_numpy(W - S * np.einsum("ij,ij->j", S.conj(), W)).to(space.device, space.dtype)
    rank = int(np.count_nonzero(R.diagonal())) - (1 if S.any() else 0)
    samples = captured.real + _on_sphere(space, probes - Q @ C, Y - Z @ C, space.size - rank)
    return sampled(samples, 2 * count)


def frobenius_norm(
    A: LinearOperator, /, *, num_matvecs: int = 30, generator: torch.Generator | None = None
) -> Estimate[float]:
    """Estimate ``‖A‖_F = (E‖Av‖²)^½`` of any operator, v uniform on the sphere of radius √n.

    The square is unbiased; the root and its standard error are right to first order in the relative
    error. A budget of n products or more gives the exact norm.

    Cost: num_matvecs products; memory two blocks of 32 vectors.

    >>> from precondlab.operators import Identity
    >>> print(frobenius_norm(Identity(Space(100)), num_matvecs=2))
    10 ± ... (2 products)
    """
    A = as_operator(A)
    num_matvecs = require_integer("frobenius_norm", "num_matvecs", num_matvecs, least=2)  # one has no error bar
    generator = generator or torch.Generator().manual_seed(0)
    if num_matvecs >= A.shape[1]:
        columns = finite(A.forward(torch.eye(A.shape[1], dtype=A.domain.dtype, device=A.domain.device)), A)
        return exact(float(host(columnwise(A.codomain, columns, columns), A).sum() ** 0.5), A.shape[1])
    samples = []
    for first in range(0, num_matvecs, _BLOCK):
        images = A.forward(spherical(A.domain, min(_BLOCK, num_matvecs - first), generator=generator))
        samples.append(host(columnwise(A.codomain, images, images), A))
    square_norm = sampled(np.concatenate(samples), num_matvecs)
    value = square_norm.value**0.5
    stderr = square_norm.stderr / (2 * value) if value > 0 else 0.0
    return Estimate(value, stderr, value, value, square_norm.degrees, num_matvecs)


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


def _on_sphere(space: Space, N: Tensor, AN: Tensor, dimension: int) -> np.ndarray:
    """Return ``νᴴAν`` for columns ν scaled to the sphere of radius √dimension."""
    sizes, products = columnwise(space, N, N).double(), columnwise(space, N, AN).double()
    return (dimension * products / sizes).cpu().numpy()


def _exact(A: Operator) -> Estimate[float]:
    return exact(float(finite(A.dense(), A).diagonal().real.double().sum()), A.shape[0])
