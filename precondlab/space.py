"""Vector spaces: size, dtype, device and named blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

__all__ = ["Space", "numpy_dtype"]

_NUMPY_DTYPES = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
    torch.complex64: np.dtype(np.complex64),
    torch.complex128: np.dtype(np.complex128),
}
_SUMMED_AT_ONCE = 2**14  # entries


def numpy_dtype(dtype: torch.dtype) -> np.dtype:
    """Return the NumPy counterpart of a torch dtype.

    Raises
    ------
    TypeError
        If operators do not support the dtype (half precision, integers).

    >>> numpy_dtype(torch.float32)
    dtype('float32')
    """
    if dtype not in _NUMPY_DTYPES:
        raise TypeError(
            f"operators need float32, float64, complex64 or complex128, got {dtype}; "
            "convert the model first, e.g. model.double()"
        )
    return _NUMPY_DTYPES[dtype]


class Space:
    """A finite-dimensional space with a Euclidean inner product and named blocks.

    A vector is a tensor whose last axis has length :attr:`size`; its blocks, in order, are the
    flattened tensors of the given shapes. The inner product is ``UᴴV``.

    Parameters
    ----------
    blocks
        Name → shape; the order is the order of the coordinates. An integer means one
        anonymous block of that size.
    dtype, device
        Of the vectors.

    >>> space = Space({"weight": (2, 3), "bias": (2,)})
    >>> space.size, space.slices["bias"]
    (8, slice(6, 8, None))
    """

    def __init__(
        self,
        blocks: Mapping[str, tuple[int, ...]] | int,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        if isinstance(blocks, int | np.integer):
            blocks = {"": (blocks,)}
        self.shapes = {name: torch.Size(shape) for name, shape in blocks.items()}
        self.dtype = dtype
        self.device = torch.device(device)
        self.numpy_dtype = numpy_dtype(dtype)
        self.slices: dict[str, slice] = {}
        start = 0
        for name, shape in self.shapes.items():
            self.slices[name] = slice(start, start := start + math.prod(shape))
        self.size = start

    @classmethod
    def of(cls, tree: Mapping[str, Tensor]) -> Space:
        """Return the space whose vectors are shaped like a dict of tensors of one dtype and device."""
        kinds = {(value.dtype, value.device) for value in tree.values()}
        if len(kinds) != 1:
            found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds)) or "no tensor at all"
            raise ValueError(f"a Space needs tensors of one dtype on one device, got {found}")
        ((dtype, device),) = kinds
        return cls({name: value.shape for name, value in tree.items()}, dtype=dtype, device=device)

    @property
    def eps(self) -> float:
        """Unit round-off of the dtype (spacing of 1)."""
        return torch.finfo(self.dtype).eps

    def ravel(self, tree: Mapping[str, Tensor]) -> Tensor:
        """Flatten a dict of blocks ``[..., *shape]`` into vectors ``[..., size]``."""
        if tree.keys() != self.shapes.keys():
            raise ValueError(
                f"ravel: expected the blocks {list(self.shapes)}, got {list(tree)}; "
                "pass every block once, under its own name"
            )
        flat = []
        for name, shape in self.shapes.items():
            block = tree[name]
            if block.shape[block.dim() - len(shape) :] != shape:
                raise ValueError(f"ravel: block {name!r} should have shape {tuple(shape)}, got {tuple(block.shape)}")
            flat.append(block.reshape((*block.shape[: block.dim() - len(shape)], shape.numel())))
        return torch.cat(flat, dim=-1)

    def unravel(self, vector: Tensor) -> dict[str, Tensor]:
        """Split vectors ``[..., size]`` into a dict of blocks ``[..., *shape]``."""
        if vector.shape[-1] != self.size:
            raise ValueError(f"unravel: expected vectors of size {self.size}, got {tuple(vector.shape)}")
        return {
            name: vector[..., self.slices[name]].reshape((*vector.shape[:-1], *shape))
            for name, shape in self.shapes.items()
        }

    def inner(self, U: Tensor, V: Tensor) -> Tensor:
        """Return ``UᴴV`` for blocks of columns; with :meth:`dots` the one place that knows how vectors are stored.

        Single precision is summed in pieces, these in double precision: one sum over 10⁷ entries is off by a percent.
        """
        return self._summed(lambda u, v: u.mH @ v, U, V)

    def dots(self, U: Tensor, V: Tensor) -> Tensor:
        """Return ``uᵢᴴvᵢ`` of equal columns of two blocks ``[size k]``."""
        return self._summed(lambda u, v: torch.linalg.vecdot(u, v, dim=0), U, V)

    def _summed(self, product: Callable[[Tensor, Tensor], Tensor], U: Tensor, V: Tensor) -> Tensor:
        if len(U) <= _SUMMED_AT_ONCE or self.dtype in (torch.float64, torch.complex128):
            return product(U, V)
        double = torch.promote_types(self.dtype, torch.float64)
        parts = map(product, U.split(_SUMMED_AT_ONCE), V.split(_SUMMED_AT_ONCE))
        return torch.stack(list(parts)).sum(0, dtype=double).to(self.dtype)

    def zeros(self, *columns: int) -> Tensor:
        """Return zero vectors ``[size, *columns]``."""
        return torch.zeros(self.size, *columns, dtype=self.dtype, device=self.device)

    def random(self, *columns: int, generator: torch.Generator | None = None) -> Tensor:
        """Return standard normal vectors ``[size, *columns]``, the same on every device for one seed."""
        if generator is None:
            generator = torch.Generator().manual_seed(0)
        draw = torch.randn(self.size, *columns, dtype=self.dtype, device=generator.device, generator=generator)
        return draw.to(self.device)

    def matches(self, other: Space) -> bool:
        """Whether vectors of the two spaces can be added."""
        return (self.size, self.dtype, self.device) == (other.size, other.dtype, other.device)

    def __repr__(self) -> str:
        where = "" if self.device.type == "cpu" else f" on {self.device}"
        return f"ℝ^{self.size}[{str(self.dtype).removeprefix('torch.')}]{where}"
