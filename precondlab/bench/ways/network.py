"""The residual in plain torch, as a user of ``torch.func`` writes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from precondlab.bench.inputs import Inputs
from precondlab.bench.ways.models import module
from precondlab.bench.ways.way import Way

__all__ = ["Rows", "TorchWay", "flatten", "module", "residual", "unflatten"]

Params = dict[str, Tensor]


class Rows(nn.Module):
    """The residual rows that depend on θ, ``[N + N_b, 1]``: ``−√w Δu`` inside, ``√w u`` on the boundary.

    The Laplacian is the trace of a nested ``jacrev`` of one point, vmapped over the points.
    """

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.net = module(inputs)
        self.interior = len(inputs.points)
        scale = np.concatenate([inputs.scale, inputs.boundary_scale])
        self.scale = torch.from_numpy(scale)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        inside, edge = x[: self.interior], x[self.interior :]
        return torch.cat([-vmap(self.laplacian)(inside)[:, None], self.net(edge)]) * self.scale

    def laplacian(self, x: Tensor) -> Tensor:
        return jacrev(jacrev(lambda x: self.net(x)[0]))(x).trace()


def all_points(inputs: Inputs) -> Tensor:
    """Return interior and boundary points in one tensor."""
    return torch.from_numpy(np.concatenate([inputs.points, inputs.boundary]))


def residual(inputs: Inputs) -> tuple[Callable[[Params], Tensor], Params]:
    """Return the function params ↦ rows ``[m]``, and the parameters."""
    rows, x = Rows(inputs), all_points(inputs)
    params = {name: value.detach() for name, value in rows.named_parameters()}
    return (lambda p: functional_call(rows, p, (x,))[:, 0]), params


def flatten(tree: Params) -> Tensor:
    """Return a dict of tensors as one vector."""
    return torch.cat([value.reshape(-1) for value in tree.values()])


def unflatten(v: Tensor, like: Params) -> Params:
    """Return a vector as a dict of tensors."""
    parts = v.split([value.numel() for value in like.values()])
    return {name: part.view(value.shape) for (name, value), part in zip(like.items(), parts, strict=True)}


class TorchWay(Way[Tensor]):
    """A way whose arrays are torch tensors."""

    def __init__(self, inputs: Inputs, **options: Any) -> None:
        super().__init__(inputs, **options)
        torch.set_num_threads(1)

    def enter(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array)

    def leave(self, array: Tensor) -> np.ndarray:
        return array.detach().numpy()
