"""The generalized Gauss–Newton matrix of a supervised loss."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from precondlab.differentiation.context import differentiable
from precondlab.differentiation.graph import Graph
from precondlab.differentiation.jets import NetworkOutputs, Unsupported
from precondlab.differentiation.memory import keep_freed, reachable_bytes
from precondlab.operator import Operator
from precondlab.operators.data import Batch, Kept, LossFn, Reduction, describe, read, require_number, select
from precondlab.space import Space

__all__ = ["GGN"]

_SAMPLE = 32  # inputs on which the closed form is compared with the model


class GGN(Operator):
    """The generalized Gauss–Newton matrix ``G = Σ_b w_b J_bᵀ H_b J_b`` of a loss, ``[n n]``.

    J is the Jacobian of the model's outputs in its trainable parameters and H the Hessian of the
    loss in the outputs. Batches are weighted so that G belongs to the loss over all data: a mean
    over samples counts a batch by its size, a sum counts each once.

    Parameters
    ----------
    model
        Maps a batch of inputs to outputs ``[N, …]``, or to something that holds them as ``.logits``.
    loss_fn
        ``loss_fn(outputs, targets) -> Tensor`` with one entry, convex in the outputs.
    data
        One pair (inputs, targets), or an iterable of pairs such as a list or a DataLoader, read once and kept.
        Inputs are a tensor, a tuple (``model(*inputs)``) or a mapping (``model(**inputs)``). A batch that is a
        mapping is both the inputs and the targets.
    params
        Patterns of the names of the parameters, such as ``"blocks.*.attn.*"``; all trainable ones by default.
    reduction
        Whether the loss is a ``"mean"`` (or ``"batchmean"``, the same) or a ``"sum"`` over samples; by default what
        ``loss_fn`` says in its attribute ``reduction``, else ``"mean"``. A mean that does not count every sample once
        (class weights, ``ignore_index``) is right within one batch, and refused where two of the same shapes show it.
    microbatch
        Split batches into pieces of at most so many samples.
    memory_budget
        Bytes that may be kept between products; batches beyond are evaluated again in every product, whose
        working memory is that of one batch.
    route
        ``"graph"`` keeps a reverse graph even where a closed form is known.

    Attributes
    ----------
    route
        ``"jets"``, the closed form for feed-forward networks, ``"graph"``, or both for different batches.
    kept_bytes
        Bytes kept between products.
    unused
        Parameters without influence on the outputs: rows and columns of exact zeros.

    Raises
    ------
    TypeError, ValueError
        For no data or data of another form, a pattern that no trainable parameter matches, a model in training
        mode with dropout or batch normalization, a loss that is not one finite number, or differs in a second call,
        or is no mean or sum over the batches, or one that microbatch would change.

    Cost: at construction two forward passes per batch, one kept within the budget; a product is about three forward
    passes: closed form for feed-forward networks, one retained graph for others.
    Reference: Schraudolph (2002), doi:10.1162/08997660260028683.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> GGN(model, nn.MSELoss(), (torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1))).dense()  # 2 mean(x²)
    tensor([[10.]])
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        data: Any,
        *,
        params: str | Iterable[str] | None = None,
        reduction: Reduction | None = None,
        microbatch: int | None = None,
        memory_budget: int = 2**30,
        route: Literal["auto", "graph"] = "auto",
    ) -> None:
        chosen = select(model, params, who="GGN")
        space = Space.of(chosen)
        super().__init__(space, space, positive=True)

        def loss(outputs: Any, targets: Any) -> Tensor:
            return loss_fn(getattr(outputs, "logits", outputs), targets)

        loss.reduction = getattr(loss_fn, "reduction", "mean")
        batches = read(data, model, loss, who="GGN", reduction=reduction, microbatch=microbatch)
        keep_freed()
        linearize = _Outputs if route == "graph" else _outputs
        makers = [partial(_part, linearize, model, chosen, space, loss, batch) for batch in batches]
        self._parts = Kept(makers, lambda part: part.outputs.kept_bytes + part.hessian.kept_bytes, memory_budget)
        names, used = set(), set()
        for part in self._parts:
            names.add(part.outputs.name)
            if len(used) < len(space.shapes):
                used |= _used(part.outputs)
        self.route = "/".join(sorted(names))
        self.unused = tuple(name for name in space.shapes if name not in used)

    @property
    def kept_bytes(self) -> int:
        return self._parts.bytes

    def _apply(self, V: Tensor) -> Tensor:
        total = self.domain.zeros(V.shape[1])
        for outputs, hessian, weight in self._parts:
            total += weight * outputs.vjp(hessian(outputs.jvp(V)))
        return total

    def __repr__(self) -> str:
        n = self.domain.size
        return f"GGN[{n}×{n}, {self.route}{describe(self._parts, self.unused)}]"


