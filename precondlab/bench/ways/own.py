"""precondlab, as its user writes it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from precondlab.bench.ways.network import TorchWay, module
from precondlab.bench.ways.way import NotAvailable
from precondlab.differentiation import ROUTES
from precondlab.errors import WrongDerivative
from precondlab.map import Map
from precondlab.operators import GGN, Gram, Jacobian
from precondlab.problems import Problem, poisson
from precondlab.symbol import Symbol

__all__ = ["Classifier", "Planned", "Residual"]


class _Own(TorchWay):
    """Options are those of :class:`precondlab.operators.Jacobian`."""

    J: Jacobian

    def map(self) -> Map:
        raise NotImplementedError

    def setup(self) -> None:
        route = self.options.get("route", "auto")
        if route not in ("auto", *ROUTES):
            raise NotAvailable(f"this version has no route {route!r}; it has {', '.join(ROUTES)}")
        try:
            self.J = Jacobian(self.map(), **self.options)
        except WrongDerivative as error:  # the route refuses this residual; the default falls back to another
            if route == "auto":
                raise
            raise NotAvailable(str(error)) from error

    def describe(self) -> str:
        return repr(self.J)


class Residual(_Own):
    """``Gram(Jacobian(problem.residual(model)))``."""

    def map(self) -> Map:
        case, model = self.inputs.case, module(self.inputs)
        if case.task == "derivative":
            return derivative(case.order).residual(model, interior=case.points)
        return poisson(dim=case.sizes[0]).residual(model, interior=case.points, boundary=case.boundary)

    def setup(self) -> None:
        super().setup()
        self.A = Gram(self.J)

    def product(self, v: Tensor) -> Tensor:
        return self.A @ v

    def block(self, V: Tensor) -> Tensor:
        return self.A @ V


class Planned(Residual):
    """The same, with J formed if its plan for 100 products says so."""

    def setup(self) -> None:
        super().setup()
        if self.J.plan(num_matvecs=100).way == "dense":
            self.J = self.J.formed()
            self.A = Gram(self.J)


class Classifier(TorchWay):
    """``pl.GGN`` of the mean cross-entropy."""

    def setup(self) -> None:
        targets = torch.from_numpy(self.inputs.labels)
        data = torch.from_numpy(self.inputs.points), targets
        self.G = GGN(module(self.inputs), torch.nn.CrossEntropyLoss(), data, **self.options)

    def describe(self) -> str:
        return repr(self.G)

    def product(self, v: Tensor) -> Tensor:
        return self.G @ v

    def block(self, V: Tensor) -> Tensor:
        return self.G @ V


def derivative(order: int) -> Problem:
    """Return ``∂^order u = 0`` on (−π, π), without conditions."""
    return Problem("derivative", ((-math.pi, math.pi),), Symbol.derivative(order), (), source=torch.zeros_like)
