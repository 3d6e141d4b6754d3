"""What the ablation tries: four problems, and every preconditioner of the library on each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from precondlab import models, problems
from precondlab.krylov import cg
from precondlab.map import Map
from precondlab.models.fourier import FourierSeries
from precondlab.operator import Operator
from precondlab.operators import Gram, Hessian, Identity, Jacobian, VStack
from precondlab.preconditioners import (
    additive,
    block_jacobi,
    blockwise,
    chebyshev,
    deflation,
    frozen,
    jacobi,
    kfac,
    lanczos_polynomial,
    lbfgs,
    mass_stiffness,
    multiplicative,
    nested,
    nystrom,
    nystrom_adaptive,
    pivoted_cholesky,
    saddle_free,
    schwarz,
    sketch,
    subdomains,
    symbol,
    two_level,
)
from precondlab.problems import Problem
from precondlab.spectrum import condition, eigsh

__all__ = ["CASES", "METHODS", "Case", "Start"]

_RANK = 20  # pairs, columns, steps of methods that keep some
_DEGREE = 4  # of polynomials


@dataclass(frozen=True)
class Case:
    """A problem, a model at its start, points, the loss wanted (over the first), steps allowed, and μ/λ_max."""

    name: str
    problem: Problem
    model: Callable[[], nn.Module]
    interior: int | tuple[int, ...]
    boundary: int
    wanted: float
    limit: int
    damping: float

    @property
    def linear(self) -> bool:
        """Whether the residual is affine in the parameters."""
        return self.problem.linear and isinstance(self.model(), FourierSeries)

    def residual(self, model: nn.Module) -> Map:
        """Return the residual on fixed quadrature points."""
        return self.problem.residual(model, interior=self.interior, boundary=self.boundary)


@dataclass(frozen=True)
class Start:
    """What a preconditioner is made from: J at a point, ``A = JᵀJ`` and a damping μ."""

    problem: Problem
    model: nn.Module
    J: Jacobian
    damping: float

    @cached_property
    def A(self) -> Gram:
        """``JᵀJ``."""
        return Gram(self.J)

    @cached_property
    def damped(self) -> Gram:
        """``A + μI``, with its factor."""
        return Gram(VStack(self.J, math.sqrt(self.damping) * Identity(self.A.domain)))

    @cached_property
    def hessian(self) -> Hessian:
        """That of ``½‖r‖²``."""
        return Hessian.of_residual(self.J.map, at=self.J.at)

    @property
    def products(self) -> int:
        """Products with A, ``A + μI`` or the Hessian so far."""
        return self.A.num_matvecs + self.damped.num_matvecs + self.hessian.num_matvecs


def _series(problem: Problem, frequencies: int | tuple[int, ...]) -> FourierSeries:
    """Return a Fourier series whose waves all have a share in the residual."""
    model = models.fourier(frequencies, domain=problem.domain)
    size = 1 + model.wavevectors.norm(dim=1)
    noise = torch.randn(len(size), generator=torch.Generator().manual_seed(0), dtype=size.dtype)
    with torch.no_grad():
        model.coefficients.copy_(noise / size)
    return model


_LINE, _SQUARE, _STREAM = problems.poisson(1), problems.poisson(2), problems.advection(2 * math.pi)


def _mlp() -> nn.Module:
    return models.mlp((1, 10, 10, 1), seed=0)


def _features() -> nn.Module:
    return models.fourier_mlp(4, (8,), seed=0)


CASES = (
    Case("Poisson 2-d, Fourier series", _SQUARE, lambda: _series(_SQUARE, 3), (16, 16), 16, 1e-3, 2500, 1e-8),
    Case("advection, Fourier series", _STREAM, lambda: _series(_STREAM, (4, 2)), (20, 20), 20, 1e-3, 2500, 1e-8),
    Case("Poisson 1-d, tanh MLP", _LINE, _mlp, 60, 2, 3e-2, 1000, 1e-4),
    Case("Poisson 1-d, Fourier-feature MLP", _LINE, _features, 60, 2, 1e-2, 1000, 1e-4),
)


def _top(start: Start) -> tuple[Tensor, Tensor]:
    A = start.damped
    found = eigsh(A, min(_RANK, A.shape[0] // 2), which="LA", tol=1e-3)
    return torch.as_tensor(found.values), found.vectors


def _chebyshev(start: Start) -> Operator:
    largest = float(eigsh(start.damped, 1, which="LA", tol=1e-3).values[0])
    return chebyshev(start.damped, degree=_DEGREE, interval=(1e-3 * largest, 1.01 * largest))


def _pairs(start: Start) -> Operator:
    """Return the quasi-Newton operator of the last steps of conjugate gradients."""
    A = start.damped
    points: list[Tensor] = [A.domain.zeros()]
    b = A.forward(A.domain.random(1, generator=torch.Generator().manual_seed(2)))[:, 0]
    cg(A, b, rtol=0.0, maxiter=_RANK, callback=lambda x: points.append(x.clone()))
    steps = torch.stack(points, dim=1).diff(dim=1)
    return lbfgs(steps, A.forward(steps))


def _schwarz(start: Start) -> Operator:
    """Overlap bands of frequencies; or, without a coarse space, parameters of a network in the order they are kept."""
    if isinstance(start.model, FourierSeries):
        waves = start.model.wavevectors
        bands = subdomains(waves, (3,) + (1,) * (waves.shape[1] - 1), overlap=0.2)
        return schwarz(start.A, bands, damping=start.damping)
    order = torch.arange(start.A.shape[0]).double()[:, None]
    return schwarz(start.A, subdomains(order, (3,), overlap=0.2), coarse=None, damping=start.damping)


def _multiplicative(start: Start) -> Operator:
    parts = jacobi(start.A, damping=start.damping), nystrom(start.A, rank=_rank(start), damping=start.damping)
    return multiplicative(start.damped, *((1 / condition(start.damped, preconditioner=M).largest) * M for M in parts))


def _rank(start: Start) -> int:
    return min(_RANK, start.A.shape[0] // 2)


#: Name of a factory → its preconditioner.
METHODS: Mapping[str, Callable[[Start], Operator]] = {
    "none": lambda start: Identity(start.A.domain),
    "jacobi": lambda start: jacobi(start.A, damping=start.damping),
    "block_jacobi": lambda start: block_jacobi(start.A, damping=start.damping),
    "blockwise": lambda start: blockwise(start.damped, lambda A: nystrom(A, rank=max(1, A.shape[0] // 4))),
    "saddle_free": lambda start: saddle_free(start.hessian, rank=_rank(start), damping=start.damping),
    "schwarz": _schwarz,
    "symbol": lambda start: symbol(start.problem, start.model),  # type: ignore[arg-type]
    "frozen": lambda start: frozen(start.problem, start.model),  # type: ignore[arg-type]
    "mass_stiffness": lambda start: mass_stiffness(start.problem, start.model, damping=1e-8),
    "kfac": lambda start: kfac(start.A, damping=start.damping),
    "nystrom": lambda start: nystrom(start.A, rank=_rank(start), damping=start.damping),
    "nystrom_adaptive": lambda start: nystrom_adaptive(start.A, rank=8, damping=start.damping),
    "pivoted_cholesky": lambda start: pivoted_cholesky(start.A, rank=_rank(start)),
    "sketch": lambda start: sketch(start.damped.J),
    "deflation": lambda start: deflation(*_top(start)),
    "two_level": lambda start: two_level(start.damped, jacobi(start.A, damping=start.damping), _top(start)[1]),
    "nested": lambda start: nested(
        start.damped, jacobi(start.A, damping=start.damping), lambda A: nystrom(A, rank=_rank(start))
    ),
    "additive": lambda start: additive(
        jacobi(start.A, damping=start.damping), nystrom(start.A, rank=_rank(start), damping=start.damping)
    ),
    "multiplicative": _multiplicative,
    "lbfgs": _pairs,
    "chebyshev": _chebyshev,
    "lanczos_polynomial": lambda start: lanczos_polynomial(start.damped, degree=_DEGREE),
}
