"""Elliptic problems."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from precondlab.differentiation.calculus import Field, apply
from precondlab.problems.condition import Condition
from precondlab.problems.problem import Problem
from precondlab.problems.sampling import Domain, Face
from precondlab.symbol import Symbol

__all__ = ["biharmonic", "helmholtz", "nonlinear_poisson", "poisson"]


def poisson(dim: int = 1) -> Problem:
    """Return ``−Δu = f`` on (−π, π)^dim with ``u = 0`` on the boundary; ``u = Π_j sin x_j``.

    Blocks: ``interior``, ``boundary``. With the Fourier model in one dimension
    ``A = diag(k⁴) + λ Σ_± φ(±π)φ(±π)ᵀ``.

    >>> poisson(2)
    Problem(poisson: Symbol(-1∂²₁ + -1∂²₂) u = f on (-3.142, 3.142) × (-3.142, 3.142), boundary)
    """
    domain = ((-math.pi, math.pi),) * dim
    return Problem(
        name="poisson",
        domain=domain,
        equation=-Symbol.laplacian(dim),
        conditions=(Condition("boundary", where=_faces(domain)),),
        exact=_product_of_sines,
    )


def nonlinear_poisson(dim: int = 2) -> Problem:
    """Return ``−Δu + u³ = f`` on (−π, π)^dim with ``u = 0`` on the boundary; ``u = Π_j sin x_j``.

    Blocks: ``interior``, ``boundary``. The symbol is that of the linearization at u = 0, −Δ.

    >>> nonlinear_poisson(1).symbol
    Symbol(-1∂²₁)
    """
    domain = ((-math.pi, math.pi),) * dim
    laplacian = Symbol.laplacian(dim)

    def equation(x: Tensor, u: Field) -> Tensor:
        return u(x)[:, 0] ** 3 - apply(laplacian, u, x)

    def source(x: Tensor) -> Tensor:
        u = _product_of_sines(x)
        return dim * u + u**3

    return Problem(
        name="nonlinear_poisson",
        domain=domain,
        equation=equation,
        conditions=(Condition("boundary", where=_faces(domain)),),
        exact=_product_of_sines,
        source=source,
        symbol=-laplacian,
    )


def helmholtz(omega: float = 4.0) -> Problem:
    """Return ``u″ + ω²u = f`` on (−π, π) with ``u`` and ``u′`` prescribed at 0; ``u = sin x``.

    Blocks: ``interior``, ``boundary`` (value and derivative at 0). With the Fourier model
    ``A = diag((ω² − k²)²) + λ (φ(0)φ(0)ᵀ + φ′(0)φ′(0)ᵀ)``, resonant for an integer ω.

    Parameters
    ----------
    omega
        Wave number ω.

    >>> helmholtz(2.0).symbol
    Symbol(∂²₁ + 4)
    """
    value, derivative = Symbol.derivative(0), Symbol.derivative(1)
    return Problem(
        name="helmholtz",
        domain=((-math.pi, math.pi),),
        equation=Symbol.laplacian(1) + omega**2 * value,
        conditions=(Condition("boundary", where=((0, 0.0),), operators=(value, derivative)),),
        exact=torch.sin,
    )


def biharmonic() -> Problem:
    """Return ``u⁗ = f`` on (−π, π) with ``u = u″ = 0`` at both ends (a simply supported beam); ``u = sin x``.

    Blocks: ``interior``, ``boundary`` (value and second derivative at each end).

    >>> biharmonic().symbol
    Symbol(∂⁴₁)
    """
    domain = ((-math.pi, math.pi),)
    operators = (Symbol.derivative(0), Symbol.derivative(2))
    return Problem(
        name="biharmonic",
        domain=domain,
        equation=Symbol.derivative(4),
        conditions=(Condition("boundary", where=_faces(domain), operators=operators),),
        exact=torch.sin,
    )


def _faces(domain: Domain) -> tuple[Face, ...]:
    return tuple((axis, end) for axis, interval in enumerate(domain) for end in interval)


def _product_of_sines(x: Tensor) -> Tensor:
    return x.sin().prod(dim=1, keepdim=True)
