"""The Hessian of a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from precondlab.differentiation.graph import Graph
from precondlab.map import Map
from precondlab.operator import Operator

__all__ = ["Hessian"]


class Hessian(Operator):
    """The Hessian ``∂²L/∂θ²`` of a scalar loss at the current parameters, ``[n n]``.

    Reverse over reverse: the gradient's graph is built once and every product walks it backwards.

    Parameters
    ----------
    loss
        ``loss(params: dict[str, Tensor]) -> Tensor`` with one entry.
    params
        Name → tensor; those that do not require a gradient are kept fixed, unless none does.

    Raises
    ------
    ValueError
        If the loss is not one finite number or does not depend on the parameters.

    Cost: at construction one gradient; a product is about two gradients. Memory: the gradient's graph.
    Reference: Pearlmutter (1994), doi:10.1162/neco.1994.6.1.147.

    >>> H = Hessian(lambda p: p["a"][0] ** 2 * p["a"][1], {"a": torch.tensor([1.0, 3.0])})
    >>> H.dense()
    tensor([[6., 2.],
            [2., 0.]])
    """

    def __init__(self, loss: Callable[[dict[str, Tensor]], Tensor], params: Mapping[str, Tensor]) -> None:
        self._start(Map(loss, params))

    @classmethod
    def of_module(cls, model: nn.Module, closure: Callable[[], Any]) -> Hessian:
        """Return the Hessian of what ``closure()`` returns in a module's trainable parameters.

        >>> model = nn.Linear(1, 1, bias=False)
        >>> Hessian.of_module(model, lambda: model.weight.sum() ** 3 / 6).dense() - model.weight
        tensor([[0.]], grad_fn=<SubBackward0>)
        """
        self = cls.__new__(cls)
        self._start(Map.of_module(model, closure))
        return self

    def _start(self, map: Map) -> None:
        if map.codomain.size != 1:
            raise ValueError(f"Hessian: the loss should be one number, got {map.codomain.size}; reduce it")
        super().__init__(map.domain, map.domain, symmetric=True)
        function = map.raw(None)

        def gradient(leaves: dict[str, Tensor]) -> Tensor:
            loss = function(leaves).sum()
            if not loss.requires_grad:
                raise ValueError(f"Hessian: the loss does not depend on the parameters {list(leaves)}")
            parts = torch.autograd.grad(loss, list(leaves.values()), create_graph=True, allow_unused=True)
            return map.domain.ravel(
                {
                    name: torch.zeros_like(leaf) if part is None else part
                    for (name, leaf), part in zip(leaves.items(), parts, strict=True)
                }
            )

        self._gradient = Graph(gradient, map.params, map.domain)

    @property
    def gradient(self) -> Tensor:
        """The gradient of the loss ``[n]``."""
        return self._gradient.value

    def _apply(self, V: Tensor) -> Tensor:
        return self._gradient.vjp(V)
