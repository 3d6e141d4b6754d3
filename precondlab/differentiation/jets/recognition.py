"""What a residual takes of a network at its points: which functionals, and at which shifts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from precondlab.differentiation.calculus import KnownField, Pointwise, at
from precondlab.differentiation.jets.algebra import JetAlgebra, MultiIndex
from precondlab.differentiation.jets.network import Unsupported
from precondlab.symbol import Symbol

__all__ = ["Taken", "places", "taken"]

Key = tuple[tuple[MultiIndex, float], ...]


@dataclass(frozen=True)
class Taken:
    """What rows take of a network: the functionals of an algebra's channels, at S shifts of the points."""

    algebra: JetAlgebra
    channels: dict[Key, int]
    shifts: list[Tensor]

    @property
    def per_point(self) -> int:
        """Number of jets' channels at each point, those at its shifts included."""
        return self.algebra.size * len(self.shifts)

    def rows(self, rows: Pointwise, x: Tensor, jets: Tensor) -> Tensor:
        """Return what rows at points x are for jets ``[C, S, N]`` of the network."""
        return rows.of(_Given(x, jets, self.channels, self.shifts), x)


def taken(rows: Pointwise, params: dict[str, Tensor], x: Tensor) -> Taken:
    """Run rows at two of the points, and see what they ask for."""
    sample = x[:2]
    recorder = _Recorder(at(rows.model, params), sample)
    with torch.enable_grad():
        rows.on(slice(2)).of(recorder, sample)
    algebra = JetAlgebra([dict(key) for key in recorder.keys])
    return Taken(algebra, dict(zip(recorder.keys, algebra.index, strict=True)), recorder.shifts)


def places(x: Tensor, shifts: list[Tensor]) -> Tensor:
    """Return the points and their shifts ``[S·N, d]``."""
    return x if len(shifts) == 1 else torch.cat([x + shift for shift in shifts])


def _key(symbol: Symbol) -> tuple[Key, float]:
    """Return D without its multiple of u, and that multiple."""
    constant = symbol.coefficients.get((0,) * symbol.dim, 0.0)
    return tuple((a, c) for a, c in symbol.coefficients.items() if any(a)), constant


class _Recorder(KnownField):
    """The field itself, noting which functionals of it a residual uses, and at which shifts of the points."""

    def __init__(self, field: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self._field, self._x = field, x
        self.keys: list[Key] = []
        self.shifts = [x.new_zeros(x.shape[1])]

    def __call__(self, x: Tensor) -> Tensor:
        shift = _shift(x, self._x)
        if shift is not None and _index(shift, self.shifts, self._x) is None:
            self.shifts.append(shift)
        return self._field(x)

    def partials(self, x: Tensor, orders: Iterable[MultiIndex]) -> dict[MultiIndex, Tensor]:
        orders = list(orders)
        return {alpha: self.apply(Symbol.derivative(*alpha), x) for alpha in orders}

    def apply(self, symbol: Symbol, x: Tensor) -> Tensor:
        key, _ = _key(symbol)
        if key and key not in self.keys:
            self.keys.append(key)
        return self(x).squeeze(1)  # any value will do: the residual is only run to see what it asks for


class _Given(KnownField):
    """A field known by its jets ``[C, S, N]`` at some points and at shifts of them."""

    def __init__(self, x: Tensor, jets: Tensor, channels: dict[Key, int], shifts: list[Tensor]) -> None:
        self._x, self._jets, self._channels, self._shifts = x, jets, channels, shifts

    def __call__(self, x: Tensor) -> Tensor:
        return self._jets[0, self._place(x)].unsqueeze(1)

    def partials(self, x: Tensor, orders: Iterable[MultiIndex]) -> dict[MultiIndex, Tensor]:
        return {alpha: self.apply(Symbol.derivative(*alpha), x) for alpha in orders}

    def apply(self, symbol: Symbol, x: Tensor) -> Tensor:
        key, constant = _key(symbol)
        value = constant * self(x).squeeze(1)
        if key and key not in self._channels:
            raise Unsupported("a residual that takes other derivatives at some points than at others")
        return value + self._jets[self._channels[key], self._place(x)] if key else value

    def _place(self, x: Tensor) -> int:
        shift = _shift(x, self._x)
        place = 0 if shift is None else _index(shift, self._shifts, self._x)
        if place is None:
            raise Unsupported("a residual that evaluates the model at other points than its own")
        return place


def _shift(x: Tensor, points: Tensor) -> Tensor | None:
    """Return by what all points were moved, or None if they are the points themselves."""
    if x is points:
        return None
    if x.shape != points.shape:
        raise Unsupported("a residual that evaluates the model at other points than its own")
    moved = x.detach() - points
    if not torch.allclose(moved, moved[:1], rtol=0, atol=_rounding(points, moved)):
        raise Unsupported("a residual that evaluates the model at points that are no constant shift of its own")
    return moved[0]


def _index(shift: Tensor, shifts: list[Tensor], points: Tensor) -> int | None:
    close = [torch.allclose(shift, known, rtol=0, atol=_rounding(points, shift)) for known in shifts]
    return close.index(True) if any(close) else None


def _rounding(points: Tensor, shift: Tensor) -> float:
    return 8 * torch.finfo(points.dtype).eps * (points.abs().max() + shift.abs().max()).item()
