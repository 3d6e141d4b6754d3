"""Hard constraints: models that satisfy boundary values or periodicity for every θ."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

__all__ = ["box_mask", "masked", "periodic"]

Field = Callable[[Tensor], Tensor]


class Function(nn.Module):
    """A function of x without parameters, as a module: networks that contain it can be read layer by layer."""

    def __init__(self, function: Field) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Masked(nn.Module):
    """``u(x) = mask(x)·model(x) + lift(x)``; see :func:`masked`."""

    def __init__(self, model: nn.Module, mask: Field, lift: Field | None) -> None:
        super().__init__()
        self.model, self.mask = model, Function(mask)
        self.lift = None if lift is None else Function(lift)

    def forward(self, x: Tensor) -> Tensor:
        value = self.mask(x) * self.model(x)
        return value if self.lift is None else value + self.lift(x)


class Periodic(nn.Module):
    """A model after the embedding ``x_j ↦ cos(2πx_j/L_j), sin(2πx_j/L_j)``; see :func:`periodic`."""

    def __init__(self, model: nn.Module, periods: tuple[float | None, ...]) -> None:
        super().__init__()
        self.embedding, self.model = Embedding(periods), model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(self.embedding(x))


class Embedding(nn.Module):
    """``x_j ↦ cos(2πx_j/L_j), sin(2πx_j/L_j)`` for the axes with a period L_j."""

    def __init__(self, periods: tuple[float | None, ...]) -> None:
        super().__init__()
        self.periods = periods

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 0 or x.shape[-1] != len(self.periods):
            raise ValueError(
                f"periodic: expected points of shape [N, {len(self.periods)}], got {tuple(x.shape)}; "
                "give one period (or None) per coordinate"
            )
        columns = []
        for column, period in zip(x.unbind(-1), self.periods, strict=True):
            angle = column if period is None else column * (2 * math.pi / period)
            columns += [column] if period is None else [angle.cos(), angle.sin()]
        return torch.stack(columns, dim=-1)


def masked(model: nn.Module, mask: Field, *, lift: Field | None = None) -> Masked:
    """Return ``u(x) = mask(x)·model(x) + lift(x)``: boundary values that hold for every θ.

    Parameters
    ----------
    model
        Maps ``[N, d]`` to ``[N, 1]``.
    mask
        Maps ``[N, d]`` to ``[N, 1]`` and vanishes where values are prescribed, e.g. :func:`box_mask`.
    lift
        Takes the prescribed values there; zero if None.

    >>> model = masked(nn.Linear(1, 1), box_mask(((-1.0, 1.0),)))
    >>> model(torch.tensor([[-1.0], [1.0]])).abs().max().item()
    0.0
    """
    return Masked(model, mask, lift)


def box_mask(domain: Sequence[tuple[float, float] | None]) -> Field:
    """Return ``x ↦ Π_j (b_j − x_j)(x_j − a_j) / ((b_j − a_j)/2)²``: 0 on the faces of a box, 1 at its center.

    Parameters
    ----------
    domain
        One interval (a, b) per axis; None for an axis whose faces are left free.

    Raises
    ------
    ValueError
        For an empty interval; the mask raises one for points of the wrong width.

    >>> box_mask(((-math.pi, math.pi),))(torch.tensor([[0.0], [math.pi / 2]])).T  # (π² − x²)/π²
    tensor([[1.0000, 0.7500]])
    """
    if any(interval is not None and not interval[0] < interval[1] for interval in domain):
        raise ValueError(f"box_mask: intervals (a, b) need a < b, got {tuple(domain)}")
    return partial(_box_mask, domain=tuple(domain))


def periodic(model: nn.Module, periods: Sequence[float | None]) -> Periodic:
    """Return ``u(x) = model(cos(2πx_1/L_1), sin(2πx_1/L_1), …)``: periodic for every θ.

    Parameters
    ----------
    model
        Takes two inputs for each axis with a period and one for each without, in the order of the axes.
    periods
        L_j > 0, or None to leave the axis as it is.

    Raises
    ------
    ValueError
        For a period that is not positive; the model raises one for points of the wrong width.

    >>> model = periodic(nn.Linear(3, 1), (2 * math.pi, None))
    >>> u = model(torch.tensor([[0.0, 0.5], [2 * math.pi, 0.5]]))
    >>> torch.allclose(u[0], u[1], atol=1e-6)
    True
    """
    if any(period is not None and not period > 0 for period in periods):
        raise ValueError(f"periodic: periods should be positive or None, got {tuple(periods)}")
    return Periodic(model, tuple(periods))


def _box_mask(x: Tensor, *, domain: tuple[tuple[float, float] | None, ...]) -> Tensor:
    if x.dim() == 0 or x.shape[-1] != len(domain):
        raise ValueError(f"box_mask: expected points of shape [N, {len(domain)}], got {tuple(x.shape)}")
    value = torch.ones_like(x[..., :1])
    for axis, interval in enumerate(domain):
        if interval is not None:
            a, b = interval
            column = x[..., axis : axis + 1]
            value = value * ((b - column) * (column - a) * (4 / (b - a) ** 2))
    return value
