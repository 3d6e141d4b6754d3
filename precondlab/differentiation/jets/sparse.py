"""Jets of which only some channels are wanted, and some are zero or the same at all points."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

from precondlab.differentiation.jets.algebra import JetAlgebra, points_last

__all__ = ["Jet", "below", "compose", "coordinates", "dense", "multiply"]

#: Channel → ``[N, w]``, or ``[1, w]`` if it is the same at all points; a channel that is not there is zero.
Jet = dict[int, Tensor]

Product = tuple[float, Tensor, Tensor]


def coordinates(algebra: JetAlgebra, x: Tensor) -> Jet:
    """Return the jets of the coordinates at points ``[N, d]``.

    >>> coordinates(JetAlgebra([{(2,): 1.0}]), torch.tensor([[3.0], [4.0]]))[1]
    tensor([[1.]])
    """
    jet = {0: x}
    for k, F in enumerate(algebra.channels, start=1):
        slope = x.new_zeros(1, x.shape[1])
        for alpha, coefficient in F.items():
            if sum(alpha) == 1:
                slope[0, alpha.index(1)] = coefficient
        if slope.any():
            jet[k] = slope
    return jet


def below(algebra: JetAlgebra, wanted: Iterable[int]) -> frozenset[int]:
    """Return the channels of u and v that some channels of uv, or of σ(u), are made of.

    >>> sorted(below(JetAlgebra([{(2, 0): 1.0, (0, 2): 1.0}]), [3]))
    [0, 1, 2, 3]
    """
    wanted = {0, *wanted}
    return frozenset(wanted | {i for k, *pair, _ in algebra.terms if k in wanted for i in pair})


def multiply(algebra: JetAlgebra, wanted: Iterable[int], u: Jet, v: Jet) -> Jet:
    """Return channels of the product."""

    def products(k: int) -> Iterator[Product]:
        if k in v:
            yield 1.0, u[0], v[k]
        if k and k in u:
            yield 1.0, u[k], v[0]
        for i, j, c in _terms(algebra, k):
            if i in u and j in v:
                yield c, u[i], v[j]

    return _nonzero({k: _total(products(k)) for k in wanted})


def compose(
    algebra: JetAlgebra, wanted: Iterable[int], derivatives: Callable[[Tensor, int], Sequence[Tensor]], z: Jet
) -> Jet:
    """Return channels of ``σ(z) = Σ_r σ^(r)(z_0) h^r / r!``, h being z without its value."""

    @cache
    def power(r: int, k: int) -> Tensor | None:
        if r == 1:
            return z.get(k)
        factors = ((c, power(r - 1, i), z.get(j)) for i, j, c in _terms(algebra, k))
        return _total((c, a, b) for c, a, b in factors if a is not None and b is not None)

    powers = {k: [power(r, k) for r in range(1, algebra.order + 1)] for k in wanted if k}
    order = max((r for found in powers.values() for r, h in enumerate(found, start=1) if h is not None), default=0)
    sigma = derivatives(z[0], order)
    jet: dict[int, Tensor | None] = {0: sigma[0]}
    for k, found in powers.items():
        jet[k] = _total((1 / math.factorial(r), sigma[r], h) for r, h in enumerate(found, start=1) if h is not None)
    return _nonzero(jet)


def dense(algebra: JetAlgebra, jet: Jet) -> Tensor:
    """Return all channels ``[C, N, w]``."""
    whole = points_last((algebra.size, *jet[0].shape), jet[0]).zero_()
    for k, part in jet.items():
        whole[k] = part
    return whole


def _terms(algebra: JetAlgebra, channel: int) -> Iterator[tuple[int, int, float]]:
    return ((i, j, c) for k, i, j, c in algebra.terms if k == channel)


def _total(products: Iterable[Product]) -> Tensor | None:
    """Return ``Σ c a b``, None for no terms; what is the same at all points stays so."""
    total: Tensor | None = None
    for c, a, b in products:
        if total is None:
            total = a * b
            if c != 1:
                total *= c
        elif all(size >= max(sizes) for size, *sizes in zip(total.shape, a.shape, b.shape, strict=True)):
            total.addcmul_(a, b, value=c)
        else:
            total = torch.addcmul(total, a, b, value=c)
    return total


def _nonzero(jet: dict[int, Tensor | None]) -> Jet:
    return {k: part for k, part in jet.items() if part is not None}
