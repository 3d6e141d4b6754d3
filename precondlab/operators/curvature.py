"""The generalized Gauss–Newton matrix of a supervised loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, cast

import torch
from torch import Tensor, nn

from precondlab.differentiation.context import differentiable
from precondlab.differentiation.graph import Graph
from precondlab.differentiation.jets import NetworkOutputs, Unsupported
from precondlab.map import refuse_training_mode
from precondlab.operator import Operator
from precondlab.space import Space

__all__ = ["GGN"]

Batch = tuple[Tensor, Tensor]


class GGN(Operator):
    """The generalized Gauss–Newton matrix ``G = Σ_b w_b J_bᵀ H_b J_b`` of a loss, ``[n n]``.

    J is the Jacobian of the model's outputs in its trainable parameters and H the Hessian of the
    loss in the outputs. Batches are weighted so that G belongs to the loss over all data: a mean
    over samples counts a batch by its size, a sum counts each once.

    Parameters
    ----------
    model
        Maps a batch of inputs to outputs ``[N, …]``.
    loss_fn
        ``loss_fn(outputs, targets) -> Tensor`` with one entry, convex in the outputs.
    data
        One pair (inputs, targets), or an iterable of pairs such as a list or a DataLoader, read once.
    reduction
        Whether the loss is a ``"mean"`` or a ``"sum"`` over samples; by default what ``loss_fn`` says in its
        attribute ``reduction``, else ``"mean"``.

    route
        ``"graph"`` keeps a reverse graph even where a closed form is known.

    Raises
    ------
    ValueError
        For no data, a model without trainable parameters or in training mode with dropout or batch
        normalization, or a loss that is not one number.

    Cost: at construction one forward pass per batch, kept; a product is about three forward passes: closed
    form for feed-forward networks, one retained graph for others.
    Reference: Schraudolph (2002), doi:10.1162/08997660260028683.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> GGN(model, nn.MSELoss(), (torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1))).dense()  # 2 mean(x²)
    tensor([[10.]])
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Tensor, Tensor], Tensor],
        data: Batch | Iterable[Batch],
        *,
        reduction: Literal["mean", "sum"] | None = None,
        route: Literal["auto", "graph"] = "auto",
    ) -> None:
        refuse_training_mode(model)
        params = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        if not params:
            raise ValueError(f"GGN: {type(model).__name__} has no trainable parameter")
        single = isinstance(data, tuple) and isinstance(data[0], Tensor)
        batches = [cast(Batch, data)] if single else list(cast(Iterable[Batch], data))
        if not batches:
            raise ValueError("GGN: expected (inputs, targets) or an iterable of such pairs, got no batch")
        space = Space.of(params)
        super().__init__(space, space, positive=True)
        reduction = reduction or getattr(loss_fn, "reduction", "mean")
        samples = sum(len(inputs) for inputs, _ in batches)
        self._parts = []
        for inputs, targets in batches:
            outputs = (_Outputs if route == "graph" else _outputs)(model, params, space, inputs)
            weight = len(inputs) / samples if reduction == "mean" else 1.0
            self._parts.append((outputs, _LossHessian(loss_fn, outputs.value, outputs.shape, targets), weight))
        self.route = "/".join(sorted({route.name for route, _, _ in self._parts}))

    def _apply(self, V: Tensor) -> Tensor:
        total = self.domain.zeros(V.shape[1])
        for outputs, hessian, weight in self._parts:
            total += weight * outputs.vjp(hessian(outputs.jvp(V)))
        return total

    def __repr__(self) -> str:
        n = self.domain.size
        return f"GGN[{n}×{n}, {self.route}]"


class _Outputs(Graph):
    """The outputs of any model, by a retained graph."""

    shape: torch.Size

    def __init__(self, model: nn.Module, params: dict[str, Tensor], space: Space, inputs: Tensor) -> None:
        def function(leaves: dict[str, Tensor]) -> Tensor:
            outputs = torch.func.functional_call(model, leaves, (inputs,))
            self.shape = outputs.shape
            return outputs.reshape(-1)

        super().__init__(function, params, space)


def _outputs(model: nn.Module, params: dict[str, Tensor], space: Space, inputs: Tensor) -> NetworkOutputs | _Outputs:
    try:
        if inputs.dim() == 2 and inputs.dtype == space.dtype:
            route = NetworkOutputs(model, params, space, inputs)
            with torch.no_grad():
                value = model(inputs).reshape(-1)
            if (route.value - value).norm() <= space.eps**0.5 * value.norm():
                return route
    except Unsupported:
        pass
    return _Outputs(model, params, space, inputs)


class _LossHessian:
    """The Hessian of a loss in the outputs, applied to a block ``[N c, k]``."""

    def __init__(
        self, loss_fn: Callable[[Tensor, Tensor], Tensor], value: Tensor, shape: torch.Size, targets: Tensor
    ) -> None:
        with differentiable():
            self._outputs = value.detach().reshape(shape).requires_grad_()
            loss = loss_fn(self._outputs, targets)
            if loss.numel() != 1:
                raise ValueError(f"GGN: the loss should be one number, got shape {tuple(loss.shape)}; reduce it")
            (self._gradient,) = torch.autograd.grad(loss, self._outputs, create_graph=True)

    def __call__(self, Y: Tensor) -> Tensor:
        if not self._gradient.requires_grad:  # a loss linear in the outputs
            return torch.zeros_like(Y)
        columns = Y.T.reshape(-1, *self._outputs.shape)
        (moved,) = torch.autograd.grad(self._gradient, self._outputs, columns, retain_graph=True, is_grads_batched=True)
        return moved.reshape(len(columns), -1).T
