"""Reaction and diffusion."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from precondlab.differentiation.calculus import Field, partials
from precondlab.problems.condition import Condition
from precondlab.problems.problem import Problem
from precondlab.symbol import Symbol

__all__ = ["allen_cahn", "fisher"]


def fisher(rate: float = 1.0) -> Problem:
    """Return ``u_t − u_xx − ρu(1 − u) = 0`` on (−π, π) × (0, 1): a population front that travels right.

    Coordinates (x, t). Blocks: ``interior``, ``boundary``, ``initial``. The exact solution is
    ``u = (1 + e^{√(ρ/6) x − (5ρ/6) t})^{−2}``, of speed ``5√(ρ/6)``. The symbol is that of the
    linearization at u = 0, ∂_t − ∂²_x − ρ.

    Parameters
    ----------
    rate
        Growth rate ρ > 0.

    Raises
    ------
    ValueError
        If ρ is not positive.

    References
    ----------
    Ablowitz and Zeppetella, Bull. Math. Biol. 41 (1979), doi:10.1007/BF02462380.

    >>> fisher(2.0).symbol
    Symbol(-1∂²₁ + ∂₂ + -2)
    """
    if not rate > 0:
        raise ValueError(f"fisher: the rate should be positive, got {rate}")

    def equation(x: Tensor, u: Field) -> Tensor:
        d = partials(u, x, [(0, 0), (0, 1), (2, 0)])
        return d[0, 1] - d[2, 0] - rate * d[0, 0] * (1 - d[0, 0])

    def exact(x: Tensor) -> Tensor:
        return torch.sigmoid(5 * rate / 6 * x[:, 1:] - math.sqrt(rate / 6) * x[:, :1]) ** 2

    return Problem(
        name="fisher",
        domain=((-math.pi, math.pi), (0.0, 1.0)),
        equation=equation,
        conditions=(
            Condition("boundary", where=((0, -math.pi), (0, math.pi))),
            Condition("initial", where=((1, 0.0),)),
        ),
        exact=exact,
        symbol=Symbol({(0, 1): 1.0, (2, 0): -1.0, (0, 0): -rate}),
    )


def allen_cahn(width: float = 0.1) -> Problem:
    """Return ``u_t − ε²u_xx − u + u³ = 0`` on (−1, 1) × (0, 1): a front of width ε that travels right.

    Coordinates (x, t). Blocks: ``interior``, ``boundary``, ``initial``. The exact solution is
    ``u = ½(1 − tanh((x − s t) / (2√2 ε)))``, of speed ``s = 3ε/√2``. The symbol is that of the linearization at
    u = 1, ∂_t − ε²∂²_x + 2.

    Parameters
    ----------
    width
        ε > 0.

    Raises
    ------
    ValueError
        If ε is not positive.

    >>> allen_cahn(0.5).symbol
    Symbol(-0.25∂²₁ + ∂₂ + 2)
    """
    if not width > 0:
        raise ValueError(f"allen_cahn: the width should be positive, got {width}")

    def equation(x: Tensor, u: Field) -> Tensor:
        d = partials(u, x, [(0, 0), (0, 1), (2, 0)])
        return d[0, 1] - width**2 * d[2, 0] - d[0, 0] + d[0, 0] ** 3

    def exact(x: Tensor) -> Tensor:
        return 0.5 * (1 - torch.tanh((x[:, :1] - 3 * width / math.sqrt(2) * x[:, 1:]) / (2 * math.sqrt(2) * width)))

    return Problem(
        name="allen_cahn",
        domain=((-1.0, 1.0), (0.0, 1.0)),
        equation=equation,
        conditions=(
            Condition("boundary", where=((0, -1.0), (0, 1.0))),
            Condition("initial", where=((1, 0.0),)),
        ),
        exact=exact,
        symbol=Symbol({(0, 1): 1.0, (2, 0): -(width**2), (0, 0): 2.0}),
    )
