"""Domain decomposition in the model: local networks under a partition of unity."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from precondlab.models.constraints import Function

__all__ = ["partitioned"]

_RISE = 2 * math.log(99)  # over which the logistic function goes from 1 % to 99 %


class Partitioned(nn.Module):
    """``u(x) = Σ_j w_j(x) u_j(x̂_j)``; see :func:`partitioned`."""

    def __init__(self, parts: Sequence[nn.Module], windows: Sequence[Function], charts: Sequence[Function]) -> None:
        super().__init__()
        self.parts, self.windows, self.charts = nn.ModuleList(parts), nn.ModuleList(windows), nn.ModuleList(charts)

    def forward(self, x: Tensor) -> Tensor:
        total = None
        for part, window, chart in zip(self.parts, self.windows, self.charts, strict=True):
            value = window(x) * part(chart(x))
            total = value if total is None else total + value
        assert total is not None  # there is a part
        return total


def partitioned(
    local: Callable[[int], nn.Module],
    *,
    domain: Sequence[tuple[float, float]],
    parts: Sequence[int],
    overlap: float = 0.5,
) -> Partitioned:
    """Return ``u(x) = Σ_j w_j(x) u_j(x̂_j)``: one model for each of N₁ × N₂ × … boxes, joined smoothly.

    x̂_j are coordinates in which the box j, with its overlap, is [−1, 1]ᵈ, so a frequency k of u is k/N for the
    models. The windows are products over the axes of ``s((x − c_{i−1})/δ) − s((x − c_i)/δ)`` with the logistic
    function s and the cuts c_i, the first term 1 and the last one 0 at the ends: analytic, positive, and their
    sum is 1.

    Parameters
    ----------
    local
        ``local(j)`` is the model of box j, counted with the last axis fastest; it maps ``[N, d]`` to ``[N, 1]``.
    domain
        One interval (a, b) per axis.
    parts
        Number of boxes along each axis.
    overlap
        Length over which one window falls from 99 % to 1 %, in widths of a box, in (0, 1].

    Raises
    ------
    ValueError
        For an empty interval, numbers of parts that are not ≥ 1 and one per axis, or an overlap outside (0, 1].

    Cost: every model at every point. Reference: Moseley, Markham & Nissen-Meyer (2023),
    doi:10.1007/s10444-023-10065-9.

    >>> from precondlab.models import mlp
    >>> model = partitioned(lambda j: mlp((1, 8, 1), seed=j), domain=((0.0, 1.0),), parts=(4,))
    >>> sum(p.numel() for p in model.parameters())
    100
    >>> sum(window(torch.linspace(0, 1, 5).double()[:, None]) for window in model.windows).T
    tensor([[1., 1., 1., 1., 1.]], dtype=torch.float64)
    """
    if len(parts) != len(domain) or any(n < 1 for n in parts):
        raise ValueError(f"partitioned: expected {len(domain)} numbers of parts ≥ 1, one per axis, got {tuple(parts)}")
    if any(not a < b for a, b in domain):
        raise ValueError(f"partitioned: intervals (a, b) need a < b, got {tuple(domain)}")
    if not 0 < overlap <= 1:
        raise ValueError(f"partitioned: expected an overlap in (0, 1], in widths of a box, got {overlap}")
    models, windows, charts = [], [], []
    for j, place in enumerate(itertools.product(*(range(n) for n in parts))):
        boxes = []
        for (a, b), n, i in zip(domain, parts, place, strict=True):
            width = (b - a) / n
            boxes.append((a + i * width if i else None, a + (i + 1) * width if i < n - 1 else None))
        reach = [overlap * (b - a) / n for (a, b), n in zip(domain, parts, strict=True)]
        ends = [
            (a if low is None else low - r / 2, b if high is None else high + r / 2)
            for (a, b), (low, high), r in zip(domain, boxes, reach, strict=True)
        ]
        models.append(local(j))
        windows.append(Function(partial(_window, boxes=boxes, deltas=[r / _RISE for r in reach])))
        charts.append(Function(partial(_chart, ends=ends)))
    return Partitioned(models, windows, charts)


def _window(x: Tensor, *, boxes: Sequence[tuple[float | None, float | None]], deltas: Sequence[float]) -> Tensor:
    value = torch.ones_like(x[..., :1])
    for axis, ((low, high), delta) in enumerate(zip(boxes, deltas, strict=True)):
        column = x[..., axis : axis + 1]
        rising = torch.ones_like(column) if low is None else torch.sigmoid((column - low) / delta)
        value = value * (rising if high is None else rising - torch.sigmoid((column - high) / delta))
    return value


def _chart(x: Tensor, *, ends: Sequence[tuple[float, float]]) -> Tensor:
    columns = [(2 * x[..., i] - (a + b)) / (b - a) for i, (a, b) in enumerate(ends)]
    return torch.stack(columns, dim=-1)
