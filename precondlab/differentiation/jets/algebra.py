"""The algebra of jets: a value and some of its derivatives at a point, multiplied by Leibniz' rule."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

MultiIndex = tuple[int, ...]
Functional = Mapping[MultiIndex, float]  # u ↦ Σ c_α ∂^α u, without a multiple of u itself

__all__ = ["JetAlgebra", "points_last"]


class JetAlgebra:
    """Values with the derivatives needed to know some functionals ``F u = Σ_α c_α ∂^α u`` of products.

    An element is a tensor ``[C, …]``: channel 0 is the value u, the others are functionals of it.
    Leibniz' rule ``∂^α(uv) = Σ_β binom(α, β) ∂^β u ∂^{α−β} v`` needs the derivatives below
    each α, but not α itself: a functional is one channel however many terms it has. For the Laplacian in d
    dimensions there are d + 2 channels: u, ∇u and Δu.

    Attributes
    ----------
    channels
        The functional of each channel but the first.
    index
        Channel of each requested functional.
    terms
        ``(k, i, j, c)``: channel k of a product uv contains ``c u_i v_j``, besides ``u_0 v_k + u_k v_0``.
    order
        Highest order of differentiation: a product of more than this many elements without value is zero.

    >>> algebra = JetAlgebra([{(2, 0): 1.0, (0, 2): 1.0}])
    >>> algebra.size, algebra.terms
    (4, [(3, 1, 1, 2.0), (3, 2, 2, 2.0)])
    """

    def __init__(self, functionals: Sequence[Functional]) -> None:
        below = {beta for F in functionals for alpha in F for beta in _below(alpha)}
        single = sorted(below, key=lambda beta: (sum(beta), tuple(-order for order in beta)))
        self.channels: list[dict[MultiIndex, float]] = [{beta: 1.0} for beta in single]
        self.index = []
        for F in functionals:
            if dict(F) not in self.channels:
                self.channels.append(dict(F))
            self.index.append(1 + self.channels.index(dict(F)))
        place = {beta: 1 + i for i, beta in enumerate(single)}
        totals: dict[tuple[int, int, int], float] = {}
        for k, F in enumerate(self.channels, start=1):
            for alpha, coefficient in F.items():
                for beta in _below(alpha):
                    rest = tuple(a - b for a, b in zip(alpha, beta, strict=True))
                    key = (k, place[beta], place[rest])
                    binomial = math.prod(math.comb(a, b) for a, b in zip(alpha, beta, strict=True))
                    totals[key] = totals.get(key, 0.0) + coefficient * binomial
        self.terms = [(*key, c) for key, c in totals.items() if c]
        self.order = max((sum(alpha) for F in self.channels for alpha in F), default=0)

    @property
    def size(self) -> int:
        """Number of channels C."""
        return 1 + len(self.channels)

    def coordinates(self, x: Tensor) -> Tensor:
        """Return the jets ``[C, N, d]`` of the coordinates at points ``[N, d]``."""
        jets = points_last((self.size, *x.shape), x).zero_()
        jets[0] = x
        for k, F in enumerate(self.channels, start=1):
            for alpha, coefficient in F.items():
                if sum(alpha) == 1:
                    jets[k, :, alpha.index(1)] = coefficient
        return jets

    def multiply(self, s: Tensor, v: Tensor) -> Tensor:
        """Return the jets of the product; one operand may broadcast in the axes after the first."""
        out = points_last(torch.broadcast_shapes(s.shape, v.shape), v)
        torch.mul(s[0], v, out=out)
        if self.size > 1:
            out[1:].addcmul_(s[1:], v[:1])
            outs, ss, vs = out.unbind(), s.unbind(), v.unbind()
            for k, i, j, c in self.terms:
                outs[k].addcmul_(ss[i], vs[j], value=c)
        return out

    def multiply_adjoint(self, s: Tensor, w: Tensor) -> Tensor:
        """Return the transpose of ``v ↦ s v`` applied to w ``[C, …]``."""
        out = s[0] * w
        outs, ss, ws = out.unbind(), s.unbind(), w.unbind()
        for k in range(1, self.size):
            outs[0].addcmul_(ss[k], ws[k])
        for k, i, j, c in self.terms:
            outs[j].addcmul_(ss[i], ws[k], value=c)
        return out

    def compose(self, derivatives: Sequence[Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the jets of σ(z) and of σ′(z), from σ, σ′, …, σ^(order + 1) at the value of z.

        ``σ(z_0 + h) = Σ_r σ^(r)(z_0) h^r / r!`` with h the part of z without value, which is nilpotent.
        """
        value, slope = torch.empty_like(z), torch.empty_like(z)
        value[0], slope[0] = derivatives[0], derivatives[1]
        if self.size == 1:
            return value, slope
        torch.mul(derivatives[1], z[1:], out=value[1:])
        torch.mul(derivatives[2], z[1:], out=slope[1:])
        power = z
        for r in range(2, self.order + 1):
            power = self._nilpotent_product(power, z)
            value.addcmul_(derivatives[r], power, value=1 / math.factorial(r))
            slope.addcmul_(derivatives[r + 1], power, value=1 / math.factorial(r))
        return value, slope

    def _nilpotent_product(self, u: Tensor, v: Tensor) -> Tensor:
        """Return the product of the parts without value."""
        out = torch.zeros_like(u)
        for k, i, j, c in self.terms:
            out[k].addcmul_(u[i], v[j], value=c)
        return out


def points_last(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return an empty tensor ``[C, N, …]`` whose axis N is the last in memory, and C the one before it."""
    return like.new_empty((*shape[2:], *shape[:2])).movedim((-2, -1), (0, 1))


def _below(alpha: MultiIndex) -> list[MultiIndex]:
    """Return the multi-indices strictly between 0 and α."""
    box = itertools.product(*(range(order + 1) for order in alpha))
    return [beta for beta in box if any(beta) and beta != alpha]
