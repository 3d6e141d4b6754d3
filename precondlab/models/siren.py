"""Sine networks: random Fourier features whose frequencies are trained."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from precondlab.models.random_features import random_features

__all__ = ["Sine", "siren"]


class Sine(nn.Module):
    """``z ↦ sin z``."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.sin(z)


def siren(
    hidden: Sequence[int],
    *,
    domain: Sequence[tuple[float, float]],
    scale: float | Sequence[float] = 30.0,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> nn.Sequential:
    """Return the network ``x ↦ W_L sin(… sin(W_1 x̂ + b_1) …) + b_L``, all of it trainable.

    x̂ are coordinates in which the box is [−1, 1]ᵈ. The first layer starts as the frequencies and phases of
    :func:`~precondlab.models.random_features`, uniform in [−scale, scale] and [0, 2π); weights that follow a layer of
    width n are uniform in ``±√(6/n)``, which keeps the arguments of the sines of unit variance, and the last ones in
    ``±√6/n``.

    Parameters
    ----------
    hidden
        Widths of the hidden layers.
    domain
        One interval (a, b) per coordinate.
    scale
        Largest angular frequency at the start, one for all coordinates or one for each: about that of the solution.
    dtype
        Of the parameters.
    seed
        Of the initial parameters.

    Raises
    ------
    ValueError
        For no hidden layer, widths below 1, an empty interval, or scales that are not positive or not one each.

    Reference: Sitzmann, Martel, Bergman, Lindell & Wetzstein (2020), arXiv:2006.09661.

    >>> model = siren((50,), domain=((0.0, 1.0), (0.0, 2.0)), scale=(4.0, 8.0))
    >>> sum(p.numel() for p in model.parameters())
    201
    """
    if not hidden or any(width < 1 for width in hidden):
        raise ValueError(f"siren: expected the width ≥ 1 of at least one hidden layer, got {tuple(hidden)}")
    first = random_features(hidden[0], domain=domain, scale=scale, dtype=dtype, seed=seed).inner.requires_grad_(True)
    layers: list[nn.Module] = [first, Sine()]
    generator = torch.Generator().manual_seed(seed + 1)
    for width, following in itertools.pairwise((*hidden, 1)):
        layer = nn.Linear(width, following, dtype=dtype)
        last = len(layers) == 2 * len(hidden)
        bound = math.sqrt(6 / width) * (width**-0.5 if last else 1.0)
        with torch.no_grad():
            for p, most in ((layer.weight, bound), (layer.bias, 0.0 if last else math.pi)):
                p.copy_(most * (2 * torch.rand(p.shape, dtype=torch.float64, generator=generator) - 1))
        layers += [layer] if last else [layer, Sine()]
    return nn.Sequential(*layers)
