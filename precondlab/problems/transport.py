"""Transport, waves and dispersion."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from precondlab.differentiation.calculus import Field, partials
from precondlab.problems.condition import Condition
from precondlab.problems.problem import Problem
from precondlab.symbol import Symbol

__all__ = ["advection", "burgers", "kdv", "wave"]

_SPACING = 0.05  # of the trapezoidal rule for Gaussian integrals, in units where the Gaussian is e^{−z²}


def advection(beta: float = 30.0) -> Problem:
    """Return ``u_t + βu_x = 0``, 2π-periodic in x, t ∈ (0, 1), ``u(x, 0) = sin x``; ``u = sin(x − βt)``.

    Coordinates (x, t). Blocks: ``interior``, ``initial``; and ``periodicity``, ``u(0, t) = u(2π, t)``, for
    models that are not periodic by construction, as the Fourier model on this domain and
    :func:`precondlab.models.periodic` ones are.

    Parameters
    ----------
    beta
        Speed β.

    >>> from precondlab.models import fourier
    >>> problem = advection(30.0)
    >>> model = fourier((2, 2), domain=problem.domain)
    >>> problem.residual(model, interior=100, boundary=10, weights={"boundary": 4.0}).weights
    {'interior': 1.0, 'initial': 4.0}
    """
    return Problem(
        name="advection",
        domain=((0.0, 2 * math.pi), (0.0, 1.0)),
        equation=Symbol({(0, 1): 1.0, (1, 0): beta}),
        conditions=(
            Condition("initial", where=((1, 0.0),)),
            Condition("periodicity", where=((0, 0.0),), shift=(2 * math.pi, 0.0)),
        ),
        exact=lambda x: torch.sin(x[:, :1] - beta * x[:, 1:]),
    )


def wave(speed: float = 1.0) -> Problem:
    """Return ``u_tt − c²u_xx = 0`` on (−π, π) × (0, 1), zero at both ends; ``u = sin x cos ct``.

    Coordinates (x, t). Blocks: ``interior``, ``boundary``, ``initial`` (u and u_t at t = 0).

    Parameters
    ----------
    speed
        Speed of sound c.

    >>> wave(2.0).symbol
    Symbol(-4∂²₁ + ∂²₂)
    """
    return Problem(
        name="wave",
        domain=((-math.pi, math.pi), (0.0, 1.0)),
        equation=Symbol({(0, 2): 1.0, (2, 0): -(speed**2)}),
        conditions=(
            Condition("boundary", where=((0, -math.pi), (0, math.pi))),
            Condition("initial", ((1, 0.0),), (Symbol.derivative(0, 0), Symbol.derivative(0, 1))),
        ),
        exact=lambda x: torch.sin(x[:, :1]) * torch.cos(speed * x[:, 1:]),
    )


def kdv() -> Problem:
    """Return ``u‴ = f`` on (−π, π), the steady linear part of the KdV equation; ``u = sin x``.

    Blocks: ``interior``, ``boundary`` (u at both ends), ``slope`` (u′ at the right end).

    >>> kdv().symbol
    Symbol(∂³₁)
    """
    return Problem(
        name="kdv",
        domain=((-math.pi, math.pi),),
        equation=Symbol.derivative(3),
        conditions=(
            Condition("boundary", where=((0, -math.pi), (0, math.pi))),
            Condition("slope", where=((0, math.pi),), operators=(Symbol.derivative(1),)),
        ),
        exact=torch.sin,
    )


def burgers(viscosity: float = 0.01 / math.pi) -> Problem:
    """Return ``u_t + u u_x − νu_xx = 0`` on (−1, 1) × (0, 1), ``u(x, 0) = −sin πx``, zero at both ends.

    Coordinates (x, t). Blocks: ``interior``, ``boundary``, ``initial``. A front of width ν forms at x = 0.
    The exact solution is the Cole–Hopf integral. The symbol is that of the linear part ∂_t − ν∂²_x.

    Parameters
    ----------
    viscosity
        ν > 0.

    Raises
    ------
    ValueError
        If ν is not positive.

    >>> burgers(0.1).symbol
    Symbol(-0.1∂²₁ + ∂₂)
    """
    if not viscosity > 0:
        raise ValueError(f"burgers: the viscosity should be positive, got {viscosity}")

    def equation(x: Tensor, u: Field) -> Tensor:
        d = partials(u, x, [(0, 0), (0, 1), (1, 0), (2, 0)])
        return d[0, 1] + d[0, 0] * d[1, 0] - viscosity * d[2, 0]

    return Problem(
        name="burgers",
        domain=((-1.0, 1.0), (0.0, 1.0)),
        equation=equation,
        conditions=(
            Condition("boundary", where=((0, -1.0), (0, 1.0)), target=lambda x: torch.zeros_like(x[:, :1])),
            Condition("initial", where=((1, 0.0),), target=lambda x: -torch.sin(math.pi * x[:, :1])),
        ),
        exact=lambda x: _cole_hopf(x, viscosity),
        symbol=Symbol({(0, 1): 1.0, (2, 0): -viscosity}),
    )


def _cole_hopf(x: Tensor, viscosity: float) -> Tensor:
    """Return the solution of Burgers' equation from −sin πx at points (x, t), 0 ≤ t ≤ 1, ``[N, 1]``.

    ``u = −∫ sin(πy) e^{−z² − cos(πy)/(2πν)} dz / ∫ e^{−z² − cos(πy)/(2πν)} dz`` with
    ``y = x − 2√(νt) z``: an average of the initial values along the characteristics' reach. The
    trapezoidal rule converges exponentially for such integrands. Their exponent is largest at
    ``|z| ≤ ½√(t/ν)``, as no characteristic is faster than 1; it is normalized before exponentiation.
    """
    reach = 0.5 * viscosity**-0.5 + 8.0
    nodes = torch.arange(-math.ceil(reach / _SPACING), math.ceil(reach / _SPACING) + 1).to(x) * _SPACING
    y = x[:, :1] - 2 * (viscosity * x[:, 1:]).sqrt() * nodes
    average = torch.softmax(-(nodes**2) - torch.cos(math.pi * y) / (2 * math.pi * viscosity), dim=1)
    return -(average * torch.sin(math.pi * y)).sum(dim=1, keepdim=True)
