"""Batches of training data: how they are read, weighted, split and turned into something kept within a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Generic, Literal, TypeVar, cast, get_args

import torch
from torch import Tensor, nn

from precondlab.differentiation.context import call
from precondlab.differentiation.watch import refuse_training_mode

__all__ = ["Batch", "Kept", "LossFn", "Reduction", "describe", "read", "require_number", "select"]

Reduction = Literal["mean", "batchmean", "sum"]
LossFn = Callable[[Any, Any], Tensor]
Part = TypeVar("Part")


@dataclass(frozen=True)
class Batch:
    """Samples that go through a model together.

    Attributes
    ----------
    inputs
        A tensor, called as ``model(inputs)``; a tuple, as ``model(*inputs)``; or a mapping, as ``model(**inputs)``.
    targets
        Second argument of the loss.
    size
        Number of samples.
    weight
        Factor of this batch's loss in the loss over all data.
    """

    inputs: Any
    targets: Any
    size: int
    weight: float = 1.0

    def outputs(self, model: nn.Module, params: dict[str, Tensor]) -> Any:
        """Return what the model returns for this batch; parameters that are not given are constants."""
        values = {name: params.get(name, p.detach()) for name, p in model.named_parameters()}
        if isinstance(self.inputs, Mapping):
            return call(model, values, keywords=self.inputs)
        return call(model, values, self.inputs if isinstance(self.inputs, tuple) else (self.inputs,))

    def rows(self, start: int, stop: int) -> Batch:
        """Return some of the samples; their share of the weight is the caller's business."""
        count = min(stop, self.size) - start

        def cut(tree: Any) -> Any:
            return _leaves(tree, lambda x: x[start:stop] if x.dim() and len(x) == self.size else x)

        return Batch(cut(self.inputs), cut(self.targets), count, self.weight)

    def split(self, size: int, mean: bool) -> list[Batch]:
        """Return pieces of at most ``size`` samples, which together weigh what the batch does."""
        pieces = [self.rows(start, start + size) for start in range(0, self.size, size)]
        return [replace(piece, weight=self.weight * piece.size / self.size) for piece in pieces] if mean else pieces


def read(
    data: Any, model: nn.Module, loss_fn: LossFn, *, who: str, reduction: Reduction | None, microbatch: int | None
) -> list[Batch]:
    """Return the batches of a data argument, each with its weight, on the model's device.

    ``data`` is one pair (inputs, targets), one mapping, or an iterable of either such as a list or a DataLoader,
    which is read once and kept. The inputs of a mapping are its entries, its target is the mapping itself.
    For a mean over samples a batch weighs ``size / total``, for a sum 1: the loss of the outputs of any two consecutive
    batches, where they can be joined, has to be the weighted sum of theirs. Batches of more than ``microbatch``
    samples are split, once the first has shown that its loss is the weighted sum of the losses of its pieces.

    Raises
    ------
    TypeError, ValueError
        For data of another form, or none; another reduction; a model in training mode whose layers change from call to
        call, or any loss that does; or a loss that cannot be split.

    Cost: a forward pass through every batch, and twice through the first.
    """
    refuse_training_mode(model)
    kind: Reduction = reduction or getattr(loss_fn, "reduction", "mean")
    if kind not in get_args(Reduction):
        raise ValueError(
            f"{who}: the loss should be one number, a 'mean', 'batchmean' or 'sum' over samples, got reduction={kind!r}"
        )
    mean = kind != "sum"
    if isinstance(data, Tensor) or not isinstance(data, Iterable):
        raise TypeError(f"{who}: expected (inputs, targets) or an iterable of such pairs, got {type(data).__name__}")
    pair = isinstance(data, tuple) and len(data) == 2 and isinstance(data[1], Tensor)
    device = next(model.parameters()).device
    batches = [_batch(item, who, device) for item in ([data] if pair or isinstance(data, Mapping) else data)]
    total = sum(batch.size for batch in batches)
    if total == 0:
        raise ValueError(f"{who}: expected (inputs, targets) or an iterable of such pairs, got no batch or no sample")
    if microbatch is not None and microbatch < 1:
        raise ValueError(f"{who}: expected microbatch ≥ 1, got {microbatch}")
    batches = [replace(batch, weight=batch.size / total if mean else 1.0) for batch in batches]
    _require_additive(model, loss_fn, batches, kind, who)
    pieces: list[Batch] = []
    checked = False
    for batch in batches:
        parts = [batch] if microbatch is None else batch.split(microbatch, mean)
        if len(parts) > 1 and not checked:
            _require_separable(model, loss_fn, batch, parts, who)
            checked = True
        pieces += parts
    return pieces


@torch.no_grad()
def _require_additive(model: nn.Module, loss_fn: LossFn, batches: list[Batch], reduction: Reduction, who: str) -> None:
    """Raise unless a loss is the same in a second call, and that of two batches what their weights say."""

    def evaluate(batch: Batch) -> tuple[Any, Tensor]:
        outputs = batch.outputs(model, {})
        return outputs, loss_fn(outputs, batch.targets)

    one, (outputs, value) = batches[0], evaluate(batches[0])
    again = evaluate(one)[1]
    if _differ(value, again, value.abs()):
        raise ValueError(
            f"{who}: the loss of one batch was {value.item():.6g}, then {again.item():.6g}: something is random in the "
            "model or the loss (dropout as a function is told training=False), so that there is no derivative"
        )
    for two in batches[1:]:
        following, other = evaluate(two)
        sizes = one.size, two.size
        try:
            both = loss_fn(_joined(outputs, following, sizes), _joined(one.targets, two.targets, sizes))
        except (RuntimeError, ValueError):  # of different shapes
            both = None
        weight = (one.weight + two.weight) if reduction != "sum" else 1.0
        due = (one.weight * value + two.weight * other) / weight
        scale = (one.weight * value.abs() + two.weight * other.abs()) / weight
        if both is not None and _differ(both, due, scale):
            raise ValueError(
                f"{who}: the loss of two batches is {both.item():.6g} together, but would be {due.item():.6g} "
                f"as a {reduction!r} over samples, which it is not. Give the right reduction=; with class weights or "
                "ignore_index take a loss with reduction='sum', divided by a constant, or all data as one batch"
            )
        one, outputs, value = two, following, other


