"""Incompressible flow, by its stream function."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from precondlab.differentiation.calculus import Field, partials
from precondlab.problems.condition import Condition
from precondlab.problems.problem import Problem
from precondlab.symbol import Symbol

__all__ = ["kovasznay"]


def kovasznay(reynolds: float = 40.0) -> Problem:
    """Return the steady Navier–Stokes equations behind a grid on (−½, 1) × (−½, 3/2), ``ψ_y Δψ_x − ψ_x Δψ_y = Δ²ψ/Re``.

    The velocity is ``(ψ_y, −ψ_x)``: free of divergence, and no pressure is left. Blocks: ``interior``, ``boundary``
    (ψ and both derivatives, which is the velocity). The exact solution is ``ψ = y − e^{λx} sin(2πy)/(2π)`` with
    ``λ = Re/2 − √(Re²/4 + 4π²)``. The symbol is that of the fluid at rest, −Δ²/Re.

    Parameters
    ----------
    reynolds
        Re > 0.

    Raises
    ------
    ValueError
        If Re is not positive.

    References
    ----------
    Kovasznay, Math. Proc. Camb. Philos. Soc. 44 (1948), doi:10.1017/S0305004100023999.

    >>> kovasznay(10.0).symbol
    Symbol(-0.1∂⁴₁ + -0.2∂²₁∂²₂ + -0.1∂⁴₂)
    """
    if not reynolds > 0:
        raise ValueError(f"kovasznay: the Reynolds number should be positive, got {reynolds}")
    rate = reynolds / 2 - math.hypot(reynolds / 2, 2 * math.pi)
    domain = ((-0.5, 1.0), (-0.5, 1.5))
    at_rest = (-1 / reynolds) * Symbol({(4, 0): 1.0, (2, 2): 2.0, (0, 4): 1.0})

    def equation(x: Tensor, psi: Field) -> Tensor:
        d = partials(psi, x, [(1, 0), (0, 1), (3, 0), (1, 2), (2, 1), (0, 3), (4, 0), (2, 2), (0, 4)])
        convection = d[0, 1] * (d[3, 0] + d[1, 2]) - d[1, 0] * (d[2, 1] + d[0, 3])
        return convection - (d[4, 0] + 2 * d[2, 2] + d[0, 4]) / reynolds

    def exact(x: Tensor) -> Tensor:
        a, y = x[:, :1], x[:, 1:]
        return y - torch.exp(rate * a) * torch.sin(2 * math.pi * y) / (2 * math.pi)

    operators = (Symbol.derivative(0, 0), Symbol.derivative(1, 0), Symbol.derivative(0, 1))
    faces = tuple((axis, end) for axis, interval in enumerate(domain) for end in interval)
    return Problem(
        name="kovasznay",
        domain=domain,
        equation=equation,
        conditions=(Condition("boundary", where=faces, operators=operators),),
        exact=exact,
        symbol=at_rest,
    )
