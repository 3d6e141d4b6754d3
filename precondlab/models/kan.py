"""Kolmogorov–Arnold networks: sums of splines of one variable, layer by layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from precondlab.differentiation.jets import LAYERS
from precondlab.differentiation.jets.layers import Elementwise
from precondlab.models.fourier import Domain

__all__ = ["BSplines", "CardinalSpline", "kan"]


class CardinalSpline(nn.Module):
    """``t ↦ B_p(t)``, the B-spline of degree p with the knots 0, 1, …, p + 1, elementwise.

    >>> CardinalSpline(1)(torch.tensor([0.5, 1.0, 1.5, 2.5]))
    tensor([0.5000, 1.0000, 0.5000, 0.0000])
    """

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree = degree

    def forward(self, t: Tensor) -> Tensor:
        return self._table(t, self.degree)[-1][0]

    def derivatives(self, t: Tensor, order: int) -> list[Tensor]:
        """Return ``B_p, B_p′, …``: ``B_p^(r)(t) = Σ_j (−1)^j binom(r, j) B_{p−r}(t − j)``, zero for r > p."""
        found = []
        for r, row in enumerate(reversed(self._table(t, self.degree)[-1 - order :])):
            found.append(torch.stack([(-1) ** j * math.comb(r, j) * row[j] for j in range(r + 1)]).sum(0))
        return found + [torch.zeros_like(t)] * (order + 1 - len(found))

    @staticmethod
    def _table(t: Tensor, degree: int) -> list[list[Tensor]]:
        """Return ``B_q(t − j)`` for q = 0 … degree and j = 0 … degree − q."""
        rows = [[((t >= j) & (t < j + 1)).to(t.dtype) for j in range(degree + 1)]]
        for q in range(1, degree + 1):
            last = rows[-1]
            rows.append([((t - j) * a + (q + 1 + j - t) * b) / q for j, (a, b) in enumerate(itertools.pairwise(last))])
        return rows


LAYERS[CardinalSpline] = lambda module, params, names: Elementwise(module.derivatives)  # type: ignore[attr-defined]


class BSplines(nn.Module):
    """B-splines of each coordinate on a uniform grid of a box: ``[N, d] → [N, d (cells + degree)]``."""

    spread: Tensor
    shift: Tensor

    def __init__(self, domain: Domain, cells: int, degree: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.spline, self.count = CardinalSpline(degree), cells + degree
        lower, upper = torch.tensor(domain, dtype=dtype).T
        rate = cells / (upper - lower)
        self.register_buffer("spread", rate.diag().repeat_interleave(self.count, dim=1))
        first = degree - torch.arange(self.count, dtype=dtype)
        self.register_buffer("shift", (first - (rate * lower)[:, None]).flatten())

    def forward(self, x: Tensor) -> Tensor:
        return self.spline(x @ self.spread + self.shift)


class _Layer(nn.Module):
    """``x ↦ W silu(x) + C B(x)``."""

    def __init__(self, splines: BSplines, width: int, following: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.silu, self.splines = nn.SiLU(), splines
        self.base = nn.Linear(width, following, dtype=dtype)
        self.spline = nn.Linear(width * splines.count, following, bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(self.silu(x)) + self.spline(self.splines(x))


def kan(
    sizes: Sequence[int],
    *,
    domain: Domain = ((-math.pi, math.pi),),
    cells: int = 5,
    degree: int = 5,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> nn.Sequential:
    """Return the network of layers ``x_o ↦ Σ_i w_oi silu(x_i) + Σ_ib c_oib B_b(x_i) + b_o`` with tanh between them.

    B_b are the B-splines on a uniform grid: of the box in the first layer, of (−1, 1), where tanh brings them, in the
    others. Derivatives up to order degree − 1 in x are continuous; an equation of order m wants degree ≥ m + 2,
    for a Jacobian that is continuous in the parameters.

    Parameters
    ----------
    sizes
        Widths from input to output, e.g. ``(1, 5, 1)``.
    domain
        One interval (a, b) per coordinate.
    cells, degree
        Of the splines of every edge.
    dtype
        Of the parameters.
    seed
        Of the initial parameters: c normal of variance 1/width, the others PyTorch's default.

    Raises
    ------
    ValueError
        For fewer than two widths, widths or numbers below 1, or a box of another dimension.

    Reference: Liu, Wang, Vaidya, Ruehle, Halverson, Soljačić, Hou & Tegmark (2024), arXiv:2404.19756.

    >>> sum(p.numel() for p in kan((1, 5, 1), cells=5, degree=3).parameters())  # 9 or 8 + 1 per edge, and 6 biases
    96
    """
    if len(sizes) < 2 or min(sizes) < 1 or cells < 1 or degree < 1:
        raise ValueError(f"kan: expected two or more widths, cells and a degree ≥ 1, got {sizes}, {cells}, {degree}")
    if len(domain) != sizes[0]:
        raise ValueError(f"kan: the box has {len(domain)} coordinates, the network takes {sizes[0]}; give domain=")
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for i, (width, following) in enumerate(itertools.pairwise(sizes)):
            box = ((-1.0, 1.0),) * width if i else domain
            layer = _Layer(BSplines(box, cells, degree, dtype), width, following, dtype)
            nn.init.normal_(layer.spline.weight, std=width**-0.5)
            layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])
