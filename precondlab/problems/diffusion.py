"""Diffusion."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from precondlab.problems.condition import Condition
from precondlab.problems.problem import Problem
from precondlab.symbol import Symbol

__all__ = ["heat"]


def heat(dim: int = 1, *, diffusivity: float = 1.0) -> Problem:
    """Return ``u_t − κΔu = 0`` on (−π, π)^dim × (0, 1), zero on the boundary.

    The solution is ``u = e^{−κ dim t} Π_j sin x_j``. Coordinates (x_1, …, x_dim, t). Blocks: ``interior``,
    ``boundary``, ``initial``.

    Parameters
    ----------
    dim
        Number of space dimensions.
    diffusivity
        κ > 0.

    Raises
    ------
    ValueError
        If κ is not positive.

    >>> heat(diffusivity=0.5).symbol
    Symbol(-0.5∂²₁ + ∂₂)
    """
    if not diffusivity > 0:
        raise ValueError(f"heat: the diffusivity should be positive, got {diffusivity}")
    second = {tuple(2 * (i == j) for j in range(dim + 1)): -diffusivity for i in range(dim)}

    def exact(x: Tensor) -> Tensor:
        return torch.exp(-diffusivity * dim * x[:, dim:]) * x[:, :dim].sin().prod(dim=1, keepdim=True)

    return Problem(
        name="heat",
        domain=(*((-math.pi, math.pi),) * dim, (0.0, 1.0)),
        equation=Symbol({**second, (*(0,) * dim, 1): 1.0}),
        conditions=(
            Condition("boundary", where=tuple((j, end) for j in range(dim) for end in (-math.pi, math.pi))),
            Condition("initial", where=((dim, 0.0),)),
        ),
        exact=exact,
    )
