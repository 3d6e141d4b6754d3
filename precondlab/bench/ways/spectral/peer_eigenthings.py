"""hessian-eigenthings: its Lanczos method and its spectral density."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from precondlab.bench.inputs import Inputs
from precondlab.bench.ways.network import Rows, all_points
from precondlab.bench.ways.spectral.computation import Computation
from precondlab.bench.ways.spectral.fourier import FourierPoisson
from precondlab.bench.ways.spectral.plain import classifier, summary

__all__ = ["Density", "Kappa", "Top"]

_STEPS = 1000  # of Lanczos at most: the basis is kept, and its method is not restarted


class Kappa(Computation):
    """``lanczos`` of the hidden Fourier problem at both ends, fully orthogonalized."""

    def run(self) -> dict[str, Any]:
        from hessian_eigenthings.algorithms.lanczos import lanczos  # pyright: ignore[reportMissingImports]
        from hessian_eigenthings.operators.base import LambdaOperator  # pyright: ignore[reportMissingImports]

        problem = FourierPoisson(self.options["K"], self.budget)

        def product(v: Tensor) -> Tensor:
            return torch.from_numpy(problem.product(v.numpy()))

        A = LambdaOperator(product, problem.size, dtype=torch.float64)
        options = {"k": 1, "max_iter": min(problem.size, _STEPS), "reorthogonalize": True, "seed": 0}
        small, large = (lanczos(A, which=which, **options) for which in ("SA", "LA"))
        doubt = (
            {} if bool(small.converged.all() and large.converged.all()) else {"doubt": "its flag converged is False"}
        )
        return {"value": (large.eigenvalues[0] / small.eigenvalues[0]).item()} | doubt


class _Eigenthings(Computation):
    def __init__(self, inputs: Inputs | None, **options: Any) -> None:
        super().__init__(inputs, **options)
        torch.set_num_threads(1)
        if self.inputs.case.task == "classification":
            self.model, data = classifier(self.inputs, options.get("dtype", "float64"))
            self.loss, self.scale = nn.CrossEntropyLoss(), 1.0
        else:
            self.model, x = Rows(self.inputs), all_points(self.inputs)
            data = x, torch.zeros(len(x), 1, dtype=x.dtype)
            self.loss, self.scale = nn.MSELoss(reduction="sum"), 0.5
        self.data = [data]

    def operator(self) -> Any:
        from hessian_eigenthings import (  # pyright: ignore[reportMissingImports]
            GGNOperator,
            supervised_forward,
            supervised_loss_of_output,
        )

        budget = self.budget

        class Counted(GGNOperator):
            def matvec(self, v: Tensor) -> Tensor:
                budget.spend()
                return super().matvec(v)

        for parameter in self.model.parameters():
            parameter.requires_grad_(True)
        return Counted(self.model, self.data, supervised_forward, supervised_loss_of_output(self.loss))


class Top(_Eigenthings):
    """``lanczos``, not restarted: options ``count``, ``tol``, and the number of ``steps`` that suffices."""

    def run(self) -> dict[str, Any]:
        from hessian_eigenthings.algorithms.lanczos import lanczos  # pyright: ignore[reportMissingImports]

        steps, tol = self.options["steps"], self.options["tol"]
        found = lanczos(self.operator(), k=self.options["count"], max_iter=steps, tol=tol, which="LA", seed=0)
        values = self.scale * np.sort(found.eigenvalues.double().numpy())
        doubt = {} if bool(found.converged.all()) else {"doubt": "its flag converged is False"}
        return {"values": values.tolist()} | doubt


class Density(_Eigenthings):
    """``spectral_density`` with one run; option ``steps``."""

    def run(self) -> dict[str, Any]:
        from hessian_eigenthings.algorithms.spectral_density import spectral_density  # pyright: ignore[reportMissingImports]

        found = spectral_density(self.operator(), num_runs=1, lanczos_steps=self.options["steps"], seed=0)
        return summary(found.raw_eigenvalues[0].double().numpy(), found.raw_weights[0].double().numpy())
