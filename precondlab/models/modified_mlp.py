"""The modified MLP: hidden layers that mix two encodings of the input."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["ModifiedMLP", "modified_mlp"]


class ModifiedMLP(nn.Module):
    """``h ↦ (1 − z) u + z v`` with ``z = tanh(Wh + b)`` and encodings u, v of x; see :func:`modified_mlp`."""

    def __init__(self, sizes: Sequence[int], dtype: torch.dtype) -> None:
        super().__init__()
        dim, width, *_ = sizes
        self.tanh = nn.Tanh()
        self.first, self.second = (nn.Linear(dim, width, dtype=dtype) for _ in range(2))
        self.hidden = nn.ModuleList(nn.Linear(a, b, dtype=dtype) for a, b in itertools.pairwise(sizes[:-1]))
        self.last = nn.Linear(width, sizes[-1], dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        u, v = self.tanh(self.first(x)), self.tanh(self.second(x))
        difference = v - u
        h = x
        for layer in self.hidden:
            h = u + self.tanh(layer(h)) * difference
        return self.last(h)


def modified_mlp(sizes: Sequence[int], *, dtype: torch.dtype = torch.float64, seed: int = 0) -> ModifiedMLP:
    """Return the network ``h_{l+1} = (1 − z_l) u + z_l v``, ``z_l = tanh(W_l h_l + b_l)``, ``h_0 = x``.

    u and v are two layers ``tanh(Wx + b)`` of their own; the output is linear in the last h.

    Parameters
    ----------
    sizes
        Widths from input to output; the hidden ones are equal, e.g. ``(2, 20, 20, 1)``.
    dtype
        Of the parameters.
    seed
        Of the initial parameters, normal with Glorot's variance; biases are zero.

    Raises
    ------
    ValueError
        For fewer than three widths, widths below 1, or hidden widths that differ.

    Reference: Wang, Teng & Perdikaris (2021), doi:10.1137/20M1318043.

    >>> sum(p.numel() for p in modified_mlp((2, 20, 20, 1)).parameters())
    621
    """
    if len(sizes) < 3 or min(sizes) < 1 or len(set(sizes[1:-1])) > 1:
        raise ValueError(f"modified_mlp: expected input, equal hidden widths and output, all ≥ 1, got {tuple(sizes)}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = ModifiedMLP(sizes, dtype)
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)
    return model
