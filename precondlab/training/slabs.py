"""Time slabs: an evolution problem solved one interval of time after the other."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from precondlab.differentiation.calculus import apply, at
from precondlab.problems import Condition, Problem

__all__ = ["Slabs", "march"]


class Slabs(nn.Module):
    """A field that is another model on each interval of time.

    Parameters
    ----------
    models
        One per interval, each from ``[N, d]`` to ``[N, 1]``; time is the last coordinate.
    edges
        Ends of the intervals, ascending, one more than models. On an edge the earlier model is taken; the first
        and the last one go on beyond the ends.

    >>> slabs = Slabs([nn.Linear(1, 1), nn.Linear(1, 1)], (0.0, 0.5, 1.0))
    >>> x = torch.tensor([[0.2], [0.7]])
    >>> bool((slabs(x)[1] == slabs.models[1](x)[1]).all())
    True
    """

    def __init__(self, models: Sequence[nn.Module], edges: Sequence[float]) -> None:
        super().__init__()
        self.models, self.edges = nn.ModuleList(models), tuple(edges)

    def forward(self, x: Tensor) -> Tensor:
        place = torch.bucketize(x[:, -1].contiguous(), x.new_tensor(self.edges[1:-1]))
        order = place.argsort(stable=True)
        parts = x[order].split(torch.bincount(place, minlength=len(self.models)).tolist())
        values = [model(part) for model, part in zip(self.models, parts, strict=True) if len(part)]
        return torch.cat(values)[order.argsort()]


def march(
    problem: Problem,
    fit: Callable[[Problem, nn.Module | None], nn.Module],
    /,
    *,
    slabs: int | Sequence[float],
) -> Slabs:
    """Solve an evolution problem slab by slab, each from the end of the one before.

    On ``(t_k, t_{k+1})`` the equation, its source and the conditions at the sides are those of the problem; conditions
    ``Bu = g`` at the initial time become ``Bu = Bu_{k−1}`` at t_k, with the fitted ``u_{k−1}`` held fixed. Errors at
    the edges add up, as in time stepping.

    Parameters
    ----------
    problem
        Time is the last coordinate, and no condition is at its end.
    fit
        ``fit(problem on a slab, model of the slab before or None)`` returns a trained model: a new one, or the one
        before trained on, of which it is given a copy.
    slabs
        Number of equal slabs, or the edges from the first time to the last, ascending.

    Raises
    ------
    ValueError
        For fewer than one slab, edges that do not ascend from the first time to the last, a problem without a
        condition at the first time or with one at another.

    Cost: that of the fits.
    Reference: Wight & Zhao (2021), doi:10.4208/cicp.OA-2020-0086.

    >>> from precondlab.models import random_features
    >>> from precondlab.problems import advection
    >>> from precondlab.training import solve_linear
    >>> def fit(slab, before):
    ...     model = random_features(60, domain=slab.domain, scale=3.0)
    ...     solve_linear(slab.residual(model, interior=200, boundary=60))
    ...     return model
    >>> problem = advection(2.0)
    >>> problem.error(march(problem, fit, slabs=2)) < 1e-3
    True
    """
    edges = _edges(problem, slabs)
    first = [c.name for c in problem.conditions if _at_start(problem, c)]
    if not first:
        raise ValueError(f"march: {problem.name} has no condition at the first time, t = {edges[0]:g}")
    models: list[nn.Module] = []
    for begin, end in itertools.pairwise(edges):
        start = copy.deepcopy(models[-1]).requires_grad_(False) if models else None
        models.append(fit(_slab(problem, begin, end, start), copy.deepcopy(models[-1]) if models else None))
    return Slabs(models, edges)


def _slab(problem: Problem, begin: float, end: float, start: nn.Module | None) -> Problem:
    """Return the problem on one slab; the first one keeps its initial values."""
    domain = (*problem.domain[:-1], (begin, end))
    if start is None:
        return replace(problem, domain=domain)
    face = (problem.dim - 1, begin)
    conditions = [
        replace(c, where=(face,), target=partial(_state, c, start)) if _at_start(problem, c) else c
        for c in problem.conditions
    ]
    return replace(problem, domain=domain, conditions=tuple(conditions))


def _state(condition: Condition, model: nn.Module, x: Tensor) -> Tensor:
    """Return Bu of the slab before, ``[N, number of operators]``."""
    u = at(model, dict(model.named_parameters()))
    if not condition.operators:
        return u(x).detach()
    return torch.stack([apply(operator, u, x) for operator in condition.operators], dim=1).detach()


def _at_start(problem: Problem, condition: Condition) -> bool:
    """Whether a condition is at the first time; refuses one at another time."""
    last, first = problem.dim - 1, problem.domain[-1][0]
    if all(axis != last for axis, _ in condition.where):
        return False
    if any(section != (last, first) for section in condition.where):
        raise ValueError(
            f"march: condition {condition.name!r} of {problem.name} should be at the first time only or at none, "
            f"got the sections {condition.where}"
        )
    return True


def _edges(problem: Problem, slabs: int | Sequence[float]) -> tuple[float, ...]:
    first, last = problem.domain[-1]
    if isinstance(slabs, int | np.integer):
        if slabs < 1:
            raise ValueError(f"march: expected at least one slab, got {slabs}")
        return (*(first + (last - first) * k / slabs for k in range(slabs)), last)
    edges = tuple(float(edge) for edge in slabs)
    ascending = all(a < b for a, b in itertools.pairwise(edges))
    if len(edges) < 2 or not ascending or not math.isclose(edges[0], first) or not math.isclose(edges[-1], last):
        raise ValueError(f"march: expected edges that ascend from {first:g} to {last:g}, got {edges}")
    return edges
