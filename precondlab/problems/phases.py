"""Separation of phases: an Allen–Cahn equation without a closed-form solution, and its reference."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor

from precondlab.differentiation.calculus import Field, partials
from precondlab.problems.condition import Condition
from precondlab.problems.problem import Problem
from precondlab.symbol import Symbol

__all__ = ["PhaseReference", "phase_reference", "phase_separation"]

_DIFFUSIVITY, _RATE = 1e-4, 5.0
_MODES, _STEPS = 1024, 1000
_FINE = 256  # points per mode for the coefficients of the initial values, which have a kink
_CIRCLE = 32  # nodes of the contour integrals for the coefficients of the time stepping


def phase_separation() -> Problem:
    """Return ``u_t − 10⁻⁴u_xx + 5u³ − 5u = 0``, x ∈ (−1, 1) periodic, t ∈ (0, 1), ``u(x, 0) = x² cos πx``.

    The Allen–Cahn problem on which trainers are compared: u separates into the phases ±1 with fronts of width 0.01. The
    exact solution is :func:`phase_reference`, within 1e-9 in relative L². Coordinates (x, t). Blocks: ``interior``,
    ``initial``; and ``periodicity`` of u and u_x for models that are not periodic by construction. The symbol is that
    of the linearization at u = ±1.

    >>> phase_separation().symbol
    Symbol(-0.0001∂²₁ + ∂₂ + 10)
    """

    def equation(x: Tensor, u: Field) -> Tensor:
        d = partials(u, x, [(0, 0), (0, 1), (2, 0)])
        return d[0, 1] - _DIFFUSIVITY * d[2, 0] + _RATE * (d[0, 0] ** 3 - d[0, 0])

    return Problem(
        name="phase_separation",
        domain=((-1.0, 1.0), (0.0, 1.0)),
        equation=equation,
        conditions=(
            Condition("initial", where=((1, 0.0),), target=_start),
            Condition(
                "periodicity",
                where=((0, -1.0),),
                operators=(Symbol.derivative(0, 0), Symbol.derivative(1, 0)),
                shift=(2.0, 0.0),
            ),
        ),
        exact=lambda x: torch.where(x[:, 1:] == 0, _start(x), phase_reference()(x)),
        symbol=Symbol({(0, 1): 1.0, (2, 0): -_DIFFUSIVITY, (0, 0): 2 * _RATE}),
    )


def _start(x: Tensor) -> Tensor:
    return x[:, :1] ** 2 * torch.cos(math.pi * x[:, :1])


@dataclass(frozen=True)
class PhaseReference:
    """``u(x, t) = Σ_k a_k(t) cos kπx`` with a and a' at equal steps of time, a cubic in t between them.

    Attributes
    ----------
    values, slopes
        a and da/dt ``[steps + 1, modes + 1]``, t from 0 to 1.
    """

    values: Tensor
    slopes: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return u ``[N, 1]`` at points (x, t), 0 ≤ t ≤ 1."""
        steps, modes = len(self.values) - 1, self.values.shape[1] - 1
        place = x[:, 1].double().cpu() * steps
        first = place.floor().long().clamp(0, steps - 1)
        s = (place - first)[:, None]
        hermite = (
            (1 + 2 * s) * (1 - s) ** 2 * self.values[first]
            + s**2 * (3 - 2 * s) * self.values[first + 1]
            + s * (1 - s) ** 2 / steps * self.slopes[first]
            - s**2 * (1 - s) / steps * self.slopes[first + 1]
        )
        waves = torch.cos(math.pi * x[:, :1].double().cpu() * torch.arange(modes + 1, dtype=torch.float64))
        return (hermite * waves).sum(dim=1, keepdim=True).to(x)


@functools.cache
def phase_reference(modes: int = _MODES, steps: int = _STEPS) -> PhaseReference:
    """Solve :func:`phase_separation` by cosines in space and exponential Runge–Kutta of order 4 in time.

    The initial values have a kink at x = ±1, so coefficients fall like k⁻² at first. Twice the modes change the
    solution by 4e-10 of its norm in L², half the modes by 1e-7; twice the steps by 4e-12.

    Parameters
    ----------
    modes
        Highest k.
    steps
        Of equal length, from t = 0 to 1.

    Cost: ``8 steps`` cosine transforms, about a second; memory ``2 steps · modes`` numbers.
    Reference: Kassam & Trefethen (2005), doi:10.1137/S1064827502410633.

    >>> phase_reference(64, 100)(torch.tensor([[0.6, 1.0]], dtype=torch.float64)).round(decimals=3).item()
    -1.0
    """
    h, k = 1 / steps, np.arange(modes + 1)
    L = -_DIFFUSIVITY * (math.pi * k) ** 2
    z = h * L[:, None] + np.exp(2j * math.pi * (np.arange(_CIRCLE) + 0.5) / _CIRCLE)
    whole, half = np.exp(h * L), np.exp(h * L / 2)
    Q = h * np.mean((np.exp(z / 2) - 1) / z, axis=1).real
    f1 = h * np.mean((-4 - z + np.exp(z) * (4 - 3 * z + z**2)) / z**3, axis=1).real
    f2 = h * np.mean((2 + z + np.exp(z) * (z - 2)) / z**3, axis=1).real
    f3 = h * np.mean((-4 - 3 * z - z**2 + np.exp(z) * (4 - z)) / z**3, axis=1).real

    def reaction(a: np.ndarray) -> np.ndarray:
        u = _synthesis(a)
        return _analysis(_RATE * (u - u**3))

    grid = np.linspace(0, 1, _FINE * modes + 1)
    a = _analysis(grid**2 * np.cos(math.pi * grid))[: modes + 1]
    values, slopes = np.empty((steps + 1, modes + 1)), np.empty((steps + 1, modes + 1))
    for step in range(steps + 1):
        n = reaction(a)
        values[step], slopes[step] = a, L * a + n
        b = half * a + Q * n
        nb = reaction(b)
        c = half * a + Q * nb
        nc = reaction(c)
        nd = reaction(half * b + Q * (2 * nc - n))
        a = whole * a + f1 * n + 2 * f2 * (nb + nc) + f3 * nd
    return PhaseReference(torch.from_numpy(values), torch.from_numpy(slopes))


def _analysis(u: np.ndarray) -> np.ndarray:
    """Return the cosine coefficients of values at k/K, k = 0 … K."""
    a = np.asarray(dct(u, type=1)) / (len(u) - 1)
    a[[0, -1]] /= 2
    return a


def _synthesis(a: np.ndarray) -> np.ndarray:
    b = a / 2
    b[[0, -1]] *= 2
    return np.asarray(dct(b, type=1))
