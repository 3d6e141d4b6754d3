"""The dual-number route: ``torch.autograd.forward_ad`` for ``Jv``, one retained graph for ``Jᵀw``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.autograd import forward_ad

from precondlab.differentiation.graph import Graph
from precondlab.differentiation.route import Route
from precondlab.space import Space


class Dual(Route):
    """Differentiate forwards with dual numbers and backwards with a retained graph.

    Dual numbers pass through code that calls ``torch.autograd.grad`` itself.

    Cost: ``Jv`` one evaluation of the function on dual numbers, ``Jᵀw`` one backward pass.
    Memory: the reverse graph; the forward pass keeps nothing.
    """

    name = "dual"

    def __init__(
        self, function: Callable[[dict[str, Tensor]], Tensor], params: Mapping[str, Tensor], space: Space
    ) -> None:
        self.space = space
        self._function = function
        self._params = {name: value.detach() for name, value in params.items()}
        self._graph = Graph(function, params, space)
        self.value = self._graph.value

    @property
    def kept_bytes(self) -> int:
        return self._graph.kept_bytes

    def vjp(self, U: Tensor) -> Tensor:
        return self._graph.vjp(U)

    def jvp(self, V: Tensor) -> Tensor:
        return torch.stack([self._jvp(row) for row in V.T.contiguous()], dim=1)

    def _jvp(self, v: Tensor) -> Tensor:
        tangents = self.space.unravel(v)
        with torch.enable_grad(), forward_ad.dual_level():
            duals = {
                name: forward_ad.make_dual(value.clone().requires_grad_(), tangents[name])
                for name, value in self._params.items()
            }
            tangent = forward_ad.unpack_dual(self._function(duals)).tangent
        return torch.zeros_like(self.value) if tangent is None else tangent.detach()
