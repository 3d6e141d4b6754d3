"""curvlinops: its GGN with SciPy's ``eigsh``, which its documentation shows, and its spectral density."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn

from precondlab.bench.inputs import Inputs
from precondlab.bench.ways.network import Rows, all_points
from precondlab.bench.ways.spectral.computation import Computation
from precondlab.bench.ways.spectral.plain import classifier, summary

__all__ = ["Density", "Lanczos", "Top"]


class _Curvlinops(Computation):
    """The operator of the case: of a classifier, or of residual rows with the sum of squares, then ``2 JᵀJ``."""

    def __init__(self, inputs: Inputs | None, **options: Any) -> None:
        super().__init__(inputs, **options)
        torch.set_num_threads(1)
        self.dtype = options.get("dtype", "float64")
        if self.inputs.case.task == "classification":
            self.model, data = classifier(self.inputs, self.dtype)
            self.loss, self.scale = nn.CrossEntropyLoss(reduction="mean"), 1.0
        else:
            self.model, x = Rows(self.inputs), all_points(self.inputs)
            data = x, torch.zeros(len(x), 1, dtype=x.dtype)
            self.loss, self.scale = nn.MSELoss(reduction="sum"), 0.5
        self.data = [data]

    def operator(self) -> Any:
        from curvlinops import GGNLinearOperator  # pyright: ignore[reportMissingImports]

        budget = self.budget

        class Counted(GGNLinearOperator):
            def _matmat(self, M: Any) -> Any:
                budget.spend(M[0].shape[-1])
                return super()._matmat(M)

        params = [p for p in self.model.parameters() if p.requires_grad]
        return Counted(self.model, self.loss, params, self.data, check_deterministic=False)


class Top(_Curvlinops):
    """``eigsh(G.to_scipy())``; options ``count`` and ``tol``."""

    def run(self) -> dict[str, Any]:
        G: LinearOperator = self.operator().to_scipy(dtype=np.dtype(self.dtype))
        v0 = np.random.default_rng(0).standard_normal(G.shape[0]).astype(self.dtype)
        count, tol = self.options["count"], self.options["tol"]
        values, _ = eigsh(G, count, which="LA", tol=tol, v0=v0)
        return {"values": (self.scale * np.sort(values)).tolist()}


class Density(_Curvlinops):
    """``lanczos_approximate_spectrum``, which first finds both ends by ``eigsh``; option ``steps``."""

    def run(self) -> dict[str, Any]:
        from curvlinops.papyan2020traces.spectrum import lanczos_approximate_spectrum  # pyright: ignore[reportMissingImports]

        torch.manual_seed(0)
        grid, density = lanczos_approximate_spectrum(self.operator(), self.options["steps"])
        grid, density = grid.double(), density.double()
        return {"mean": (torch.trapezoid(grid * density, grid) / torch.trapezoid(density, grid)).item()}


class Lanczos(_Curvlinops):
    """``fast_lanczos``, the recurrence of its density alone; option ``steps``."""

    def run(self) -> dict[str, Any]:
        from curvlinops.papyan2020traces.spectrum import fast_lanczos  # pyright: ignore[reportMissingImports]

        torch.manual_seed(0)
        nodes, Y = fast_lanczos(self.operator(), self.options["steps"])
        return summary(nodes.double().numpy(), Y[0].double().numpy() ** 2)
