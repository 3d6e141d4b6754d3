"""The ways to train that are compared. Each is a function of a case and a trial that returns why it ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from precondlab.bench.training_cases import Case, descend, select
from precondlab.bench.training_trial import Trial
from precondlab.bench.ways.spectral.computation import Computation
from precondlab.map import Map
from precondlab.training import fit_features
from precondlab.training.optimizers import KFAC, NewtonCG, SelfScaledBroyden, Spring

__all__ = ["WAYS", "Training", "Way"]

Way = Callable[[Case, Trial], str]

_HISTORY = 100  # of L-BFGS
_INNER = 20  # iterations of L-BFGS between two looks at the clock
_RATES = (1e-2, 1e-4)  # of Adam, first and last
_WARM = 0.25  # part of the budget that Adam has before L-BFGS
_WIDTHS = (250, 1000, 2000, 4000)  # of random features
_GROWTH = 4.0  # of a fit's cost from the first width to the second


def levenberg_marquardt(case: Case, trial: Trial) -> str:
    """Train as the case's own recipe says."""
    return case.ours(case, trial)


def spring(case: Case, trial: Trial) -> str:
    """Train by SPRING on fresh points in every step, a third of the others' number."""
    counts = {name: max(8, case.sampling[name] // 3) for name in ("interior", "boundary")}
    model = case.network(trial.seed)
    make = lambda r: Spring(r, lr=0.3, damping=1e-6, momentum=0.8, clip=0.3)  # noqa: E731
    return descend(trial, model, make, every=1, **{**case.sampling, **counts})


def self_scaled_broyden(case: Case, trial: Trial) -> str:
    """Train by the self-scaled Broyden method."""
    return descend(trial, case.network(trial.seed), SelfScaledBroyden, **case.sampling)


def newton_cg(case: Case, trial: Trial) -> str:
    """Train by Nyström-preconditioned Newton-CG on the Gauss–Newton matrix."""
    return descend(trial, case.network(trial.seed), NewtonCG, **case.sampling)


def kfac(case: Case, trial: Trial) -> str:
    """Train by KFAC."""
    return descend(trial, case.network(trial.seed), KFAC, **case.sampling)


def adam(case: Case, trial: Trial) -> str:
    """Train by torch's Adam; the rate falls from 1e-2 to 1e-4 in equal factors over the time."""
    model = case.network(trial.seed)
    return _adam(trial, model, _residual(case, trial, model), until=trial.budget)


def lbfgs(case: Case, trial: Trial) -> str:
    """Train by torch's L-BFGS with the strong Wolfe line search, all tolerances zero."""
    model = case.network(trial.seed)
    return _lbfgs(trial, model, _residual(case, trial, model))


def adam_lbfgs(case: Case, trial: Trial) -> str:
    """Train by Adam for a quarter of the time, then by L-BFGS."""
    model = case.network(trial.seed)
    residual = _residual(case, trial, model)
    _adam(trial, model, residual, until=_WARM * trial.budget)
    return _lbfgs(trial, model, residual)


def random_features(case: Case, trial: Trial) -> str:
    """Solve by random features of growing width, their scale chosen without the solution, directly or by Newton."""
    last = 0.0
    for width in _WIDTHS:
        begin, before = trial.elapsed, last
        found = fit_features(case.problem(), width=width, seed=trial.seed)
        last = trial.elapsed - begin
        trial.measure(found.model, found.fit.loss)
        growth = last / before if before else _GROWTH
        if last * growth > trial.left:
            return f"width {width}; the next one would take too long"
    return f"width {_WIDTHS[-1]}, the largest"


#: Way → (family, function). Add one here.
WAYS: dict[str, tuple[str, Way]] = {
    "Levenberg–Marquardt": ("precondlab", levenberg_marquardt),
    "SPRING": ("precondlab", spring),
    "self-scaled Broyden": ("precondlab", self_scaled_broyden),
    "Newton-CG": ("precondlab", newton_cg),
    "KFAC": ("precondlab", kfac),
    "random features": ("linear", random_features),
    "Adam": ("torch", adam),
    "L-BFGS": ("torch", lbfgs),
    "Adam + L-BFGS": ("torch", adam_lbfgs),
}


class Training(Computation):
    """One run: the options are ``case`` and ``way`` by name, ``seed`` and the budget ``processor`` in seconds."""

    def run(self) -> dict[str, Any]:
        """Return the curve, why the run ended, and the seconds it took without measurements of the error."""
        torch.set_num_threads(1)
        (case,) = select([self.options["case"]])
        begin = time.perf_counter()
        trial = Trial(case.problem(), seed=self.options["seed"], seconds=self.options["processor"])
        reason = WAYS[self.options["way"]][1](case, trial)
        seconds, off = trial.elapsed, trial.off
        trial.finish()
        return {
            "reason": reason,
            "steps": trial.steps,
            "parameters": trial.parameters,
            "processor_seconds": seconds,
            "wall_seconds": time.perf_counter() - begin,
            "measuring_seconds": off,
            "curve": trial.curve,
        }


def _residual(case: Case, trial: Trial, model: nn.Module) -> Map:
    return trial.problem.residual(model, **case.sampling, seed=1000 * trial.seed)


def _closure(residual: Map) -> Callable[[], Tensor]:
    """Return what torch's optimizers call: it sets the gradients of ``½‖r‖²`` and returns that."""
    evaluate, scale, params = residual.raw(None), residual.scale(), residual.params

    def closure() -> Tensor:
        for value in params.values():
            value.grad = None
        with torch.enable_grad():
            loss = 0.5 * (evaluate(params) * scale).square().sum()
            loss.backward()
        return loss.detach()

    return closure


def _adam(trial: Trial, model: nn.Module, residual: Map, *, until: float) -> str:
    first, last = _RATES
    optimizer = torch.optim.Adam(residual.params.values(), lr=first)
    closure, begin = _closure(residual), trial.elapsed
    while True:
        part = min(1.0, (trial.elapsed - begin) / (until - begin))
        optimizer.param_groups[0]["lr"] = first * (last / first) ** part
        loss = closure()
        optimizer.step()
        if trial(model, loss) or trial.elapsed >= until:
            return "time used up"


def _lbfgs(trial: Trial, model: nn.Module, residual: Map) -> str:
    optimizer = torch.optim.LBFGS(
        residual.params.values(),
        max_iter=_INNER,
        history_size=_HISTORY,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )
    closure, domain = _closure(residual), residual.domain
    point = domain.ravel({name: value.detach() for name, value in residual.params.items()})
    while True:
        loss = optimizer.step(closure)  # type: ignore[arg-type]  # a closure may return a tensor
        if trial(model, loss):
            return "time used up"
        moved = domain.ravel({name: value.detach() for name, value in residual.params.items()})
        if torch.equal(moved, point):
            return "stands still"
        if not moved.isfinite().all():
            return "not a number"
        point = moved
