"""Random Fourier features: a linear model of any dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["RandomFeatures", "random_features"]


class RandomFeatures(nn.Module):
    """``u(x) = Σ_j c_j sin(w_j·x + b_j)`` with fixed w and b; see :func:`random_features`."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        width, dim = weight.shape
        self.inner = nn.Linear(dim, width, dtype=weight.dtype)
        self.outer = nn.Linear(width, 1, bias=False, dtype=weight.dtype)
        with torch.no_grad():
            self.inner.weight.copy_(weight)
            self.inner.bias.copy_(bias)
            self.outer.weight.zero_()
        self.inner.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.sin(self.inner(x)))


def random_features(
    width: int,
    *,
    domain: Sequence[tuple[float, float]],
    scale: float | Sequence[float] = 4.0,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> RandomFeatures:
    """Return ``u(x) = Σ_j c_j sin(w_j·x̂ + b_j)``, linear in its parameters c = 0, for random w and b.

    x̂ are coordinates in which the box is [−1, 1]ᵈ; the entries of w_j are uniform in [−scale, scale],
    the phases uniform in [0, 2π). Reference: Rahimi & Recht (2007), Random features for large-scale kernel machines.

    Parameters
    ----------
    width
        Number of features.
    domain
        One interval (a, b) per coordinate.
    scale
        Largest angular frequency, one for all coordinates or one for each.
    dtype
        Of the parameters.
    seed
        Of w and b; the first features of a wider model are those of a narrower one.

    Raises
    ------
    ValueError
        For a width below 1, an empty interval, or scales that are not positive or not one per coordinate.

    >>> model = random_features(50, domain=((0.0, 1.0), (0.0, 2.0)), scale=(4.0, 8.0))
    >>> [name for name, p in model.named_parameters() if p.requires_grad], model(torch.zeros(1, 2).double()).item()
    (['outer.weight'], 0.0)
    """
    dim = len(domain)
    scales = [float(s) for s in scale] if isinstance(scale, Sequence) else [float(scale)] * dim
    if width < 1 or any(not a < b for a, b in domain):
        raise ValueError(f"random_features: expected a width ≥ 1 and intervals (a, b), a < b, got {width}, {domain}")
    if len(scales) != dim or not all(0 < s < math.inf for s in scales):
        raise ValueError(f"random_features: expected one positive scale, or {dim}, one per coordinate, got {scale}")
    draw = torch.rand(width, dim + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    lower, upper = torch.tensor(domain, dtype=torch.float64).T
    weight = (2 * draw[:, :dim] - 1) * torch.tensor(scales, dtype=torch.float64) * 2 / (upper - lower)
    phase = 2 * math.pi * draw[:, dim] - weight @ ((lower + upper) / 2)
    return RandomFeatures(weight.to(dtype), phase.to(dtype))
