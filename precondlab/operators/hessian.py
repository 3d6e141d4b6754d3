"""The Hessian of a loss."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from precondlab.differentiation.graph import Graph
from precondlab.differentiation.memory import reachable_bytes
from precondlab.map import Map
from precondlab.operator import Operator
from precondlab.operators.data import Batch, Kept, LossFn, Reduction, describe, read, require_number, select
from precondlab.space import Space

__all__ = ["Hessian"]

Loss = Callable[[dict[str, Tensor]], Tensor]


class Hessian(Operator):
    """The Hessian ``∂²L/∂θ²`` of a scalar loss at the current parameters, ``[n n]``.

    Reverse over reverse: the gradient's graph is built once and every product walks it backwards.

    Parameters
    ----------
    loss
        ``loss(params: dict[str, Tensor]) -> Tensor`` with one entry.
    params
        Name → tensor; those that do not require a gradient are kept fixed, unless none does.

    Attributes
    ----------
    gradient
        The gradient of the loss ``[n]``.
    kept_bytes
        Bytes kept between products.
    unused
        Parameters without influence on the loss: rows and columns of exact zeros.

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

    @classmethod
    def of_residual(cls, residual: Map, *, at: Mapping[str, Tensor] | None = None) -> Hessian:
        """Return the Hessian ``JᵀJ + Σ_i r_i ∂²r_i`` of ``½‖r‖²``, at the parameters of the map or at given ones.

        >>> a = torch.tensor([3.0])
        >>> Hessian.of_residual(Map(lambda p: p["a"] ** 2, {"a": a})).dense()  # of a⁴/2
        tensor([[54.]])
        """
        evaluate, scale = residual.fixed().raw(None), residual.scale()
        params = residual.params if at is None else at
        return cls(lambda values: 0.5 * (evaluate(values) * scale).square().sum(), params)

    @classmethod
    def of_model(
        cls,
        model: nn.Module,
        loss_fn: LossFn,
        data: Any,
        *,
        params: str | Iterable[str] | None = None,
        reduction: Reduction | None = None,
        microbatch: int | None = None,
        memory_budget: int = 2**30,
    ) -> Hessian:
        """Return the Hessian of a supervised loss ``Σ_b w_b L(model(x_b), y_b)``; arguments as those of ``GGN``.

        ``loss_fn`` receives what the model returns, whatever that is.

        Cost: at construction one gradient per batch, whose graph is kept within the budget; a product is about
        two gradients.

        >>> model = nn.Linear(1, 1, bias=False)
        >>> data = [(torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)), (torch.tensor([[2.0]]), torch.zeros(1, 1))]
        >>> Hessian.of_model(model, nn.MSELoss(), data).dense()  # 2 mean(x²)
        tensor([[9.3333]])
        """
        chosen = select(model, params, who="Hessian")
        space = Space.of(chosen)
        batches = read(data, model, loss_fn, who="Hessian", reduction=reduction, microbatch=microbatch)

        def loss(batch: Batch, leaves: dict[str, Tensor]) -> Tensor:
            return batch.weight * loss_fn(batch.outputs(model, leaves), batch.targets)

        self = cls.__new__(cls)
        self._build(chosen, space, [partial(loss, batch) for batch in batches], memory_budget)
        return self

    def _start(self, map: Map) -> None:
        function = map.fixed().raw(None)
        require_number(map.value, "Hessian")
        self._build(map.params, map.domain, [lambda leaves: function(leaves).sum()], None)

    def _build(self, params: Mapping[str, Tensor], space: Space, losses: list[Loss], budget: int | None) -> None:
        Operator.__init__(self, space, space, symmetric=True)
        makers = [partial(_Gradient, loss, params, space) for loss in losses]
        self._parts = Kept(makers, lambda part: part.kept_bytes, sys.maxsize if budget is None else budget)
        self.gradient, used = space.zeros(), set()
        for part in self._parts:
            self.gradient += part.value
            used |= part.used
        if not used:
            raise ValueError(f"Hessian: the loss does not depend on the parameters {list(space.shapes)}")
        self.unused = tuple(name for name in space.shapes if name not in used)

    @property
    def kept_bytes(self) -> int:
        return self._parts.bytes

    def _apply(self, V: Tensor) -> Tensor:
        total = self.domain.zeros(V.shape[1])
        for part in self._parts:
            total += part.vjp(V)
        return total

    def __repr__(self) -> str:
        return f"Hessian[{self.domain.size}×{self.domain.size}{describe(self._parts, self.unused)}]"


class _Gradient(Graph):
    """The gradient of a loss, by a retained graph; a parameter without influence has the gradient 0."""

    used: set[str]

    def __init__(self, loss: Loss, params: Mapping[str, Tensor], space: Space) -> None:
        def gradient(leaves: dict[str, Tensor]) -> Tensor:
            value = loss(leaves)
            require_number(value, "Hessian")
            self.used = set()
            if not value.requires_grad:
                return space.zeros()
            parts = torch.autograd.grad(value, list(leaves.values()), create_graph=True, allow_unused=True)
            found = {name: part for name, part in zip(leaves, parts, strict=True) if part is not None}
            self.used = set(found)
            return space.ravel({name: found.get(name, torch.zeros_like(leaf)) for name, leaf in leaves.items()})

        super().__init__(gradient, params, space)

    @cached_property
    def kept_bytes(self) -> int:
        return reachable_bytes([self.output], without=self.leaves.values())
