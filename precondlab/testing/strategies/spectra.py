"""Spectra that are hard in some way, operators that have them, vectors to start from, and faults.

What was drawn is told to ``hypothesis.event``: ``pytest --hypothesis-show-statistics`` counts it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from hypothesis import event
from hypothesis import strategies as st
from torch import Tensor

from precondlab.operator import Operator
from precondlab.operators.structured import Dense, Diagonal, Identity, LowRank
from precondlab.space import Space
from precondlab.testing.faulty import Faulty
from precondlab.testing.gallery.factors import Reflections, Stretch, rotation
from precondlab.testing.gallery.known import Known

__all__ = ["faults", "generators", "operators_with_spectrum", "spectra", "starts"]

Draw = Callable[..., Any]

SPECTRA = ("uniform", "loguniform", "power", "clusters", "tight pairs", "isolated", "zeros", "strakos")
HOLDERS = ("diagonal", "rotated", "reflected", "low rank + shift", "rectangular", "gram")


def generators() -> st.SearchStrategy[torch.Generator]:
    """Return a strategy for seeded torch generators.

    >>> generators().filter(lambda generator: generator.initial_seed() >= 0).validate()
    """
    return st.integers(0, 2**32 - 1).map(lambda seed: torch.Generator().manual_seed(seed))


@st.composite
def spectra(
    draw: Draw, *, min_size: int = 1, max_size: int = 12, condition: float = 1e12, signed: bool = False
) -> Tensor:
    """Draw eigenvalues or singular values ``[n]`` (float64, descending in size) that are hard in some way.

    Uniform, log-uniform, powers ``i⁻ᵃ``, clusters of some width or with multiplicity, pairs with a gap
    of ``10⁻¹`` to ``10⁻¹⁵``, an isolated small value, exact zeros, Strakoš' spectrum; with mixed signs if
    ``signed``. The largest is 1 in size, non-zero ones are at least ``1/condition``.
    """
    n = draw(st.integers(min_size, max_size))
    kind = draw(st.sampled_from(SPECTRA))
    event(f"spectrum: {kind}")
    generator = draw(generators())
    u = torch.rand(n, dtype=torch.float64, generator=generator)
    i = torch.arange(1, n + 1, dtype=torch.float64)
    decades = math.log10(condition)
    match kind:
        case "uniform" | "zeros":
            values = 0.1 + 0.9 * u
        case "loguniform":
            values = 10 ** (-draw(st.floats(1, max(decades, 1))) * u)
        case "power":
            values = i ** -float(draw(st.integers(1, 4)))
        case "clusters":
            count = draw(st.integers(1, 4))
            width = draw(st.sampled_from([0.0, 1e-14, 1e-8, 1e-3]))
            centers = 10 ** (-draw(st.floats(0, decades)) * torch.rand(count, dtype=torch.float64, generator=generator))
            values = centers[torch.randint(count, (n,), generator=generator)] * (1 - width * u)
        case "tight pairs":
            values = (1 - 0.5 * ((i - 1) // 2) / n) * (1 - (i % 2) * 10.0 ** -draw(st.integers(1, 15)))
        case "isolated":
            values = torch.cat([0.5 + 0.5 * u[1:], u.new_tensor([10 ** -draw(st.floats(1, max(decades, 1)))])])
        case _:
            low, rho = 10.0 ** -draw(st.integers(1, 6)), draw(st.sampled_from([0.6, 0.8, 0.9, 1.0]))
            values = low + (i - 1) / max(n - 1, 1) * (1 - low) * rho ** (n - i)
    if n:
        values = (values / values.max()).clamp(min=1 / condition).sort(descending=True).values
    if kind == "zeros" and n > 1:
        values[n - draw(st.integers(1, n - 1)) :] = 0
    if signed:
        values = values * torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    return values


@st.composite
def operators_with_spectrum(
    draw: Draw,
    *,
    min_size: int = 1,
    max_size: int = 12,
    condition: float = 1e12,
    signed: bool = True,
    kinds: Sequence[str] = HOLDERS,
    dtypes: Sequence[torch.dtype] = (torch.float64,),
    scaled: bool = False,
) -> Known:
    """Draw an operator whose spectrum is known, as a :class:`~precondlab.testing.gallery.Known`.

    Parameters
    ----------
    min_size, max_size
        Number of singular values; 0 allows operators without rows.
    condition, signed
        Of :func:`spectra`; signs are for the symmetric kinds that have no square root.
    kinds
        ``"diagonal"``, ``"rotated"`` (Haar), ``"reflected"`` (two Householder reflections),
        ``"low rank + shift"`` ``UΛUᵀ + μI``, ``"rectangular"`` ``UΣVᵀ``, ``"gram"`` ``JᵀJ`` of such a J.
    dtypes
        float64 or float32; the stated values are those that the dtype holds.
    scaled
        Whether to multiply by a power of ten up to the square root of what the dtype can hold:
        ``10^±150`` in float64, ``10^±15`` in float32.

    >>> from hypothesis import given, settings
    >>> @settings(max_examples=5, database=None, derandomize=True, deadline=None)
    ... @given(operators_with_spectrum())
    ... def test(known):
    ...     assert known.rank <= min(known.operator.shape)
    >>> test()
    """
    dtype, kind = draw(st.sampled_from(list(dtypes))), draw(st.sampled_from(list(kinds)))
    event(f"operator: {kind}")
    generator = draw(generators())
    signs = signed and kind in ("diagonal", "rotated", "reflected") and draw(st.booleans())
    s = draw(spectra(min_size=min_size, max_size=max_size, condition=condition, signed=signs)).to(dtype)
    n, values = len(s), s.double().numpy()
    A: Operator
    match kind:
        case "diagonal":
            A = Diagonal(s)
        case "rotated":
            Q = _rotation(n, dtype, generator)
            A = Q @ Diagonal(s) @ Q.H
        case "reflected":
            Q = Reflections(Space(n, dtype=dtype).random(2, generator=generator))
            A = Q @ Diagonal(s) @ Q.H
        case "low rank + shift":
            more, mu = draw(st.integers(0, max_size)), 2.0 ** -draw(st.integers(0, 40))
            U = _rotation(n + more, dtype, generator).matrix[:, :n]
            A = LowRank(U, s) + mu * Identity(Space(n + more, dtype=dtype))
            values = np.append(values, np.zeros(more)) + mu
        case _:
            tall, more = draw(st.booleans()), draw(st.integers(0, max_size))
            m, n = (n + more, n) if tall else (n, n + more)
            A = _rotation(m, dtype, generator) @ Stretch(s, m, n) @ _rotation(n, dtype, generator).H
    known = Known(kind, A, np.sort(values)[::-1].copy(), "drawn at random", 200 * torch.finfo(dtype).eps)
    known = known.gram() if kind == "gram" else known
    if not scaled:
        return known
    exponents = st.integers(-150, 150) if dtype == torch.float64 else st.integers(-15, 15)
    factor = 10.0 ** draw(exponents)
    return Known(kind, factor * known.operator, factor * known.values, known.trap, 2 * known.rtol)


def _rotation(n: int, dtype: torch.dtype, generator: torch.Generator) -> Dense:
    return Dense(rotation(n, generator=generator).dense().to(dtype))


@st.composite
def starts(draw: Draw, known: Known) -> Tensor:
    """Draw a vector ``[n]`` of norm 1 for a Krylov method to start from.

    Uniform on the sphere, constant, an eigenvector (right singular vector) up to round-off, or
    orthogonal to that of the largest eigenvalue. Costs a dense decomposition.

    >>> starts(Known("one", Identity(Space(1)), np.ones(1), "none")).validate()
    """
    space = known.operator.domain
    kind = draw(st.sampled_from(["uniform", "constant", "eigenvector", "orthogonal"]))
    event(f"start: {kind}")
    v = space.zeros() + 1 if kind == "constant" else space.random(generator=draw(generators()))
    if kind in ("eigenvector", "orthogonal"):
        vectors = torch.linalg.svd(known.operator.dense()).Vh
        if kind == "eigenvector":
            v = vectors[draw(st.integers(0, len(vectors) - 1))]
        elif len(v) > 1:
            v = v - vectors[0] * (vectors[0] @ v)
    return v / torch.linalg.vector_norm(v)


@st.composite
def faults(draw: Draw, A: Operator, *, max_product: int = 20) -> Faulty:
    """Draw a way in which A goes wrong: see :class:`~precondlab.testing.Faulty`.

    A non-finite number or an exception at one of the first ``max_product`` products, noise of
    ``10⁻¹²`` to ``10⁻¹``, an asymmetric part of ``10⁻⁸`` to 1, or a drift of ``10⁻¹²`` to ``10⁻²`` per product.

    >>> faults(Identity(Space(2))).validate()
    """
    kind: Literal["nan", "inf", "raise", "noise", "asymmetry", "drift"] = draw(
        st.sampled_from(["nan", "inf", "raise", "noise", "asymmetry", "drift"])
    )
    event(f"fault: {kind}")
    generator = draw(generators())
    match kind:
        case "nan" | "inf" | "raise":
            return Faulty(A, fault=kind, at=draw(st.integers(0, max_product - 1)))
        case "noise":
            return Faulty(A, noise=10.0 ** -draw(st.integers(1, 12)), generator=generator)
        case "asymmetry":
            return Faulty(A, asymmetry=10.0 ** -draw(st.integers(0, 8)), generator=generator)
        case _:
            return Faulty(A, drift=10.0 ** -draw(st.integers(2, 12)))
