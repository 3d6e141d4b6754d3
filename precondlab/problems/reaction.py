"""Reaction and diffusion."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from precondlab.differentiation.calculus import Field, partials
from precondlab.problems.condition import Condition
from precondlab.problems.problem import Problem
from precondlab.symbol import Symbol

__all__ = ["fisher"]


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
