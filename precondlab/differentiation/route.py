"""What every differentiation route offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from precondlab.space import Space

__all__ = ["Route"]

_BLOCK = 256  # columns of the identity applied at once


class Route(ABC):
    """Products with the Jacobian J ``[m n]`` of a function at one point.

    A route is made as ``Route(function, params, space)`` and evaluates the function once.

    Attributes
    ----------
    name
        How a user asks for it.
    space
        Of the parameters.
    value
        The function's value ``[m]``.
    """

    name: str
    derived = False  # whether its value is computed in another way than by the function itself
    bounded = False  # whether it takes a memory_budget and keeps to it
    kept_fraction = 1.0  # of the rows, the part whose derivatives are kept between products
    space: Space
    value: Tensor

    @abstractmethod
    def __init__(
        self,
        function: Callable[[dict[str, Tensor]], Tensor],
        params: Mapping[str, Tensor],
        space: Space,
        memory_budget: int = 2**30,
    ) -> None: ...

    @classmethod
    def values(
        cls,
        function: Callable[[dict[str, Tensor]], Tensor],
        params: Mapping[str, Tensor],
        space: Space,
        memory_budget: int = 2**30,
    ) -> Callable[[dict[str, Tensor]], Tensor]:
        """Return the function, to be evaluated at many points; all else that it depends on should stay as it is."""
        return lambda params: function(params).detach()

    @abstractmethod
    def jvp(self, V: Tensor) -> Tensor:
        """Return ``J V`` ``[m k]``."""

    @abstractmethod
    def vjp(self, U: Tensor) -> Tensor:
        """Return ``Jᵀ U`` ``[n k]``."""

    @property
    @abstractmethod
    def kept_bytes(self) -> int:
        """Bytes of memory kept between products, and multiplied during one."""

    def gram(self, V: Tensor, square: Tensor) -> Tensor:
        """Return ``Jᵀ diag(square) J V`` ``[n k]``."""
        return self.vjp(square[:, None] * self.jvp(V))

    def dense(self) -> Tensor:
        """Return J ``[m n]``."""
        m, n = len(self.value), self.space.size
        if m < n:
            return _on_identity(self.vjp, m, self.value).T
        return _on_identity(self.jvp, n, self.value)


def _on_identity(product: Callable[[Tensor], Tensor], size: int, like: Tensor) -> Tensor:
    blocks = []
    for start in range(0, size, _BLOCK):
        width = min(_BLOCK, size - start)
        columns = like.new_zeros(size, width)
        columns[range(start, start + width), range(width)] = 1
        blocks.append(product(columns))
    return torch.cat(blocks, dim=1)
