"""hessian-eigenthings: its GGN operator; it has no block product, so blocks are a loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from precondlab.bench.ways.network import TorchWay, module

__all__ = ["CrossEntropy"]


class CrossEntropy(TorchWay):
    """``GGNOperator`` of a classifier with mean cross-entropy, one batch."""

    def setup(self) -> None:
        from hessian_eigenthings import (  # pyright: ignore[reportMissingImports]
            GGNOperator,
            supervised_forward,
            supervised_loss_of_output,
        )

        data = [(torch.from_numpy(self.inputs.points), torch.from_numpy(self.inputs.labels))]
        loss = supervised_loss_of_output(nn.CrossEntropyLoss())
        self.G = GGNOperator(module(self.inputs), data, supervised_forward, loss)

    def product(self, v: Tensor) -> Tensor:
        return self.G.matvec(v)

    def block(self, V: Tensor) -> Tensor:
        return torch.stack([self.G.matvec(v) for v in V.T.contiguous()], dim=1)
