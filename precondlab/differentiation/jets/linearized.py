"""A network at one point θ, on the jets of some points: value, tangent and adjoint passes through its layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from precondlab.differentiation.jets.activations import Unsupported
from precondlab.differentiation.jets.algebra import JetAlgebra
from precondlab.differentiation.jets.layers import Layer, Outer, Params

__all__ = ["Linearized", "Make", "Step"]

Make = Callable[[dict[str, Tensor]], Layer]

_ALIGNED = 64  # bytes
_APART = 16  # points whose gradients are taken apart at once


@dataclass(frozen=True)
class Step:
    """One layer: how to make it, which earlier results it takes, and whether θ enters at or before it, or at it."""

    make: Make
    inputs: tuple[int, ...]
    trainable: bool
    own: bool = False


class Linearized:
    """A network at one point θ, on the jets of some points x."""

    def __init__(self, steps: Sequence[Step], layers: Sequence[Layer], algebra: JetAlgebra, x: Tensor) -> None:
        self._steps, self._layers, self._algebra = steps, layers, algebra
        self._last_use = {i: place for place, step in enumerate(steps) for i in step.inputs}
        results = {0: algebra.coordinates(x)}
        for place, (step, layer) in enumerate(zip(steps, layers, strict=True)):
            results[place + 1] = layer.primal(algebra, *(results[i] for i in step.inputs))
            self._release(results, place)
        self.value = results[len(steps)]

    @property
    def kept_bytes(self) -> int:
        """Bytes kept for tangent and adjoint passes, each storage once."""
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in self._kept()}
        return sum(storages.values())

    def pack(self) -> None:
        """Move what is kept into one piece of memory: small pieces between passing ones leave holes in the heap."""
        kept = {t.untyped_storage().data_ptr(): t for t in self._kept()}
        sizes = [-(-t.untyped_storage().nbytes() // _ALIGNED) * _ALIGNED for t in kept.values()]
        device = next(iter(kept.values())).device
        whole = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
        starts = dict(zip(kept, itertools.accumulate(sizes, initial=0), strict=False))
        for pointer, t in kept.items():
            source = torch.empty(0, dtype=torch.uint8, device=device).set_(t.untyped_storage())
            whole[starts[pointer] : starts[pointer] + len(source)] = source
        for layer in self._layers:
            for name, t in vars(layer).items():
                start = starts.get(t.untyped_storage().data_ptr()) if isinstance(t, Tensor) else None
                if start is not None:
                    offset = start // t.itemsize + t.storage_offset()
                    moved = torch.empty(0, dtype=t.dtype, device=device)
                    setattr(layer, name, moved.set_(whole.untyped_storage(), offset, t.shape, t.stride()))

    def _kept(self) -> list[Tensor]:
        return [t for layer in self._layers for t in layer.kept()]

    def tangent(self, params: Params) -> Tensor:
        """Return the change ``[C, N, k, 1]`` of the output jets for a block of parameter changes."""
        results: dict[int, Tensor | None] = {0: None}
        for place, (step, layer) in enumerate(zip(self._steps, self._layers, strict=True)):
            inputs = [results[i] for i in step.inputs]
            moved = layer.tangent(self._algebra, *inputs, params=params) if step.trainable else None
            results[place + 1] = moved
            self._release(results, place)
        output = results[len(self._steps)]
        if output is None:
            raise Unsupported("an output that does not depend on the parameters")
        return output

    def _release(self, results: dict[int, Any], place: int) -> None:
        """Forget what no later step takes."""
        for i in self._steps[place].inputs:
            if self._last_use[i] == place:
                results.pop(i, None)

    def adjoint(self, w: Tensor, gradients: Params) -> None:
        """Add the adjoint of output weights ``[C, N, k, 1]`` to the parameters' blocks."""
        self._backward(
            w,
            lambda _, layer, weight, wanted: layer.adjoint(self._algebra, weight, wanted=wanted, gradients=gradients),
        )

    def rows(self, w: Tensor, zeros: Callable[[int], Params]) -> dict[str, Tensor]:
        """Return each point's gradient of its own output weights ``[C, N, 1]``: name → ``[N, *shape]``.

        ``zeros`` makes blocks of columns of the parameters' shapes, for layers that only know their adjoint.
        """
        collected: dict[str, Tensor] = {}
        ignored = _Ignore()

        def visit(step: Step, layer: Layer, weight: Tensor, wanted: Sequence[bool]) -> Sequence[Tensor | None]:
            if step.own:
                own = layer.rows(weight.squeeze(2))
                own = self._rows_by_adjoint(layer, weight, wanted, zeros) if own is None else own
                for name, value in own.items():
                    collected[name] = collected[name] + value if name in collected else value
            return layer.adjoint(self._algebra, weight, wanted=wanted, gradients=ignored)

        self._backward(w.unsqueeze(2), visit)
        return collected

    def _rows_by_adjoint(
        self, layer: Layer, w: Tensor, wanted: Sequence[bool], zeros: Callable[[int], Params]
    ) -> dict[str, Tensor]:
        """Return each point's gradient from adjoints of weights that are zero at all other points."""
        C, N, _, width = w.shape
        parts = []
        for points in torch.arange(N, device=w.device).split(_APART):
            apart = w.new_zeros(C, N, len(points), width)
            apart[:, points, torch.arange(len(points), device=w.device)] = w[:, points, 0]
            gradients = zeros(len(points))
            layer.adjoint(self._algebra, apart, wanted=[False] * len(wanted), gradients=gradients)
            parts.append(gradients)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def layers(self, w: Tensor) -> Iterator[Outer]:
        """Yield names, inputs ``[C, N, p]`` and adjoints ``[C, N, q]`` of linear layers for weights ``[C, N, 1]``."""
        found: list[Outer] = []
        ignored = _Ignore()

        def visit(step: Step, layer: Layer, weight: Tensor, wanted: Sequence[bool]) -> Sequence[Tensor | None]:
            found.extend(layer.outer(weight.squeeze(2)))
            return layer.adjoint(self._algebra, weight, wanted=wanted, gradients=ignored)

        self._backward(w.unsqueeze(2), visit)
        yield from found

    def _backward(
        self, w: Tensor, visit: Callable[[Step, Layer, Tensor, Sequence[bool]], Sequence[Tensor | None]]
    ) -> None:
        weights: dict[int, Tensor] = {len(self._steps): w}
        for place in range(len(self._steps), 0, -1):
            step, weight = self._steps[place - 1], weights.pop(place, None)
            if weight is None or not step.trainable:
                continue
            wanted = [i > 0 and self._steps[i - 1].trainable for i in step.inputs]
            for i, part in zip(step.inputs, visit(step, self._layers[place - 1], weight, wanted), strict=True):
                if part is not None:
                    weights[i] = weights[i] + part if i in weights else part


class _Ignore(dict):  # type: ignore[type-arg]
    """Gradients that nobody wants."""

    def __missing__(self, key: str) -> float:
        return 0.0

    def __setitem__(self, key: str, value: object) -> None:
        return None
