"""Constant-coefficient differential expressions D = Σ c_α ∂^α and their symbols."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["Symbol"]

MultiIndex = tuple[int, ...]


class Symbol:
    """A constant-coefficient differential expression ``D = Σ_α c_α ∂^α``.

    Applied to a plane wave, ``D e^{ik·x} = σ(k) e^{ik·x}`` with the symbol
    ``σ(k) = Σ_α c_α (ik)^α``: D is diagonal in Fourier space. Expressions add, multiply
    (compose) and scale.

    Parameters
    ----------
    coefficients
        Multi-index α → real coefficient c_α; every α has one entry per space dimension.

    >>> laplacian = Symbol.derivative(2, 0) + Symbol.derivative(0, 2)
    >>> laplacian(torch.tensor([[3.0, 4.0]]))
    tensor([-25.+0.j])
    >>> laplacian * laplacian
    Symbol(∂⁴₁ + 2∂²₁∂²₂ + ∂⁴₂)
    """

    def __init__(self, coefficients: Mapping[MultiIndex, float]) -> None:
        dims = {len(alpha) for alpha in coefficients}
        if len(dims) != 1:
            raise ValueError(
                f"Symbol: multi-indices of one length expected, got {list(coefficients)}; "
                "write one order of differentiation per space dimension, e.g. {(2, 0): 1.0, (0, 2): 1.0}"
            )
        if any(order < 0 for alpha in coefficients for order in alpha):
            raise ValueError(f"Symbol: orders of differentiation are ≥ 0, got {list(coefficients)}")
        (self.dim,) = dims
        self.coefficients = {a: float(c) for a, c in sorted(coefficients.items(), reverse=True) if c != 0}

    @classmethod
    def derivative(cls, *order: int) -> Symbol:
        """Return the expression ∂^α for one multi-index α."""
        return cls({order: 1.0})

    @classmethod
    def laplacian(cls, dim: int) -> Symbol:
        """Return Δ = Σ_i ∂²_i in ``dim`` dimensions."""
        return cls({tuple(2 * (i == j) for j in range(dim)): 1.0 for i in range(dim)})

    @property
    def order(self) -> int:
        """Largest |α| with a non-zero coefficient."""
        return max((sum(alpha) for alpha in self.coefficients), default=0)

    def __call__(self, wavevectors: Tensor) -> Tensor:
        """Return σ(k) ``[n]`` (complex) for wave vectors ``[n, dim]``."""
        if wavevectors.dim() != 2 or wavevectors.shape[1] != self.dim:
            raise ValueError(f"Symbol: expected wave vectors of shape [n, {self.dim}], got {tuple(wavevectors.shape)}")
        ik = 1j * wavevectors
        value = torch.zeros_like(ik[:, 0])
        for alpha, coefficient in self.coefficients.items():
            term = torch.full_like(value, coefficient)
            for axis, order in enumerate(alpha):
                term = term * ik[:, axis] ** order
            value = value + term
        return value

    def __add__(self, other: Symbol) -> Symbol:
        if not isinstance(other, Symbol):
            return NotImplemented
        total = dict(self.coefficients)
        for alpha, coefficient in other.coefficients.items():
            total[alpha] = total.get(alpha, 0.0) + coefficient
        return Symbol(total or {(0,) * self.dim: 0.0})

    def __mul__(self, other: Symbol | float) -> Symbol:
        if not isinstance(other, Symbol):
            return Symbol({alpha: other * c for alpha, c in self.coefficients.items()} or {(0,) * self.dim: 0.0})
        if other.dim != self.dim:
            raise ValueError(f"{self} * {other}: the expressions have {self.dim} and {other.dim} space dimensions")
        product: dict[MultiIndex, float] = {}
        for a, ca in self.coefficients.items():
            for b, cb in other.coefficients.items():
                alpha = tuple(i + j for i, j in zip(a, b, strict=True))
                product[alpha] = product.get(alpha, 0.0) + ca * cb
        return Symbol(product or {(0,) * self.dim: 0.0})

    __rmul__ = __mul__

    def __neg__(self) -> Symbol:
        return self * -1.0

    def __sub__(self, other: Symbol) -> Symbol:
        return self + -other

    def __repr__(self) -> str:
        sup, sub = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"), str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")

        def name(alpha: MultiIndex) -> str:
            return "".join(
                f"∂{'' if order == 1 else str(order).translate(sup)}{str(axis + 1).translate(sub)}"
                for axis, order in enumerate(alpha)
                if order
            )

        terms = []
        for alpha, c in self.coefficients.items():
            derivative = name(alpha)
            terms.append(derivative if c == 1 and derivative else f"{c:g}{derivative}")
        return f"Symbol({' + '.join(terms) or '0'})"