def _differ(a: Tensor, b: Tensor, scale: Tensor) -> bool:
    return a.numel() == 1 and bool((a - b).abs() > torch.finfo(a.dtype).eps ** 0.5 * scale)


def _joined(one: Any, two: Any, sizes: tuple[int, int]) -> Any:
    """Return outputs or targets of two batches as those of one; what is not made of samples is that of the first."""
    if isinstance(one, Tensor):
        if not one.dim() or (len(one) != sizes[0] and one.shape == two.shape and torch.equal(one, two)):
            return one
        if len(one) * sizes[1] != len(two) * sizes[0]:
            raise ValueError("not made of samples")
        return torch.cat([one, two])
    if isinstance(getattr(one, "logits", None), Tensor):
        both = copy(one)
        both.logits = _joined(one.logits, two.logits, sizes)
        return both
    if isinstance(one, Mapping):
        return {name: _joined(value, two[name], sizes) for name, value in one.items()}
    if isinstance(one, tuple | list):
        return tuple(_joined(a, b, sizes) for a, b in zip(one, two, strict=True))
    return one


def _require_separable(model: nn.Module, loss_fn: LossFn, batch: Batch, pieces: list[Batch], who: str) -> None:
    with torch.no_grad():
        whole = batch.weight * loss_fn(batch.outputs(model, {}), batch.targets)
        parts = [piece.weight * loss_fn(piece.outputs(model, {}), piece.targets) for piece in pieces]
    total, scale = torch.stack(parts).sum(), torch.stack(parts).abs().sum()
    if _differ(whole, total, scale):
        raise ValueError(
            f"{who}: microbatch: the loss of a batch is {whole.item():.6g}, the weighted losses of its pieces add up "
            f"to {total.item():.6g}; the model or the loss mixes samples (or reduction= is wrong): leave microbatch out"
        )


def select(model: nn.Module, patterns: str | Iterable[str] | None, *, who: str) -> dict[str, Tensor]:
    """Return the trainable parameters whose names match one of some patterns such as ``"blocks.*.weight"``, detached.

    A tied parameter appears once, under its first name.

    Raises
    ------
    ValueError
        If there is none, or a pattern matches none; lists the names.
    """
    trainable = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise ValueError(f"{who}: {type(model).__name__} has no trainable parameter; use requires_grad_(True)")
    if patterns is None:
        return trainable
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    idle = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in trainable)]
    if idle or not patterns:
        raise ValueError(f"{who}: params: {idle} match no trainable parameter; there are {list(trainable)}")
    return {name: p for name, p in trainable.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}


def require_number(loss: Tensor, who: str) -> None:
    """Raise ValueError unless a loss is one finite number."""
    if loss.numel() != 1:
        raise ValueError(f"{who}: the loss should be one number, got shape {tuple(loss.shape)}; reduce it")
    if not loss.isfinite():
        raise ValueError(f"{who}: the loss is {loss.item()}; check the data and the parameters")


class Kept(Generic[Part]):
    """What is made of each batch: kept while all of it fits a budget of bytes, made again in every pass where not."""

    def __init__(self, makers: list[Callable[[], Part]], size: Callable[[Part], int], budget: int) -> None:
        self._makers, self._size, self._budget = makers, size, budget
        self._parts: list[Part | None] = [None] * len(makers)
        self._first = True
        self.bytes = 0

    def __iter__(self) -> Iterator[Part]:
        """Yield every part; the first pass decides which are kept."""
        for index, make in enumerate(self._makers):
            kept = self._parts[index]
            part = make() if kept is None else kept
            if self._first and self.bytes < self._budget:
                size = self._size(part)
                if self.bytes + size <= self._budget:
                    self._parts[index] = part
                    self.bytes += size
            yield part
        self._first = False

    @property
    def rebuilt(self) -> float:
        """The part of the batches that is made again in every pass."""
        return sum(part is None for part in self._parts) / len(self._parts)


def describe(parts: Kept[Any], unused: tuple[str, ...]) -> str:
    """Return what a repr says about parts that are made again and parameters without influence."""
    again = f", {parts.rebuilt:.0%} rebuilt" if parts.rebuilt else ""
    return again + (f", unused: {', '.join(unused)}" if unused else "")


def _batch(item: Any, who: str, device: torch.device) -> Batch:
    if isinstance(item, Mapping):
        item = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in item.items()}
        inputs, targets = item, item
    elif isinstance(item, tuple | list) and len(item) == 2:
        inputs, targets = (_leaves(part, lambda x: x.to(device)) for part in item)
    else:
        raise TypeError(f"{who}: expected every batch to be (inputs, targets) or a mapping, got {type(item).__name__}")
    tensors: list[Tensor] = []
    _leaves(inputs, lambda x: tensors.append(x) or x)
    sized = [x for x in tensors if x.dim()]
    if not sized:
        raise TypeError(f"{who}: the inputs of a batch hold no tensor with a first axis, so its size is not known")
    return Batch(inputs, targets, len(sized[0]))


def _leaves(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return the same tuples and mappings with every tensor changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, Mapping):
        return {name: _leaves(value, change) for name, value in tree.items()}
    if isinstance(tree, tuple | list):
        return tuple(_leaves(value, change) for value in cast(tuple, tree))
    return tree
