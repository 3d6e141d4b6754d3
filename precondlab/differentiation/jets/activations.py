"""Elementwise functions and their derivatives of every order that a jet needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import vjp

Derivatives = Callable[[Tensor, int], list[Tensor]]

__all__ = ["SMOOTH", "Unsupported", "derivatives_of"]


class Unsupported(NotImplementedError):
    """A module or operation without a rule for jets; another route takes over."""


def _polynomials(order: int, inner: tuple[float, ...]) -> list[list[float]]:
    """Return P_0 … P_order, lowest coefficient first, with ``P_0 = t`` and ``P_{r+1} = P_r′ · inner``."""
    result = [[0.0, 1.0]]
    for _ in range(order):
        slope = [i * c for i, c in enumerate(result[-1])][1:]
        product = [0.0] * (len(slope) + len(inner) - 1)
        for i, a in enumerate(slope):
            for j, b in enumerate(inner):
                product[i + j] += a * b
        result.append(product)
    return result


def _horner(coefficients: list[float], t: Tensor) -> Tensor:
    value = torch.full_like(t, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * t + coefficient
    return value


def tanh(z: Tensor, order: int) -> list[Tensor]:
    """``tanh′ = 1 − tanh²``: every derivative is a polynomial in tanh."""
    t = z.tanh()
    return [t, *(_horner(P, t) for P in _polynomials(order, (1.0, 0.0, -1.0))[1:])]


def sigmoid(z: Tensor, order: int) -> list[Tensor]:
    """``s′ = s − s²``."""
    s = z.sigmoid()
    return [s, *(_horner(P, s) for P in _polynomials(order, (0.0, 1.0, -1.0))[1:])]


def softplus(z: Tensor, order: int) -> list[Tensor]:
    """``softplus′ = sigmoid``."""
    return [nn.functional.softplus(z, threshold=700), *sigmoid(z, max(order - 1, 0))][: order + 1]


def silu(z: Tensor, order: int) -> list[Tensor]:
    """``(z s)^(r) = z s^(r) + r s^(r−1)``."""
    s = sigmoid(z, order)
    return [z * s[0], *(z * b + r * a for r, (a, b) in enumerate(pairwise(s), start=1))]


def gelu(z: Tensor, order: int) -> list[Tensor]:
    """``(z Φ)^(r) = z Φ^(r) + r Φ^(r−1)``, with ``Φ^(r) = (−1)^(r−1) He_{r−1} φ``."""
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    previous, hermite = torch.zeros_like(z), torch.ones_like(z)
    Phi = [torch.special.ndtr(z)]
    for r in range(1, order + 1):
        Phi.append((-1) ** (r - 1) * hermite * density)
        previous, hermite = hermite, z * hermite - (r - 1) * previous
    return [z * Phi[0], *(z * b + r * a for r, (a, b) in enumerate(pairwise(Phi), start=1))]


def sin(z: Tensor, order: int) -> list[Tensor]:
    """sin, cos, −sin, −cos, …"""
    s, c = z.sin(), z.cos()
    return [(s, c, -s, -c)[r % 4] for r in range(order + 1)]


def cos(z: Tensor, order: int) -> list[Tensor]:
    """cos, −sin, −cos, sin, …"""
    s, c = z.sin(), z.cos()
    return [(c, -s, -c, s)[r % 4] for r in range(order + 1)]


def exp(z: Tensor, order: int) -> list[Tensor]:
    """Every derivative is exp."""
    return [z.exp()] * (order + 1)


def square(z: Tensor, order: int) -> list[Tensor]:
    """z², 2z, 2, 0, …"""
    first = [z * z, 2 * z, torch.full_like(z, 2.0)]
    return (first + [torch.zeros_like(z)] * order)[: order + 1]


def relu(z: Tensor, order: int) -> list[Tensor]:
    """max(z, 0) and its step; there is no second derivative."""
    if order > 1:
        raise Unsupported("ReLU, which has no second derivative: take a smooth activation, e.g. tanh or SiLU")
    return [z.relu(), (z > 0).to(z.dtype)][: order + 1]


def automatic(function: Callable[[Tensor], Tensor]) -> Derivatives:
    """Derive any elementwise function by repeated reverse differentiation."""

    def derivatives(z: Tensor, order: int) -> list[Tensor]:
        def slope(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
            return lambda t: vjp(f, t)[1](torch.ones_like(t))[0]

        functions = [function]
        for _ in range(order):
            functions.append(slope(functions[-1]))
        return [f(z) for f in functions]

    return derivatives


#: Elementwise modules and functions with closed-form derivatives.
SMOOTH: dict[object, Derivatives] = {
    nn.Tanh: tanh,
    torch.tanh: tanh,
    nn.Sigmoid: sigmoid,
    torch.sigmoid: sigmoid,
    nn.ReLU: relu,
    torch.relu: relu,
    nn.functional.relu: relu,
    nn.SiLU: silu,
    nn.functional.silu: silu,
    nn.GELU: gelu,
    nn.functional.gelu: gelu,
    nn.Softplus: softplus,
    torch.sin: sin,
    torch.cos: cos,
    torch.exp: exp,
    torch.square: square,
}

#: Elementwise modules that torch differentiates rightly to any order, if more slowly.
_DERIVED = (nn.Mish, nn.Softsign, nn.Tanhshrink, nn.LogSigmoid)


def derivatives_of(module: nn.Module) -> Derivatives | None:
    """Return the derivatives of an activation module, or None if it is not known to be smooth."""
    if isinstance(module, nn.GELU) and module.approximate != "none":
        return automatic(module)
    if isinstance(module, nn.Softplus) and module.beta != 1:
        return automatic(module)
    if isinstance(module, _DERIVED):
        return automatic(module)
    return SMOOTH.get(type(module))
