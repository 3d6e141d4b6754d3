"""The problems of `bench training`: the networks, points and weights of each, its targets, and our recipe for it.

A recipe is a small function; to improve one, edit its entry in ``CASES``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from precondlab import problems
from precondlab.bench.training_trial import Trial
from precondlab.map import Map
from precondlab.models import mlp, periodic, siren
from precondlab.problems import Problem
from precondlab.problems.sampling import Domain
from precondlab.training import train
from precondlab.training.optimizers import LevenbergMarquardt
from precondlab.training.optimizers.minimizer import Minimizer
from precondlab.training.slabs import Slabs, march

__all__ = ["CASES", "Case", "descend", "select", "slabwise", "whole"]

Network = Callable[[int], nn.Module]
_MANY = 10**9


@dataclass(frozen=True)
class Case:
    """A problem and how it is trained.

    Attributes
    ----------
    name, title
        For the command line, and for people.
    problem
        Makes the problem.
    network
        Seed → the network that every way trains, ours too unless its recipe takes another.
    sampling
        Points and weights, as for :meth:`precondlab.problems.Problem.residual`.
    ours
        The recipe: trains within a trial and returns why it ended.
    targets
        Pairs (relative L² error, seconds).
    seconds
        Budget unless another is asked for.
    """

    name: str
    title: str
    problem: Callable[[], Problem]
    network: Network
    sampling: Mapping[str, Any]
    ours: Recipe
    targets: tuple[tuple[float, float], ...]
    seconds: float = 60.0


Recipe = Callable[[Case, Trial], str]


# Recipes ------------------------------------------------------------------------------------


def descend(
    trial: Trial,
    model: nn.Module,
    make: Callable[[Map], Minimizer] = LevenbergMarquardt,
    *,
    problem: Problem | None = None,
    every: int = 0,
    until: float = math.inf,
    shown: nn.Module | None = None,
    **sampling: Any,
) -> str:
    """Train a model by an optimizer until the time is used up or nothing moves; return why it ended.

    Parameters
    ----------
    make
        Makes the optimizer from the residual.
    problem
        In place of the trial's, e.g. on a slab.
    every
        Steps after which points are drawn anew; 0 keeps them.
    until
        Seconds on the trial's clock at which to stop before its end.
    shown
        The model of the whole domain, if this one is a part.
    sampling
        Points and weights.
    """
    problem = trial.problem if problem is None else problem

    def sample(number: int) -> Map:
        return problem.residual(model, **sampling, seed=1000 * trial.seed + number)

    optimizer, reason = make(sample(0)), "time used up"

    def stop(entry: Any) -> bool:
        nonlocal reason
        ended = trial(model if shown is None else shown, entry.loss) or trial.elapsed >= until
        if not ended and not every and not optimizer.diagnostics.accepted:
            ended, reason = True, "nothing reduces the loss"
        return ended

    fresh = sample if every else None
    done = train(optimizer, steps=_MANY, sample=fresh, every=every, patience=_MANY, callbacks=[stop])
    return reason if done.status.name == "STOPPED" else done.status.advice


def whole(case: Case, trial: Trial, *, network: Network | None = None, **options: Any) -> str:
    """Train one network on the whole domain by Levenberg–Marquardt; what is not given is the case's.

    Options are those of :func:`descend`.
    """
    model = (case.network if network is None else network)(trial.seed)
    return descend(trial, model, **{**case.sampling, **options})


def slabwise(case: Case, trial: Trial, *, slabs: int, network: Network | None = None, **options: Any) -> str:
    """Train a network per slab of time, each from the last one's parameters and for an equal part of the time left.

    What is not given is the case's; options are those of :func:`descend`.
    """
    make = case.network if network is None else network
    trained: list[nn.Module] = []
    edges: list[float] = []
    reasons: list[str] = []

    def fit(slab: Problem, before: nn.Module | None) -> nn.Module:
        model = make(trial.seed) if before is None else before
        edges.extend(slab.domain[-1][len(edges) > 0 :])
        trained.append(model)
        share = trial.elapsed + trial.left / (slabs - len(trained) + 1)
        shown = Slabs(trained, edges)
        reasons.append(descend(trial, model, problem=slab, until=share, shown=shown, **{**case.sampling, **options}))
        return model

    trial.measure(march(trial.problem, fit, slabs=slabs))
    return "; ".join(dict.fromkeys(reasons))


# The table ----------------------------------------------------------------------------------


def _tanh(*sizes: int) -> Network:
    return lambda seed: mlp(sizes, seed=seed)


def _scaled(*sizes: int) -> Network:
    """Return networks of (x, t), x ∈ (−1, 1) and t ∈ (0, 1), that start as for a box of equal sides."""
    return lambda seed: mlp(sizes, domain=((-1.0, 1.0), (0.0, 1.0)), seed=seed)


def _periodic(period: float, *sizes: int, last: float = 1.0) -> Network:
    """Return networks periodic in x: they see cos and sin of it, and t, scaled for the times up to ``last``."""
    box = ((-1.0, 1.0), (-1.0, 1.0), (0.0, last))
    return lambda seed: periodic(mlp((3, *sizes), domain=box, seed=seed), (period, None))


def _layer(viscosity: float) -> dict[str, Any]:
    """Return points for Burgers' equation, denser where the front forms."""
    clusters = {0: [(0.0, 4 * viscosity)]}
    return {"interior": 2500, "boundary": 300, "weights": {"interior": 1e-2}, "clusters": clusters}


