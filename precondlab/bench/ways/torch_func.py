"""``torch.func``: forward mode for Jv and reverse mode for Jᵀu, as in its documentation."""

from __future__ import annotations

from torch import Tensor
from torch.func import jvp, vjp, vmap

from precondlab.bench.ways.network import TorchWay, flatten, residual, unflatten

__all__ = ["JvpVjp"]


class JvpVjp(TorchWay):
    """``vjp`` of ``jvp``; the closure of ``vjp`` is kept, blocks go through ``vmap``."""

    def setup(self) -> None:
        self.function, self.params = residual(self.inputs)
        self.pull = vjp(self.function, self.params)[1]

    def product(self, v: Tensor) -> Tensor:
        tangents = unflatten(v, self.params)
        Jv: Tensor = jvp(self.function, (self.params,), (tangents,))[1]
        return flatten(self.pull(Jv)[0])

    def block(self, V: Tensor) -> Tensor:
        return vmap(self.product)(V.T.contiguous()).T
