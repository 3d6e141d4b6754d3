"""precondlab, as its user writes it."""

from __future__ import annotations

from typing import Any

import torch

from precondlab.bench.inputs import Inputs
from precondlab.bench.ways.network import module
from precondlab.bench.ways.spectral.computation import Computation
from precondlab.bench.ways.spectral.fourier import FourierPoisson
from precondlab.bench.ways.spectral.plain import classifier, summary
from precondlab.krylov import KrylovSchur
from precondlab.operator import Operator
from precondlab.operators import GGN, Dense, Diagonal, Gram, Jacobian, VStack
from precondlab.problems import poisson
from precondlab.spectrum import condition, eigsh, spectral_density
from precondlab.testing.gallery.factors import Reflections

__all__ = ["ClassifierDensity", "ClassifierTop", "Kappa", "PoissonTop", "SyntheticDensity", "SyntheticTop"]


class _Own(Computation):
    def __init__(self, inputs: Inputs | None, **options: Any) -> None:
        super().__init__(inputs, **options)
        torch.set_num_threads(1)

    def top(self, A: Operator) -> dict[str, Any]:
        """Options: ``count``, ``tol``, and those of ``eigsh`` in ``solver``."""
        basis = 0.0

        def look(K: KrylovSchur) -> None:
            nonlocal basis
            basis = (K.basis.size + K.basis.room) * A.domain.size * A.domain.dtype.itemsize / 1e6

        count, tol, solver = self.options["count"], self.options["tol"], self.options.get("solver", {})
        found = eigsh(A, count, which="LA", tol=tol, callback=look, **solver)
        doubt = {} if found.status.ok else {"doubt": found.status.advice}
        return {
            "values": found.values.tolist(),
            "products": found.num_matvecs,
            "basis_mb": basis,
            "detail": repr(A),
        } | doubt

    def density(self, A: Operator) -> dict[str, Any]:
        """Options: ``steps``."""
        found = spectral_density(A, num_matvecs=self.options["steps"], num_probes=1)
        return summary(found.nodes, found.weights) | {"products": found.num_matvecs, "detail": repr(A)}


class Kappa(_Own):
    """``condition(A, approximate_inverse=M)`` of the hidden Fourier problem; options ``K``, ``num_matvecs``."""

    def run(self) -> dict[str, Any]:
        problem = FourierPoisson(self.options["K"], self.budget)
        entries, row, near = map(torch.from_numpy, (problem.entries, problem.condition, problem.near))
        R = Reflections(torch.from_numpy(problem.reflections[::-1].T.copy()))
        A = Gram(VStack(Diagonal(entries), Dense(row[None])) @ R)
        found = condition(A, approximate_inverse=R.H @ Diagonal(near) @ R, num_matvecs=self.options.get("num_matvecs"))
        doubt = {} if found.status.ok else {"doubt": found.status.advice}
        interval = {"lower": found.lower, "upper": found.upper}
        return {"value": found.estimate, "products": found.num_matvecs, "interval": interval} | doubt


class PoissonTop(_Own):
    """``eigsh(Gram(Jacobian(problem.residual(model))))``."""

    def __init__(self, inputs: Inputs | None, **options: Any) -> None:
        super().__init__(inputs, **options)
        self.model = module(self.inputs)

    def run(self) -> dict[str, Any]:
        case = self.inputs.case
        residual = poisson(dim=case.sizes[0]).residual(self.model, interior=case.points, boundary=case.boundary)
        return self.top(Gram(Jacobian(residual)))


class _Classifier(_Own):
    """Options: ``dtype``."""

    def __init__(self, inputs: Inputs | None, **options: Any) -> None:
        super().__init__(inputs, **options)
        self.model, self.data = classifier(self.inputs, options.get("dtype", "float64"))

    def ggn(self) -> GGN:
        return GGN(self.model, torch.nn.CrossEntropyLoss(), self.data)


class ClassifierTop(_Classifier):
    """``eigsh(GGN(model, loss, data))``."""

    def run(self) -> dict[str, Any]:
        return self.top(self.ggn())


class ClassifierDensity(_Classifier):
    """``spectral_density(GGN(model, loss, data))``."""

    def run(self) -> dict[str, Any]:
        return self.density(self.ggn())


class _Synthetic(_Own):
    """``Q diag(i^−decay) Qᵀ`` of a given size, Q one reflection: as large as a network, and cheap."""

    def __init__(self, inputs: Inputs | None, **options: Any) -> None:
        super().__init__(inputs, **options)
        n = options["size"]
        values = torch.arange(1, n + 1, dtype=torch.float64) ** -options["decay"]
        Q = Reflections(torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
        self.A = Q @ Diagonal(values) @ Q.H


class SyntheticTop(_Synthetic):
    def run(self) -> dict[str, Any]:
        return self.top(self.A)


class SyntheticDensity(_Synthetic):
    def run(self) -> dict[str, Any]:
        return self.density(self.A)
