"""Equations with large contrasts: variable diffusion, and convection that dominates diffusion."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from precondlab.differentiation.calculus import Field, partials
from precondlab.problems.condition import Condition
from precondlab.problems.problem import Problem
from precondlab.symbol import Symbol

__all__ = ["convection_diffusion", "variable_diffusion"]


def variable_diffusion(contrast: float = 1e6) -> Problem:
    """Return ``−(a u′)′ = f`` on (−π, π), zero at the ends, with ``a = √c^{sin x}`` from ``c^{−1/2}`` to ``c^{1/2}``.

    The solution is ``u = sin x + ½ sin 2x``. Blocks: ``interior``, ``boundary``. The symbol is that of a = 1, the
    geometric mean.

    Parameters
    ----------
    contrast
        ``c = max a / min a ≥ 1``.

    Raises
    ------
    ValueError
        If the contrast is below 1.

    >>> variable_diffusion(1e4)
    Problem(variable_diffusion: nonlinear on (-3.142, 3.142), boundary)
    """
    if not contrast >= 1:
        raise ValueError(f"variable_diffusion: the contrast should be at least 1, got {contrast}")
    height = 0.5 * math.log(contrast)

    def equation(x: Tensor, u: Field) -> Tensor:
        d = partials(u, x, [(1,), (2,)])
        a = torch.exp(height * x[:, 0].sin())
        return -a * (d[2,] + height * x[:, 0].cos() * d[1,])

    def exact(x: Tensor) -> Tensor:
        return x.sin() + 0.5 * (2 * x).sin()

    def source(x: Tensor) -> Tensor:
        a = torch.exp(height * x.sin())
        return a * (x.sin() + 2 * (2 * x).sin() - height * x.cos() * (x.cos() + (2 * x).cos()))

    return Problem(
        name="variable_diffusion",
        domain=((-math.pi, math.pi),),
        equation=equation,
        conditions=(Condition("boundary", where=((0, -math.pi), (0, math.pi))),),
        exact=exact,
        source=source,
        symbol=-Symbol.laplacian(1),
    )


def convection_diffusion(peclet: float = 1e4) -> Problem:
    """Return ``u′ − u″/Pe = 1`` on (0, 1), zero at the ends: a layer of width 1/Pe at x = 1.

    The solution is ``u = x − (e^{Pe (x − 1)} − e^{−Pe}) / (1 − e^{−Pe})``. Blocks: ``interior``, ``boundary``.

    Parameters
    ----------
    peclet
        Pe > 0.

    Raises
    ------
    ValueError
        If Pe is not positive.

    >>> convection_diffusion(100).symbol
    Symbol(-0.01∂²₁ + ∂₁)
    """
    if not peclet > 0:
        raise ValueError(f"convection_diffusion: the Péclet number should be positive, got {peclet}")

    def exact(x: Tensor) -> Tensor:
        return x - (torch.exp(peclet * (x - 1)) - math.exp(-peclet)) / -math.expm1(-peclet)

    return Problem(
        name="convection_diffusion",
        domain=((0.0, 1.0),),
        equation=Symbol({(2,): -1 / peclet, (1,): 1.0}),
        conditions=(Condition("boundary", where=((0, 0.0), (0, 1.0))),),
        exact=exact,
        source=torch.ones_like,
    )
