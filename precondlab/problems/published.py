"""Problems on which trainers are compared in the literature, as it states them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from precondlab.differentiation.calculus import Field, partials
from precondlab.problems.condition import Condition
from precondlab.problems.problem import Problem
from precondlab.problems.sampling import Domain, Face
from precondlab.symbol import Symbol

__all__ = ["heat_rod", "helmholtz_sines", "logistic", "poisson_cosines", "poisson_sines", "two_waves"]


def poisson_sines(dim: int = 2) -> Problem:
    """Return ``−Δu = f`` on (0, 1)^dim with ``u = 0`` on the boundary; ``u = Π_j sin πx_j``.

    >>> poisson_sines()
    Problem(poisson_sines: Symbol(-1∂²₁ + -1∂²₂) u = f on (0, 1) × (0, 1), boundary)
    """
    domain = ((0.0, 1.0),) * dim
    return Problem(
        name="poisson_sines",
        domain=domain,
        equation=-Symbol.laplacian(dim),
        conditions=(Condition("boundary", where=_faces(domain)),),
        exact=lambda x: (math.pi * x).sin().prod(dim=1, keepdim=True),
    )


def poisson_cosines(dim: int = 2) -> Problem:
    """Return ``−Δu = f`` on (0, 1)^dim with u prescribed on the boundary; ``u = Σ_j cos πx_j``.

    >>> poisson_cosines(5).dim
    5
    """
    domain = ((0.0, 1.0),) * dim
    return Problem(
        name="poisson_cosines",
        domain=domain,
        equation=-Symbol.laplacian(dim),
        conditions=(Condition("boundary", where=_faces(domain)),),
        exact=lambda x: (math.pi * x).cos().sum(dim=1, keepdim=True),
    )


def helmholtz_sines(modes: tuple[int, int] = (1, 4), *, wavenumber: float = 1.0) -> Problem:
    """Return ``Δu + k²u = f`` on (−1, 1)², zero on the boundary; ``u = sin(a_1πx) sin(a_2πy)``.

    Parameters
    ----------
    modes
        a_1 and a_2.
    wavenumber
        k.

    >>> helmholtz_sines(wavenumber=2.0).symbol
    Symbol(∂²₁ + ∂²₂ + 4)
    """
    domain = ((-1.0, 1.0),) * 2
    first, second = modes
    return Problem(
        name="helmholtz_sines",
        domain=domain,
        equation=Symbol.laplacian(2) + wavenumber**2 * Symbol.derivative(0, 0),
        conditions=(Condition("boundary", where=_faces(domain)),),
        exact=lambda x: torch.sin(first * math.pi * x[:, :1]) * torch.sin(second * math.pi * x[:, 1:]),
    )


def heat_rod(diffusivity: float = 0.25) -> Problem:
    """Return ``u_t − κu_xx = 0`` on (0, 1) × (0, 1), zero at both ends; ``u = e^{−κπ²t} sin πx``.

    Parameters
    ----------
    diffusivity
        κ > 0.

    Raises
    ------
    ValueError
        If κ is not positive.

    >>> heat_rod().symbol
    Symbol(-0.25∂²₁ + ∂₂)
    """
    if not diffusivity > 0:
        raise ValueError(f"heat_rod: the diffusivity should be positive, got {diffusivity}")
    rate = diffusivity * math.pi**2
    return Problem(
        name="heat_rod",
        domain=((0.0, 1.0),) * 2,
        equation=Symbol({(2, 0): -diffusivity, (0, 1): 1.0}),
        conditions=(
            Condition("boundary", where=((0, 0.0), (0, 1.0))),
            Condition("initial", where=((1, 0.0),)),
        ),
        exact=lambda x: torch.exp(-rate * x[:, 1:]) * torch.sin(math.pi * x[:, :1]),
    )


def two_waves() -> Problem:
    """Return ``u_tt − 4u_xx = 0`` on (0, 1) × (0, 1), zero at both ends, of two modes.

    ``u = sin(πx) cos(2πt) + ½ sin(5πx) cos(10πt)``. Blocks: ``interior``, ``boundary``, ``initial`` (u and u_t).

    >>> two_waves().symbol
    Symbol(-4∂²₁ + ∂²₂)
    """

    def mode(x: Tensor, number: int) -> Tensor:
        return torch.sin(number * math.pi * x[:, :1]) * torch.cos(2 * number * math.pi * x[:, 1:])

    return Problem(
        name="two_waves",
        domain=((0.0, 1.0),) * 2,
        equation=Symbol({(0, 2): 1.0, (2, 0): -4.0}),
        conditions=(
            Condition("boundary", where=((0, 0.0), (0, 1.0))),
            Condition("initial", ((1, 0.0),), (Symbol.derivative(0, 0), Symbol.derivative(0, 1))),
        ),
        exact=lambda x: mode(x, 1) + 0.5 * mode(x, 5),
    )


def logistic(rate: float = 5.0) -> Problem:
    """Return ``u_t − ρu(1 − u) = 0``, x ∈ (0, 2π) periodic, t ∈ (0, 1): growth of a Gaussian without diffusion.

    ``u = h e^{ρt} / (h e^{ρt} + 1 − h)`` with ``h = exp(−(x − π)²/(2(π/4)²))``, whose slope jumps at the seam.
    Blocks: ``interior``, ``initial``, ``periodicity``. The symbol is that of the linearization at u = 0.

    Parameters
    ----------
    rate
        Growth rate ρ > 0.

    Raises
    ------
    ValueError
        If ρ is not positive.

    >>> logistic().symbol
    Symbol(∂₂ + -5)
    """
    if not rate > 0:
        raise ValueError(f"logistic: the rate should be positive, got {rate}")

    def equation(x: Tensor, u: Field) -> Tensor:
        d = partials(u, x, [(0, 0), (0, 1)])
        return d[0, 1] - rate * d[0, 0] * (1 - d[0, 0])

    def exact(x: Tensor) -> Tensor:
        h = torch.exp(-8 * ((x[:, :1] - math.pi) / math.pi) ** 2)
        grown = h * torch.exp(rate * x[:, 1:])
        return grown / (grown + 1 - h)

    return Problem(
        name="logistic",
        domain=((0.0, 2 * math.pi), (0.0, 1.0)),
        equation=equation,
        conditions=(
            Condition("initial", where=((1, 0.0),)),
            Condition("periodicity", where=((0, 0.0),), shift=(2 * math.pi, 0.0)),
        ),
        exact=exact,
        symbol=Symbol({(0, 1): 1.0, (0, 0): -rate}),
    )


def _faces(domain: Domain) -> tuple[Face, ...]:
    return tuple((axis, end) for axis, interval in enumerate(domain) for end in interval)
