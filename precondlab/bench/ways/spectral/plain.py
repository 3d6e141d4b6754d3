"""Plain loops and dense matrices, as a user without any of the libraries writes them; what others are checked by."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp

from precondlab.bench.inputs import Inputs
from precondlab.bench.ways.dense import Formed
from precondlab.bench.ways.network import flatten, module, unflatten
from precondlab.bench.ways.spectral.computation import Computation

__all__ = ["DenseTop", "Density", "Trace", "classifier", "summary"]


def classifier(inputs: Inputs, dtype: str) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Return network, and its inputs and labels, in a dtype given by its name."""
    kind = getattr(torch, dtype)
    data = torch.from_numpy(inputs.points).to(kind), torch.from_numpy(inputs.labels)
    return module(inputs).to(kind), data


def summary(nodes: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Return what is compared of a density: the mean eigenvalue and the largest node."""
    return {"mean": float(nodes @ weights / weights.sum()), "largest": float(nodes.max())}


class DenseTop(Computation):
    """The largest eigenvalues of ``JJᵀ`` from a dense J of per-point gradients."""

    def run(self) -> dict[str, Any]:
        formed = Formed(self.inputs)
        formed.setup()
        values = torch.linalg.eigvalsh(formed.J @ formed.J.T)
        return {"values": values[-self.options["count"] :].tolist()}


class _GGN(Computation):
    """``G v`` of the mean cross-entropy: ``jvp``, softmax curvature, and one kept ``vjp``."""

    def __init__(self, inputs: Inputs | None, **options: Any) -> None:
        super().__init__(inputs, **options)
        torch.set_num_threads(1)
        self.model, (self.x, _) = classifier(self.inputs, options.get("dtype", "float64"))

    def linearize(self) -> None:
        self.params = {name: value.detach() for name, value in self.model.named_parameters()}

        def outputs(params: dict[str, Tensor]) -> Tensor:
            return functional_call(self.model, params, (self.x,))

        self.outputs = outputs
        logits, self.pull = vjp(outputs, self.params)[:2]
        self.p = torch.softmax(logits, dim=1)

    def product(self, v: Tensor) -> Tensor:
        self.budget.spend()
        moved = jvp(self.outputs, (self.params,), (unflatten(v, self.params),))[1]
        curved = self.p * (moved - (self.p * moved).sum(1, keepdim=True)) / len(self.x)
        return flatten(self.pull(curved)[0])

    def random(self, seed: int) -> Tensor:
        n = sum(value.numel() for value in self.params.values())
        return torch.randn(n, dtype=self.x.dtype, generator=torch.Generator().manual_seed(seed))


class Density(_GGN):
    """The Lanczos recurrence in ten lines, without orthogonalization; option ``steps``."""

    def run(self) -> dict[str, Any]:
        self.linearize()
        q, before, beta = self.random(0), torch.zeros(()), torch.zeros(())
        q = q / q.norm()
        alphas, betas = [], []
        for _ in range(self.options["steps"]):
            w = self.product(q) - beta * before
            alphas.append(alpha := q @ w)
            w -= alpha * q
            betas.append(beta := w.norm())
            before, q = q, w / beta
        T = torch.stack(alphas).diag() + torch.stack(betas[:-1]).diag(1) + torch.stack(betas[:-1]).diag(-1)
        nodes, Y = torch.linalg.eigh(T.double())
        return summary(nodes.numpy(), Y[0].numpy() ** 2)


class Trace(_GGN):
    """The mean eigenvalue by Hutchinson's estimator with ``probes`` normal vectors, and its standard error."""

    def run(self) -> dict[str, Any]:
        self.linearize()
        found = []
        for seed in range(1, self.options["probes"] + 1):
            v = self.random(seed)
            found.append((v @ self.product(v) / len(v)).item())
        return {"mean": float(np.mean(found)), "stderr": float(np.std(found, ddof=1) / len(found) ** 0.5)}
