"""Layers without parameters that sum, join and select columns, or do not depend on parameters at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from precondlab.differentiation.jets.algebra import JetAlgebra
from precondlab.differentiation.jets.layers import Channelwise, Layer, Params, summed
from precondlab.differentiation.jets.sparse import Jet

__all__ = ["Concatenate", "Fixed", "Select", "Sum"]


@dataclass
class Sum(Channelwise):
    """``x ↦ Σ_j x_j``, or its mean, as one column."""

    mean: bool

    def primal(self, algebra: JetAlgebra, *inputs: Tensor) -> Tensor:
        self.width = inputs[0].shape[-1]
        return self._reduce(inputs[0])

    def tangent(self, algebra: JetAlgebra, *tangents: Tensor | None, params: Params) -> Tensor | None:
        return None if tangents[0] is None else self._reduce(tangents[0])

    def adjoint(
        self, algebra: JetAlgebra, w: Tensor, *, wanted: Sequence[bool], gradients: Params
    ) -> Sequence[Tensor | None]:
        return [(w / self.width if self.mean else w).expand(*w.shape[:-1], self.width) if wanted[0] else None]

    def some(self, algebra: JetAlgebra, wanted: Iterable[int], *inputs: Jet) -> Jet:
        (X,) = inputs
        return {k: X[k].mean(-1, True) if self.mean else X[k].sum(-1, True) for k in wanted if k in X}

    def _reduce(self, x: Tensor) -> Tensor:
        return summed(x) / self.width if self.mean else summed(x)


class Concatenate(Channelwise):
    """Side by side in the last axis."""

    def primal(self, algebra: JetAlgebra, *inputs: Tensor) -> Tensor:
        self.widths = [x.shape[-1] for x in inputs]
        return torch.cat(inputs, dim=-1)

    def tangent(self, algebra: JetAlgebra, *tangents: Tensor | None, params: Params) -> Tensor | None:
        like = next((t for t in tangents if t is not None), None)
        if like is None:
            return None
        parts = [
            like.new_zeros(*like.shape[:-1], width) if t is None else t
            for t, width in zip(tangents, self.widths, strict=True)
        ]
        return torch.cat(parts, dim=-1)

    def adjoint(
        self, algebra: JetAlgebra, w: Tensor, *, wanted: Sequence[bool], gradients: Params
    ) -> Sequence[Tensor | None]:
        pieces = w.split(self.widths, dim=-1)
        return [piece if want else None for piece, want in zip(pieces, wanted, strict=True)]

    def some(self, algebra: JetAlgebra, wanted: Iterable[int], *inputs: Jet) -> Jet:
        result = {}
        for k in (k for k in wanted if any(k in jet for jet in inputs)):
            parts = [jet[k] if k in jet else jet[0].new_zeros(1, jet[0].shape[1]) for jet in inputs]
            N = max(map(len, parts))
            result[k] = torch.cat([part.T.expand(-1, N) for part in parts]).T  # points last
        return result


@dataclass
class Select(Channelwise):
    """Some columns of the last axis."""

    columns: slice

    def primal(self, algebra: JetAlgebra, *inputs: Tensor) -> Tensor:
        self.width = inputs[0].shape[-1]
        return inputs[0][..., self.columns]

    def tangent(self, algebra: JetAlgebra, *tangents: Tensor | None, params: Params) -> Tensor | None:
        return None if tangents[0] is None else tangents[0][..., self.columns]

    def adjoint(
        self, algebra: JetAlgebra, w: Tensor, *, wanted: Sequence[bool], gradients: Params
    ) -> Sequence[Tensor | None]:
        if not wanted[0]:
            return [None]
        full = w.new_zeros(*w.shape[:-1], self.width)
        full[..., self.columns] = w
        return [full]

    def some(self, algebra: JetAlgebra, wanted: Iterable[int], *inputs: Jet) -> Jet:
        return {k: inputs[0][k][:, self.columns] for k in wanted if k in inputs[0]}


@dataclass
class Fixed(Layer):
    """A function of x alone, given by its jets: features, masks, lifts."""

    jets: Callable[[JetAlgebra, Tensor], Tensor]

    def primal(self, algebra: JetAlgebra, *inputs: Tensor) -> Tensor:
        return self.jets(algebra, inputs[0][0])

    def tangent(self, algebra: JetAlgebra, *tangents: Tensor | None, params: Params) -> Tensor | None:
        return None

    def adjoint(
        self, algebra: JetAlgebra, w: Tensor, *, wanted: Sequence[bool], gradients: Params
    ) -> Sequence[Tensor | None]:
        return [None]

    def channels(self, algebra: JetAlgebra, wanted: Iterable[int]) -> Iterable[int]:
        return (0,)

    def some(self, algebra: JetAlgebra, wanted: Iterable[int], *inputs: Jet) -> Jet:
        jets = self.jets(algebra, inputs[0][0])
        return {k: jets[k].T.contiguous().T for k in wanted}  # points last
