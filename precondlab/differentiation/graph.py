"""The route that works for any torch code: one retained reverse graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor

from precondlab.differentiation.context import differentiable
from precondlab.differentiation.convolution import spare_convolutions
from precondlab.differentiation.memory import nodes, reachable_bytes
from precondlab.differentiation.route import Route
from precondlab.space import Space

# Below this many entries (columns × rows × parameters) a product is dominated by the cost of
# calling operations, and pushing all columns through the graph at once is faster than a loop.
_BATCHED_BELOW = 2_000_000


class Graph(Route):
    """Differentiate one retained reverse graph: ``Jᵀw`` by one backward pass, ``Jv`` by two.

    ``w ↦ Jᵀw`` is linear, so its own reverse derivative is ``v ↦ Jv``; both graphs are built
    once and walked by every product.

    Cost: ``Jᵀw`` one backward pass, ``Jv`` one backward pass through the backward graph, of convolutions no more
    than their tangents.
    Memory: both graphs are kept.
    """

    name = "graph"

    def __init__(
        self, function: Callable[[dict[str, Tensor]], Tensor], params: Mapping[str, Tensor], space: Space
    ) -> None:
        self.space = space
        with differentiable():
            self.leaves = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
            self.output = function(self.leaves)
        self.value = self.output.detach()
        self._batchable = True

    def vjp(self, U: Tensor) -> Tensor:
        if not self.output.requires_grad:
            return self.space.zeros(U.shape[1])
        return self._columns(self._vjp, U, self.space.size)

    def jvp(self, V: Tensor) -> Tensor:
        if not self.output.requires_grad:
            return self.value.new_zeros(len(self.value), V.shape[1])
        return self._columns(self._jvp, V, len(self.value))

    @cached_property
    def kept_bytes(self) -> int:
        return reachable_bytes((self.output, *self.pullback[2]), without=self.leaves.values())

    @cached_property
    def pullback(self) -> tuple[Tensor, list[str], list[Tensor]]:
        """Record ``w ↦ Jᵀw``; a parameter without influence has no gradient and is left out."""
        with differentiable():
            w = torch.zeros_like(self.output, requires_grad=True)
            gradients = torch.autograd.grad(
                self.output, list(self.leaves.values()), w, create_graph=True, allow_unused=True
            )
        used = {
            name: gradient
            for name, gradient in zip(self.leaves, gradients, strict=True)
            if gradient is not None and gradient.requires_grad
        }
        spare_convolutions(nodes(used.values()) - nodes([self.output]))
        return w, list(used), list(used.values())

    def _vjp(self, u: Tensor, batched: bool) -> Tensor:
        gradients = torch.autograd.grad(
            self.output,
            list(self.leaves.values()),
            u,
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=batched,
        )
        lead = u.shape[:1] if batched else ()
        return self.space.ravel(
            {
                name: leaf.new_zeros((*lead, *leaf.shape)) if gradient is None else gradient
                for (name, leaf), gradient in zip(self.leaves.items(), gradients, strict=True)
            }
        )

    def _jvp(self, v: Tensor, batched: bool) -> Tensor:
        w, names, gradients = self.pullback
        tangents = self.space.unravel(v)
        (product,) = torch.autograd.grad(
            gradients,
            w,
            [tangents[name] for name in names],
            retain_graph=True,
            is_grads_batched=batched,
        )
        return product

    def _columns(self, product: Callable[[Tensor, bool], Tensor], V: Tensor, size: int) -> Tensor:
        """Apply to a block column by column, or to many columns at once where that is faster."""
        rows = V.T.contiguous()
        step = _BATCHED_BELOW // max(1, len(self.value) * self.space.size)
        if len(rows) > 1 and step > 1 and self._batchable:
            try:
                return torch.cat([product(part, True) for part in rows.split(step)]).T
            except RuntimeError:  # some operation in the graph has no batching rule
                self._batchable = False
        result = V.new_empty(len(rows), size)
        for row, target in zip(rows, result, strict=True):
            target.copy_(product(row, False))
        return result.T
