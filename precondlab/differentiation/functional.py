"""The torch.func route: forward-mode ``jvp`` and a kept ``vjp`` closure, vmapped over columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from precondlab.differentiation.graph import Graph
from precondlab.differentiation.route import Route
from precondlab.space import Space

_COLUMNS = 16  # carried through vmap at once: what memory is multiplied by


class Functional(Route):
    """Differentiate with ``torch.func``; needs a function without ``torch.autograd`` calls inside.

    Cost: ``Jv`` one forward-mode evaluation of the function, ``Jᵀw`` one pass of the kept closure.
    Memory: the closure's graph, and up to 16 columns of tangents.
    """

    name = "functional"

    def __init__(
        self, function: Callable[[dict[str, Tensor]], Tensor], params: Mapping[str, Tensor], space: Space
    ) -> None:
        self.space = space
        self._function = function
        self._params = {name: value.detach() for name, value in params.items()}
        primal = vjp(function, self._params)
        self.value: Tensor = primal[0].detach()
        self._pull = primal[1]

    @property
    def kept_bytes(self) -> int:
        return _COLUMNS * Graph(self._function, self._params, self.space).kept_bytes

    def jvp(self, V: Tensor) -> Tensor:
        def push(tangents: dict[str, Tensor]) -> Tensor:
            return jvp(self._function, (self._params,), (tangents,))[1]

        rows = [vmap(push)(self.space.unravel(part)) for part in V.T.contiguous().split(_COLUMNS)]
        return torch.cat(rows).T

    def vjp(self, U: Tensor) -> Tensor:
        rows = [self.space.ravel(vmap(self._pull)(part)[0]) for part in U.T.contiguous().split(_COLUMNS)]
        return torch.cat(rows).T
