"""curvlinops: its GGN of the residual as a model with squared loss, its Jacobians, and its GGN of a classifier.

Interior and boundary are one model: of the interior term alone, which does not depend on the last bias,
curvlinops 3.0.1 cannot multiply (torch's ``vmap`` returns garbage sizes for an unused parameter).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from precondlab.bench.ways.network import Rows, TorchWay, all_points, module

__all__ = ["CrossEntropy", "Jacobians", "SquaredLoss"]


class SquaredLoss(TorchWay):
    """``GGNLinearOperator`` with the sum of squares, whose curvature ``2 JᵀJ`` is halved."""

    def setup(self) -> None:
        from curvlinops import GGNLinearOperator  # pyright: ignore[reportMissingImports]

        rows, x = Rows(self.inputs), all_points(self.inputs)
        data = [(x, torch.zeros(len(x), 1, dtype=x.dtype))]
        params = [p for p in rows.parameters() if p.requires_grad]
        loss = nn.MSELoss(reduction="sum")
        self.G = GGNLinearOperator(rows, loss, params, data, check_deterministic=False)

    def product(self, v: Tensor) -> Tensor:
        return (self.G @ v) / 2

    def block(self, V: Tensor) -> Tensor:
        return self.product(V)


class Jacobians(TorchWay):
    """``TransposedJacobianLinearOperator @ (JacobianLinearOperator @ v)``."""

    def setup(self) -> None:
        from curvlinops import JacobianLinearOperator, TransposedJacobianLinearOperator  # pyright: ignore[reportMissingImports]

        rows, x = Rows(self.inputs), all_points(self.inputs)
        data = [(x, torch.zeros(len(x), 1, dtype=x.dtype))]
        params = [p for p in rows.parameters() if p.requires_grad]
        self.J = JacobianLinearOperator(rows, params, data, check_deterministic=False)
        self.JT = TransposedJacobianLinearOperator(rows, params, data, check_deterministic=False)

    def product(self, v: Tensor) -> Tensor:
        return self.JT @ (self.J @ v)

    def block(self, V: Tensor) -> Tensor:
        return self.product(V)


class CrossEntropy(TorchWay):
    """``GGNLinearOperator`` of a classifier with mean cross-entropy, one batch."""

    def setup(self) -> None:
        from curvlinops import GGNLinearOperator  # pyright: ignore[reportMissingImports]

        model = module(self.inputs)
        data = [(torch.from_numpy(self.inputs.points), torch.from_numpy(self.inputs.labels))]
        loss = nn.CrossEntropyLoss(reduction="mean")
        self.G = GGNLinearOperator(model, loss, list(model.parameters()), data, check_deterministic=False)

    def product(self, v: Tensor) -> Tensor:
        return self.G @ v

    def block(self, V: Tensor) -> Tensor:
        return self.product(V)
