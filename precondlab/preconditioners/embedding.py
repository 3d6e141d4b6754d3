"""Random embeddings: short operators that nearly keep the lengths in every subspace of low dimension."""

from __future__ import annotations

import torch
from torch import Tensor

from precondlab.operator import Operator
from precondlab.space import Space

__all__ = ["SignedGroups", "SparseSigns", "Trigonometric"]


class SparseSigns(Operator):
    """``S`` ``[d m]`` with ``hashes`` entries ``±1/√hashes`` in every column, in rows drawn at random.

    One hash is the CountSketch. The rows of hash h come from the h-th of ``hashes`` equal strips, so
    they are distinct and ``E SᴴS = I``.

    Cost per product: ``hashes · m`` operations. Reference: Clarkson & Woodruff (2017), doi:10.1145/3019134;
    Nelson & Nguyên (2013), doi:10.1109/FOCS.2013.21.

    >>> S = SparseSigns(Space(5), 4, hashes=2)
    >>> S.shape, S.dense().norm(dim=0)
    ((4, 5), tensor([1., 1., 1., 1., 1.], dtype=torch.float64))
    """

    def __init__(self, space: Space, size: int, *, hashes: int = 8, generator: torch.Generator | None = None) -> None:
        if not 1 <= hashes <= size:
            raise ValueError(f"SparseSigns: expected 1 ≤ hashes ≤ {size}, the number of rows, got {hashes}")
        strip = size // hashes
        super().__init__(space, Space(strip * hashes, dtype=space.dtype, device=space.device))
        source = _source(generator)
        start = strip * torch.arange(hashes)[:, None]
        draw = {"generator": source, "device": source.device}
        self.rows = (torch.randint(strip, (hashes, space.size), **draw) + start.to(source.device)).to(space.device)
        signs = 2 * torch.randint(2, (hashes, space.size), **draw) - 1
        self.signs = signs.to(space.device, space.dtype) / hashes**0.5

    def _apply(self, V: Tensor) -> Tensor:
        total = self.codomain.zeros(V.shape[1])
        for rows, signs in zip(self.rows, self.signs, strict=True):
            total.index_add_(0, rows, signs[:, None] * V)
        return total

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        total = self.domain.zeros(U.shape[1])
        for rows, signs in zip(self.rows, self.signs, strict=True):
            total += signs[:, None] * U[rows]
        return total


class SignedGroups(Operator):
    """``S`` ``[d m]``: coordinates with random signs, summed in d groups of equal size at random, ``S Sᴴ = I``.

    A count sketch with orthonormal rows, those of a group of g being ``±1/√g``. Sizes differ by one if d does not
    divide m.

    Cost per product: m operations. Reference: Cartis, Fiala & Shao (2021), arXiv:2105.11815.

    >>> SignedGroups(Space(4), 2).dense().abs().sum(dim=1)
    tensor([1.4142, 1.4142], dtype=torch.float64)
    """

    def __init__(self, space: Space, size: int, *, generator: torch.Generator | None = None) -> None:
        if not 1 <= size <= space.size:
            raise ValueError(f"SignedGroups: expected between 1 and {space.size} groups, got {size}")
        super().__init__(space, Space(size, dtype=space.dtype, device=space.device))
        source = _source(generator)
        self.groups = (torch.randperm(space.size, generator=source, device=source.device) % size).to(space.device)
        signs = 2 * torch.randint(2, (space.size,), generator=source, device=source.device) - 1
        sizes = torch.bincount(self.groups, minlength=size)[self.groups]
        self.weights = (signs.to(space.device, space.dtype) / sizes.sqrt())[:, None]

    def _apply(self, V: Tensor) -> Tensor:
        return self.codomain.zeros(V.shape[1]).index_add_(0, self.groups, self.weights * V)

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        return self.weights * U[self.groups]


class Trigonometric(Operator):
    """``S = √(m/d) R H D`` ``[d m]``: random signs D, Hartley transform H, and d of m rows R at random.

    The Hartley matrix ``(cos 2πjk/m + sin 2πjk/m)/√m`` is orthogonal and symmetric; complex
    vectors are given the Fourier transform.

    Cost per product: one fast transform, O(m log m) operations. Reference: Tropp (2011),
    doi:10.1142/S1793536911000787; Avron, Maymounkov & Toledo (2010), doi:10.1137/090767911.

    >>> S = Trigonometric(Space(5), 5)
    >>> (S.H @ S).dense().diagonal()
    tensor([1., 1., 1., 1., 1.], dtype=torch.float64)
    """

    def __init__(self, space: Space, size: int, *, generator: torch.Generator | None = None) -> None:
        if not 1 <= size <= space.size:
            raise ValueError(f"Trigonometric: expected between 1 and {space.size} rows, got {size}")
        super().__init__(space, Space(size, dtype=space.dtype, device=space.device))
        source = _source(generator)
        self.rows = torch.randperm(space.size, generator=source, device=source.device)[:size].to(space.device)
        signs = 2 * torch.randint(2, (space.size, 1), generator=source, device=source.device) - 1
        self.signs = signs.to(space.device, space.dtype)
        self.scale = (space.size / size) ** 0.5

    def _apply(self, V: Tensor) -> Tensor:
        if V.is_complex():
            return self.scale * torch.fft.fft(self.signs * V, dim=0, norm="ortho")[self.rows]
        m = self.domain.size
        mirrored = self.rows > m // 2  # the spectrum of reals at m − j is conjugate to that at j
        spectrum = torch.fft.rfft(self.signs * V, dim=0, norm="ortho")[self.rows.where(~mirrored, m - self.rows)]
        return self.scale * (spectrum.real + spectrum.imag.where(mirrored[:, None], -spectrum.imag))

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        padded = self.domain.zeros(U.shape[1])
        padded[self.rows] = self.scale * U
        if U.is_complex():
            return self.signs * torch.fft.ifft(padded, dim=0, norm="ortho")
        spectrum = torch.fft.fft(padded, dim=0, norm="ortho")
        return self.signs * (spectrum.real - spectrum.imag)


def _source(generator: torch.Generator | None) -> torch.Generator:
    return torch.Generator().manual_seed(0) if generator is None else generator
