"""Tangents of convolutions by a retained graph, without what torch computes for nobody."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["spare_convolutions"]


def spare_convolutions(nodes: Iterable[Any]) -> None:
    """Let nodes of the graph of ``w ↦ Jᵀw`` compute the tangents ``W ∗ ẋ + Ẇ ∗ x + ḃ`` of convolutions, and no more.

    Walked backwards, the gradient of a convolution also gives adjoints of x and W, which belong to second derivatives:
    two convolutions more, that torch makes whether something takes them or not.
    """
    for node in nodes:
        if node.name() == "ConvolutionBackwardBackward0" and not node._saved_transposed:
            _Spared(node)


class _Spared:
    """Hooks around a node that keep from it all tangents but one, and add what is missing afterwards.

    One stays, for torch takes no result where it had none: that of the bias or, without a bias, of the weight.
    """

    def __init__(self, node: Any) -> None:
        self._x, self._weight = node._saved_input.detach(), node._saved_weight.detach()
        self._places = node._saved_stride, node._saved_padding, node._saved_dilation, False
        self._groups = node._saved_output_padding, node._saved_groups
        self._kept: dict[int, tuple[Tensor | None, Tensor | None]] = {}  # thread → ẋ and Ẇ that the node does not see
        node.register_prehook(self._before)
        node.register_hook(self._after)

    def _before(self, tangents: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        dx, dW, db = tangents
        kept = (dx, dW) if db is not None else (dx, None) if dW is not None else (None, None)
        self._kept[threading.get_ident()] = kept
        return tuple(None if any(t is tangent for tangent in kept) else t for t in tangents)

    def _after(self, adjoints: tuple[Tensor | None, ...], tangents: Any) -> tuple[Tensor | None, ...]:
        (dx, dW), others = self._kept.pop(threading.get_ident()), adjoints[1:]
        moved = cast(Tensor, adjoints[0])
        if dx is not None:
            moved = moved + self._convolution(dx, self._weight)
        if dW is not None:
            moved = moved + self._convolution(self._x, dW)
        return (moved, *others)

    def _convolution(self, x: Tensor, weight: Tensor) -> Tensor:
        return torch.convolution(x, weight, None, *self._places, *self._groups)
