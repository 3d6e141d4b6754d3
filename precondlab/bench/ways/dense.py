"""J as a matrix, formed once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from precondlab.bench.ways.network import Rows, TorchWay, flatten
from precondlab.bench.ways.way import NotAvailable

__all__ = ["Formed"]

_LARGEST = 2**30  # bytes of J
_CHUNK = 100  # points differentiated at once


class Formed(TorchWay):
    """Per-point gradients by ``vmap`` of ``grad`` fill J; a product is two products with the matrix."""

    def setup(self) -> None:
        inputs = self.inputs
        size = 8 * inputs.case.parameters * (len(inputs.points) + len(inputs.boundary))
        if size > _LARGEST:
            raise NotAvailable(f"J takes {size / 1e9:.1f} GB, more than the {_LARGEST / 1e9:.1f} GB given to it")
        rows = Rows(inputs)
        params = {name: value.detach() for name, value in rows.net.named_parameters()}

        def value(p: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(rows.net, p, (x,))[0]

        def laplacian(p: dict[str, Tensor], x: Tensor) -> Tensor:
            return -torch.func.jacrev(torch.func.jacrev(value, argnums=1), argnums=1)(p, x).trace()

        self.J = torch.empty(len(rows.scale), inputs.case.parameters, dtype=torch.float64)
        first = 0
        for function, points in ((laplacian, inputs.points), (value, inputs.boundary)):
            row = vmap(lambda x, f=function: flatten(grad(f)(params, x)))
            for x in torch.from_numpy(points).split(_CHUNK):
                part = slice(first, first + len(x))
                torch.mul(row(x), rows.scale[part], out=self.J[part])
                first += len(x)

    def product(self, v: Tensor) -> Tensor:
        return self.J.T @ (self.J @ v)

    def block(self, V: Tensor) -> Tensor:
        rows = V.T.contiguous()  # thin products are 2.5 times faster with the vectors in rows
        return ((rows @ self.J.T) @ self.J).T
