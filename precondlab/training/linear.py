"""Linear models solved directly: truncated rank-revealing least squares, Newton's method for nonlinear equations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import lstsq
from torch import Tensor

from precondlab.errors import Status
from precondlab.map import Map
from precondlab.models.random_features import RandomFeatures, random_features
from precondlab.problems import Problem
from precondlab.training.rows import reduced_rows, routes, row_norms

__all__ = ["FeatureFit", "LinearFit", "LinearStatus", "equilibrated", "fit_features", "solve_linear"]

_LARGEST = 8192  # parameters; the least-squares problem then takes minutes
_HALVINGS = 12
_AGREEMENT = 1.5  # actual over predicted residual norm at which a linear model is solved
_ROWS = 3  # interior points per feature
_FACES = 16  # boundary points per √(features)
_PART = 3  # the scale is chosen with a third of the features
_COARSE = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
_LEAST = 1.0  # a sine of less than a third of a period is nearly a straight line
_FINER = (2.0, 2.0**0.5)
_FULL, _GROWTH = 0.9, 2.0**0.5  # rank over width below which the scale may grow, and by how much
_NEGLIGIBLE = 1e-12  # validation residual that needs no improvement
_NEWTON = 6  # iterations spent on a scale that is only tried


class LinearStatus(Status):
    """Outcome of :func:`solve_linear`."""

    OK = "the residual is the smallest that the model reaches at working precision"
    ITERATIONS = "Newton's method still reduces the residual: raise maxiter"
    NO_DESCENT = "the Newton step does not reduce the residual: start nearer to the solution, or use LevenbergMarquardt"


@dataclass(frozen=True)
class LinearFit:
    """Result of :func:`solve_linear`.

    Attributes
    ----------
    loss
        ``½‖r‖²`` at the solution.
    rank
        Numerical rank of J.
    iterations
        Least-squares problems solved; 1 for a linear residual.
    status
        What happened and what to do.
    """

    loss: float
    rank: int
    iterations: int
    status: LinearStatus


@torch.no_grad()
def solve_linear(
    residual: Map,
    *,
    rcond: float | None = None,
    maxiter: int = 20,
    memory_budget: int = 2**30,
    known: Mapping[str, str] | None = None,
) -> LinearFit:
    """Minimize ``½‖r(θ)‖²`` by the minimum-norm least-squares solution of ``Jδ = −r``, repeated if r is nonlinear.

    J is reduced by QR, a part of its rows at a time, and the problem solved by a complete orthogonal
    factorization with column pivoting (LAPACK gelsy), so that linearly dependent features do no harm and
    JᵀJ is never formed. Steps of nonlinear residuals are halved until the loss falls.

    Parameters
    ----------
    residual
        The map r of a model that is linear in its trainable parameters; they are changed in place.
    rcond
        Columns that add less than this, relative to the largest, are taken as dependent; 8ε if None.
    maxiter
        Most Newton steps.
    memory_budget
        Bytes for rows of J at a time.
    known
        What :func:`~precondlab.training.rows.routes` returns for such a residual, not to find it again.

    Raises
    ------
    ValueError
        For more than 8192 parameters.
    Breakdown
        If the residual or J is not finite.

    Cost: per step one pass over the rows and ``2mn² + 4n³`` operations; memory 2n² numbers and the budget.

    >>> a = torch.tensor([0.0, 0.0], requires_grad=True)
    >>> fit = solve_linear(Map(lambda p: p["a"] - torch.tensor([1.0, 2.0]), {"a": a}))
    >>> a.tolist(), fit.rank, fit.status.ok
    ([1.0, 2.0], 2, True)
    """
    n, eps = residual.domain.size, residual.domain.eps
    if n > _LARGEST:
        raise ValueError(
            f"solve_linear: {n} parameters are more than the {_LARGEST} a direct solution takes; use fewer features or "
            "optim.LevenbergMarquardt, which solves in Krylov spaces"
        )
    known = routes(residual) if known is None else known
    norm = residual.value.norm().item()
    fit = LinearFit(0.5 * norm**2, 0, 0, LinearStatus.ITERATIONS)
    for iteration in range(1, maxiter + 1):
        rows = reduced_rows(residual, known=known, memory_budget=memory_budget)
        step, rank, left = _least_squares(rows, 8 * eps if rcond is None else rcond)
        found = _descend(residual, step, norm)
        if found is None:
            size = residual.domain.ravel({name: value.detach() for name, value in residual.params.items()}).norm()
            round_off = 8 * eps * (rows[:, :-1].norm() * size).item()
            converged = norm <= round_off or norm**2 - left**2 <= eps**0.5 * norm**2
            status = LinearStatus.OK if converged else LinearStatus.NO_DESCENT
            return LinearFit(0.5 * norm**2, rank, iteration, status)
        settled = found <= max(_AGREEMENT * left, eps * norm) or found >= norm * (1 - eps**0.5)
        norm = found
        fit = LinearFit(0.5 * norm**2, rank, iteration, LinearStatus.OK if settled else LinearStatus.ITERATIONS)
        if settled:
            break
    return fit


@torch.no_grad()
def equilibrated(residual: Map, *, known: Mapping[str, str] | None = None) -> Map:
    """Return the map with the weights λ that make the longest row of J in every block a unit vector.

    Blocks that differ by orders of magnitude, as derivatives of features and their values do, then count
    alike. Cost: some 50 rows of J per block.
    """
    weights = {}
    for name, block in row_norms(residual, known=known).items():
        longest = block.max().item()
        weights[name] = residual.weights[name] / longest**2 if longest > 0 else residual.weights[name]
    return residual.reweighted(weights)


@dataclass(frozen=True)
class FeatureFit:
    """Result of :func:`fit_features`.

    Attributes
    ----------
    model
        The fitted model.
    fit
        How it was solved.
    validation
        ``‖r‖`` on points of their own over ``‖r‖`` at u = 0.
    scale
        Chosen scale per coordinate.
    tried
        Scales tried at the smaller width, with their validation residuals.
    """

    model: RandomFeatures
    fit: LinearFit
    validation: float
    scale: tuple[float, ...]
    tried: dict[tuple[float, ...], float]


def fit_features(
    problem: Problem, *, width: int = 1000, scale: Sequence[float] | None = None, seed: int = 0
) -> FeatureFit:
    """Solve a problem by random features of a scale that is chosen without seeing the solution.

    With a third of the features, scales are compared by the residual on points that were not fitted: first
    equal ones for all coordinates in powers of 2, then one coordinate at a time by factors 2 and √2, not below 1. The
    best is used at full width, and raised as long as features are linearly dependent and the residual falls.
    Collocation points are Sobol points, three per feature; blocks are :func:`equilibrated`.

    Parameters
    ----------
    problem
        Linear or nonlinear.
    width
        Number of features.
    scale
        Largest angular frequency per coordinate when the box is [−1, 1]ᵈ; chosen if None.
    seed
        Of features and points.

    Cost: some 20 solutions at a third of the width, 1/27 of the full cost each, and the full one.
    """
    tried: dict[tuple[float, ...], float] = {}
    narrow = max(1, width // _PART)
    known = routes(problem.residual(random_features(narrow, domain=problem.domain), interior=narrow))
    chosen = _choose(problem, narrow, seed, known, tried) if scale is None else tuple(float(s) for s in scale)
    best = FeatureFit(*_fit(problem, width, chosen, seed, known, 20), chosen, tried)
    while scale is None and best.fit.rank < _FULL * width and best.validation > _NEGLIGIBLE:
        chosen = tuple(_GROWTH * s for s in chosen)
        wider = FeatureFit(*_fit(problem, width, chosen, seed, known, 20), chosen, tried)
        if wider.validation >= best.validation:
            break
        best = wider
    return best


def _choose(
    problem: Problem, width: int, seed: int, known: dict[str, str], tried: dict[tuple[float, ...], float]
) -> tuple[float, ...]:
    def validation(scale: tuple[float, ...]) -> float:
        if scale not in tried:
            tried[scale] = _fit(problem, width, scale, seed, known, 1 if problem.linear else _NEWTON)[2]
        return tried[scale]

    best = min(((s,) * problem.dim for s in _COARSE), key=validation)
    for factor in _FINER:
        improved = True
        while improved:
            before = best
            for axis in range(problem.dim):
                sizes = [best[axis] * f for f in (1.0, factor, 1 / factor)]
                moves = [(*best[:axis], size, *best[axis + 1 :]) for size in sizes if size >= _LEAST]
                best = min(moves, key=validation)
            improved = best != before
    return best


def _fit(
    problem: Problem, width: int, scale: tuple[float, ...], seed: int, known: dict[str, str], maxiter: int
) -> tuple[RandomFeatures, LinearFit, float]:
    model = random_features(width, domain=problem.domain, scale=scale, seed=seed)
    interior, boundary = _ROWS * width, int(_FACES * width**0.5)
    residual = problem.residual(model, interior=interior, boundary=boundary, seed=seed)
    residual = equilibrated(residual, known=known)
    fresh = problem.residual(model, interior=width, boundary=boundary, seed=seed + 1).reweighted(residual.weights)
    start = fresh.value.norm().item()
    fit = solve_linear(residual, maxiter=maxiter, known=known)
    return model, fit, fresh.value.norm().item() / start


def _least_squares(rows: Tensor, rcond: float) -> tuple[Tensor, int, float]:
    """Return the step, the rank and the residual norm it leaves, for reduced rows ``[J r]``."""
    matrix = rows.cpu().numpy()
    J, r = matrix[:, :-1], matrix[:, -1]
    step, _, rank, _ = lstsq(J, -r, cond=rcond, lapack_driver="gelsy", check_finite=False)  # type: ignore[misc]
    return torch.from_numpy(step).to(rows), int(rank), float(np.linalg.norm(J @ step + r))


def _descend(residual: Map, step: Tensor, norm: float) -> float | None:
    """Move along a step, halved until the residual falls; return its norm, or None if it never does."""
    theta = residual.domain.ravel({name: value.detach() for name, value in residual.params.items()})
    for halving in range(_HALVINGS):
        point = theta + step / 2**halving
        found = residual(point).norm().item()
        if found < norm:
            for name, value in residual.domain.unravel(point).items():
                residual.params[name].copy_(value)
            return found
    return None