def _sines(width: int, scale: float, domain: Domain) -> Network:
    return lambda seed: siren((width,), domain=domain, scale=scale, seed=seed)


def _periodic_sines(width: int, scale: Sequence[float], period: float) -> Network:
    """Return sine networks of cos and sin of x, and t ∈ (0, 1)."""
    box = ((-1.0, 1.0), (-1.0, 1.0), (0.0, 1.0))
    return lambda seed: periodic(siren((width,), domain=box, scale=scale, seed=seed), (period, None))


CASES = (
    Case(
        "poisson-2d",
        "Poisson 2-d, 2-64-1",
        problem=problems.poisson_sines,
        network=_tanh(2, 64, 1),
        sampling={"interior": 900, "boundary": 240, "weights": {"interior": 1e-2}},
        ours=whole,
        targets=((1e-6, 30), (1e-7, 180)),
        seconds=30,
    ),
    Case(
        "poisson-5d",
        "Poisson 5-d, sines 5-64-1",
        problem=partial(problems.poisson_cosines, 5),
        network=_sines(64, 4.0, ((0.0, 1.0),) * 5),
        sampling={"interior": 1500, "boundary": 400, "weights": {"interior": 1e-2}},
        ours=whole,
        targets=((1e-5, 120), (1e-6, 300)),
        seconds=30,
    ),
    Case(
        "heat",
        "Heat 1+1-d",
        problem=problems.heat_rod,
        network=_tanh(2, 64, 1),
        sampling={"interior": 900, "boundary": 240, "weights": {"interior": 1e-2}},
        ours=whole,
        targets=((1e-6, 60),),
        seconds=60,
    ),
    Case(
        "convection",
        "Convection, β = 40, periodic sines",
        problem=partial(problems.advection, 40.0),
        network=_periodic_sines(100, (2.0, 2.0, 40.0), 2 * math.pi),
        sampling={"interior": 2000, "boundary": 300, "weights": {"interior": 1e-3}},
        ours=whole,
        targets=((1e-3, 120), (1e-4, 300)),
        seconds=30,
    ),
    Case(
        "reaction",
        "Reaction, ρ = 5",
        problem=problems.logistic,
        network=_periodic(2 * math.pi, 20, 20, 1),
        sampling={"interior": 1500, "boundary": 200, "weights": {"interior": 1e-2}},
        ours=whole,
        targets=((1e-3, 60),),
        seconds=20,
    ),
    Case(
        "wave",
        "Wave, two modes, sines 2-100-1",
        problem=problems.two_waves,
        network=_sines(100, 15.0, ((0.0, 1.0),) * 2),
        sampling={"interior": 2000, "boundary": 300, "weights": {"interior": 1e-4}},
        ours=whole,
        targets=((1e-2, 180), (1e-4, 600)),
        seconds=40,
    ),
    Case(
        "burgers-sharp",
        "Burgers, ν = 0.01/π",
        problem=problems.burgers,
        network=_scaled(2, 20, 20, 20, 1),
        sampling=_layer(0.01 / math.pi),
        ours=partial(whole, every=1),
        targets=((1e-4, 180), (1e-5, 600)),
        seconds=100,
    ),
    Case(
        "burgers",
        "Burgers, ν = 0.01",
        problem=partial(problems.burgers, 0.01),
        network=_scaled(2, 20, 20, 20, 1),
        sampling=_layer(0.01),
        ours=partial(whole, every=1),
        targets=((1e-6, 300),),
        seconds=100,
    ),
    Case(
        "allen-cahn",
        "Allen–Cahn",
        problem=problems.phase_separation,
        network=_periodic(2.0, 20, 20, 20, 1),
        sampling={
            **{"interior": 2000, "boundary": 300, "weights": {"interior": 1e-2}},
            "clusters": {0: [(0.0, 0.1), (-0.5, 0.02), (0.5, 0.02)]},
        },
        ours=partial(slabwise, slabs=4, network=_periodic(2.0, 20, 20, 20, 1, last=0.25), every=1),
        targets=((1e-3, 900),),
        seconds=180,
    ),
    Case(
        "helmholtz",
        "Helmholtz (1, 4, 1), sines 2-100-1",
        problem=problems.helmholtz_sines,
        network=_sines(100, 15.0, ((-1.0, 1.0),) * 2),
        sampling={"interior": 2000, "boundary": 300, "weights": {"interior": 1e-4}},
        ours=whole,
        targets=((1e-9, 60),),
        seconds=20,
    ),
    Case(
        "helmholtz-tanh",
        "Helmholtz (1, 4, 1), tanh on periodic features",
        problem=problems.helmholtz_sines,
        network=lambda seed: periodic(mlp((4, 20, 20, 20, 1), seed=seed), (2.0, 2.0)),
        sampling={"interior": 2000, "boundary": 200},
        ours=partial(whole, every=1),
        targets=((1e-9, 60),),
        seconds=60,
    ),
)


def select(names: Sequence[str]) -> tuple[Case, ...]:
    """Return the cases of these names, all if there are none; raises ValueError for a name that none has."""
    known = [case.name for case in CASES]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"training: expected names of cases among {', '.join(known)}, got {', '.join(unknown)}")
    return tuple(case for case in CASES if not names or case.name in names)
