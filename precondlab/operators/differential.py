"""Constant-coefficient differential operators on Fourier coefficients and on grids."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from precondlab.operator import Operator
from precondlab.space import Space
from precondlab.symbol import Symbol

__all__ = ["Differential", "Multiplier"]


class Multiplier(Operator):
    """A differential operator D on the coefficients of real Fourier modes ``cos(k·x)`` and ``sin(k·x)``.

    ``D(a cos + b sin) = (Re σ a + Im σ b) cos + (Re σ b − Im σ a) sin`` with the symbol σ(k): diagonal for
    even orders, a rotation of each pair for odd ones. ``DᴴD`` is always ``diag(|σ(k)|²)``.

    Parameters
    ----------
    symbol
        D.
    wavevectors
        k of every coefficient ``[n, d]``; the cosine and the sine of a pair have the same k.
    phases
        Phase of every mode ``cos(k·x + phase)`` ``[n]``: 0 or −π/2.

    Raises ValueError if a mode with ``Im σ ≠ 0`` has no partner: its derivative is outside the space.

    Cost: O(n) per column.

    >>> k = torch.tensor([[2.0], [2.0]])
    >>> Multiplier(Symbol.derivative(1), k, torch.tensor([0.0, -torch.pi / 2])).dense()  # cos 2x, sin 2x
    tensor([[ 0.,  2.],
            [-2.,  0.]])
    """

    def __init__(self, symbol: Symbol, wavevectors: Tensor, phases: Tensor) -> None:
        sigma = symbol(wavevectors)
        space = Space(len(wavevectors), dtype=wavevectors.dtype, device=wavevectors.device)
        super().__init__(space, space, symmetric=bool((sigma.imag == 0).all()))
        self.symbol = symbol
        self._even = sigma.real
        self._odd = torch.where(phases == 0, sigma.imag, -sigma.imag)
        self._partner = _partners(wavevectors, phases)
        lonely = (self._partner == torch.arange(len(wavevectors), device=wavevectors.device)) & (sigma.imag != 0)
        if lonely.any():
            raise ValueError(
                f"Multiplier: {int(lonely.sum())} modes lack their sine or cosine, e.g. "
                f"k = {wavevectors[lonely][0].tolist()}; odd derivatives need both"
            )

    def _apply(self, V: Tensor) -> Tensor:
        return self._even[:, None] * V + self._odd[:, None] * V[self._partner]

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        return self._even[:, None] * U - self._odd[:, None] * U[self._partner]


class Differential(Operator):
    """A differential operator D on the values of a function on a tensor grid.

    In a periodic direction the grid is equispaced, ``x_i = a + i (b − a)/N``, and derivatives are
    exact for trigonometric polynomials below the Nyquist frequency; in the other directions it consists of
    the Chebyshev points, from a to b, and derivatives are exact for polynomials of degree < N.

    Parameters
    ----------
    symbol
        D.
    shape
        Number of points per direction.
    domain
        Interval (a, b) per direction.
    periodic
        One flag, or one per direction.

    Attributes
    ----------
    points
        Grid points ``[Π N_j, d]``, the last direction fastest.

    Cost: per column one FFT or N×N product per direction and term.
    Reference: Trefethen, Spectral Methods in MATLAB (2000), doi:10.1137/1.9780898719598.

    >>> D = Differential(Symbol.derivative(1), (5,), [(-1.0, 1.0)], periodic=False)
    >>> (D @ D.points[:, 0] ** 2 - 2 * D.points[:, 0]).abs().max().item() < 1e-13
    True
    """

    def __init__(
        self,
        symbol: Symbol,
        shape: Sequence[int],
        domain: Sequence[tuple[float, float]],
        *,
        periodic: bool | Sequence[bool] = True,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        flags = [periodic] * symbol.dim if isinstance(periodic, bool) else list(periodic)
        if not len(shape) == len(domain) == len(flags) == symbol.dim:
            raise ValueError(
                f"Differential: the symbol has {symbol.dim} directions, got {len(shape)} sizes, "
                f"{len(domain)} intervals and {len(flags)} periodicity flags"
            )
        space = Space(math.prod(shape), dtype=dtype, device=device)
        super().__init__(space, space)
        self.symbol = symbol
        self.grid = tuple(shape)
        options = {"dtype": dtype, "device": device}
        axes = [_points(n, a, b, flag, **options) for n, (a, b), flag in zip(shape, domain, flags, strict=True)]
        self.points = torch.cartesian_prod(*axes).reshape(space.size, symbol.dim)
        orders = [{alpha[axis] for alpha in symbol.coefficients} for axis in range(symbol.dim)]
        self._matrices = [
            {order: _derivative(x, order, b - a, flag) for order in needed if order}
            for x, needed, (a, b), flag in zip(axes, orders, domain, flags, strict=True)
        ]

    def _apply(self, V: Tensor) -> Tensor:
        return self._sum(V, adjoint=False)

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        return self._sum(U, adjoint=True)

    def _sum(self, V: Tensor, *, adjoint: bool) -> Tensor:
        values = V.reshape(*self.grid, -1)
        total = torch.zeros_like(values)
        for alpha, coefficient in self.symbol.coefficients.items():
            term = values
            for axis, order in enumerate(alpha):
                if order:
                    term = _along(self._matrices[axis][order], term, axis, adjoint)
            total = total + coefficient * term
        return total.reshape(V.shape)


def _partners(wavevectors: Tensor, phases: Tensor) -> Tensor:
    """Return for each mode the index of the one with the same k and the other phase, or its own."""
    groups: dict[tuple[float, ...], list[int]] = {}
    for index, k in enumerate(wavevectors.tolist()):
        groups.setdefault(tuple(k), []).append(index)
    partner = torch.arange(len(phases))
    for group in groups.values():
        if len(group) == 2:
            partner[group[0]], partner[group[1]] = group[1], group[0]
    return partner.to(wavevectors.device)


def _points(n: int, a: float, b: float, periodic: bool, **options: object) -> Tensor:
    i = torch.arange(n, **options)  # type: ignore[call-overload]
    if periodic:
        return a + (b - a) * i / n
    return (a + b) / 2 - (b - a) / 2 * torch.cos(torch.pi * i / (n - 1))


def _derivative(x: Tensor, order: int, length: float, periodic: bool) -> Tensor:
    """Return the multiplier of the rfft coefficients, or the matrix, of the derivative of an order."""
    n = len(x)
    if periodic:
        k = 2 * torch.pi / length * torch.arange(n // 2 + 1, dtype=x.dtype, device=x.device)
        multiplier = (1j * k) ** order
        if n % 2 == 0 and order % 2:
            multiplier[-1] = 0  # the derivative of cos(Nyquist) vanishes on the grid
        return multiplier
    # barycentric weights of the Chebyshev points; the diagonal makes rows sum to zero
    w = (-1.0) ** torch.arange(n, dtype=x.dtype, device=x.device)
    w[[0, -1]] /= 2
    difference = x[:, None] - x[None, :] + torch.eye(n, dtype=x.dtype, device=x.device)
    D = w[None, :] / w[:, None] / difference
    D.fill_diagonal_(0)
    D -= torch.diag(D.sum(1))
    return torch.linalg.matrix_power(D, order)


def _along(derivative: Tensor, values: Tensor, axis: int, adjoint: bool) -> Tensor:
    moved = values.movedim(axis, -1)
    if derivative.is_complex():
        multiplier = derivative.conj() if adjoint else derivative
        n = moved.shape[-1]
        result = torch.fft.irfft(torch.fft.rfft(moved) * multiplier, n=n)
    else:
        result = moved @ (derivative if adjoint else derivative.mT)
    return result.movedim(-1, axis)
