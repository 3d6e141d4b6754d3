"""Elementwise functions and their derivatives of every order that a jet needs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, fx, nn
from torch.func import vjp
from torch.fx.proxy import TraceError

Derivatives = Callable[[Tensor, int], list[Tensor]]

__all__ = ["SMOOTH", "UNREADABLE", "WITH_SETTINGS", "Unsupported", "derivatives_of"]

#: What code raises that cannot work with the symbols of a trace, torch's and its own complaints.
UNREADABLE = (
    *(TraceError, RuntimeError, TypeError, ValueError, AttributeError),
    *(LookupError, ArithmeticError, AssertionError),
)


class Unsupported(NotImplementedError):
    """A module or operation without a rule for jets; another route takes over."""


def _square_derivative(known: list[Tensor]) -> Tensor:
    """Return the next derivative of f² by Leibniz' rule, from f, f′, …, f^(r): ``Σ_j binom(r, j) f^(j) f^(r−j)``."""
    r = len(known) - 1
    total = known[0] * known[r] if r == 0 else (2 * known[0]).mul_(known[r])
    for j in range(1, (r + 2) // 2):
        twice = 1 if 2 * j == r else 2
        total.addcmul_(known[j], known[r - j], value=twice * math.comb(r, j))
    return total


def tanh(z: Tensor, order: int) -> list[Tensor]:
    """``t′ = 1 − t²``, so ``t^(r+1) = −(t²)^(r)``."""
    found = [z.tanh()]
    while len(found) <= order:
        square = _square_derivative(found)
        found.append(1 - square if len(found) == 1 else -square)
    return found


def sigmoid(z: Tensor, order: int) -> list[Tensor]:
    """``s′ = s − s²``, so ``s^(r+1) = s^(r) − (s²)^(r)``."""
    found = [z.sigmoid()]
    while len(found) <= order:
        found.append(found[-1] - _square_derivative(found))
    return found


def softplus(beta: float = 1.0, threshold: float = 20.0) -> Derivatives:
    """``ln(1 + e^βz)/β``, ``softplus′ = sigmoid(βz)``; where ``βz`` is above the threshold, z itself, as in torch."""

    def derivatives(z: Tensor, order: int) -> list[Tensor]:
        scaled = beta * z
        line, slopes = scaled > threshold, sigmoid(scaled, max(order - 1, 0))
        known = [beta**r * slope.masked_fill(line, float(r == 0)) for r, slope in enumerate(slopes)]
        return [nn.functional.softplus(z, beta, threshold), *known][: order + 1]

    return derivatives


def elu(alpha: float = 1.0) -> Derivatives:
    """z for z > 0, else ``α (e^z − 1)``; for α ≠ 1 its slope jumps at 0."""

    def derivatives(z: Tensor, order: int) -> list[Tensor]:
        right, grown = z > 0, alpha * z.clamp(max=0).exp()
        return [nn.functional.elu(z, alpha), *(grown.masked_fill(right, float(r == 0)) for r in range(order))]

    return derivatives


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


def power(exponent: float) -> Derivatives:
    """``(z^p)^(r) = p (p − 1) … (p − r + 1) z^(p−r)``."""

    def derivatives(z: Tensor, order: int) -> list[Tensor]:
        factors = itertools.accumulate(range(order), lambda f, r: f * (exponent - r), initial=1.0)
        return [f * z.pow(exponent - r) if f else torch.zeros_like(z) for r, f in enumerate(factors)]

    return derivatives


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
    nn.SiLU: silu,
    nn.GELU: gelu,
    nn.functional.gelu: gelu,
    torch.sin: sin,
    torch.cos: cos,
    torch.exp: exp,
    torch.square: square,
    torch.sqrt: power(0.5),
    torch.rsqrt: power(-0.5),
    torch.reciprocal: power(-1.0),
}

#: Elementwise functions whose derivatives depend on arguments besides the first.
WITH_SETTINGS: dict[object, Callable[..., Derivatives]] = {
    nn.functional.softplus: softplus,
    nn.functional.elu: lambda alpha=1.0, inplace=False: elu(alpha),
    nn.functional.relu: lambda inplace=False: relu,
    nn.functional.silu: lambda inplace=False: silu,
}

#: Elementwise modules that torch differentiates rightly to any order, if more slowly.
_DERIVED = (nn.Mish, nn.Softsign, nn.Tanhshrink, nn.LogSigmoid)


def derivatives_of(module: nn.Module) -> Derivatives | None:
    """Return the derivatives of an activation module, or None if it is not known to be smooth."""
    if isinstance(module, nn.GELU) and module.approximate != "none":
        return automatic(module)
    if isinstance(module, nn.Softplus):
        return softplus(module.beta, module.threshold)
    if isinstance(module, nn.ELU):
        return elu(module.alpha)
    if isinstance(module, _DERIVED):
        return automatic(module)
    return SMOOTH.get(type(module)) or SMOOTH.get(_only_call(module))


def _only_call(module: nn.Module) -> object:
    """Return the function that a module of one's own applies to its input, if that is all it does."""
    try:
        nodes = list(fx.Tracer().trace(module).nodes)
    except UNREADABLE:
        return None
    alone = [node.op for node in nodes] == ["placeholder", "call_function", "output"]
    return nodes[1].target if alone and nodes[1].args == (nodes[0],) and not nodes[1].kwargs else None