class _Part(NamedTuple):
    outputs: NetworkOutputs | _Outputs
    hessian: _LossHessian
    weight: float


def _part(
    linearize: Any, model: nn.Module, params: dict[str, Tensor], space: Space, loss: LossFn, batch: Batch
) -> _Part:
    outputs = linearize(model, params, space, batch)
    return _Part(outputs, _LossHessian(loss, outputs.value, outputs.shape, batch.targets), batch.weight)


class _Outputs(Graph):
    """The outputs of any model, by a retained graph."""

    shape: torch.Size

    def __init__(self, model: nn.Module, params: dict[str, Tensor], space: Space, batch: Batch) -> None:
        def function(leaves: dict[str, Tensor]) -> Tensor:
            outputs = batch.outputs(model, leaves)
            outputs = getattr(outputs, "logits", outputs)
            if not isinstance(outputs, Tensor) or outputs.dtype != space.dtype:
                got = outputs.dtype if isinstance(outputs, Tensor) else type(outputs).__name__
                raise TypeError(f"GGN: the model should return a {space.dtype} tensor, got {got}; wrap it in a module")
            self.shape = outputs.shape
            return outputs.reshape(-1)

        super().__init__(function, params, space)

    @property
    def used(self) -> set[str]:
        return set(self.pullback[1]) if self.output.requires_grad else set()

    @cached_property
    def kept_bytes(self) -> int:
        return reachable_bytes((self.output, *self.pullback[2]), without=self.leaves.values()) if self.used else 0


def _outputs(model: nn.Module, params: dict[str, Tensor], space: Space, batch: Batch) -> NetworkOutputs | _Outputs:
    """Return the closed form where a few samples show that it is one, else a graph."""
    inputs = batch.inputs
    if isinstance(inputs, Tensor) and inputs.dim() == 2 and inputs.dtype == space.dtype:
        try:
            few = inputs[:_SAMPLE]
            sample = NetworkOutputs(model, params, space, few)
            with torch.no_grad():
                value = model(few).reshape(-1)
                sample.jvp(space.zeros(1))
            if (sample.value - value).norm() <= space.eps**0.5 * value.norm():
                return NetworkOutputs(model, params, space, inputs)
        except Unsupported:
            pass
    return _Outputs(model, params, space, batch)


def _used(outputs: NetworkOutputs | _Outputs) -> set[str]:
    """Return the names of the parameters with influence: in closed form, those a random adjoint product reaches."""
    if isinstance(outputs, _Outputs):
        return outputs.used
    u = Space(len(outputs.value), dtype=outputs.space.dtype, device=outputs.space.device).random(1)
    with torch.no_grad():
        return {name for name, part in outputs.space.unravel(outputs.vjp(u)[:, 0]).items() if part.any()}


class _LossHessian:
    """The Hessian of a loss in the outputs, applied to a block ``[N c, k]``."""

    def __init__(self, loss_fn: LossFn, value: Tensor, shape: torch.Size, targets: Any) -> None:
        with differentiable():
            self._outputs = value.detach().reshape(shape).requires_grad_()
            loss = loss_fn(self._outputs, targets)
            require_number(loss, "GGN")
            (self._gradient,) = torch.autograd.grad(loss, self._outputs, create_graph=True)

    @cached_property
    def kept_bytes(self) -> int:
        return reachable_bytes([self._gradient], without=[])

    def __call__(self, Y: Tensor) -> Tensor:
        if not self._gradient.requires_grad:  # a loss linear in the outputs
            return torch.zeros_like(Y)
        columns = Y.T.reshape(-1, *self._outputs.shape)
        (moved,) = torch.autograd.grad(self._gradient, self._outputs, columns, retain_graph=True, is_grads_batched=True)
        return moved.reshape(len(columns), -1).T
