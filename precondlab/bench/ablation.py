"""What a preconditioner is worth inside an optimizer: the speed-up that was predicted, and the one measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from precondlab.bench.ablation_cases import CASES, METHODS, Case, Start
from precondlab.bench.environment import machine, own_versions
from precondlab.bench.steps import conjugate_gradients, steps_promised
from precondlab.dynamics import predict_training
from precondlab.errors import Breakdown, NotPositive
from precondlab.map import Map
from precondlab.operator import Operator
from precondlab.operators import Dense, Gram, Jacobian
from precondlab.spectrum import Condition, condition
from precondlab.training.optimizers.gradient_descent import GradientDescent
from precondlab.training.optimizers.levenberg_marquardt import LevenbergMarquardt
from precondlab.training.optimizers.minimizer import Minimizer
from precondlab.training.optimizers.preconditioned import Preconditioned

__all__ = ["OPTIMIZERS", "compared", "run"]

Row = dict[str, Any]

Maker = Callable[[nn.Module, Map], Minimizer]
OPTIMIZERS = ("descent", "adam", "lm")
_SHARES = (1.0, 1 / 8, 1 / 64)  # of the rate 1/λ_max, that gradient descent tries on a network
_RATES = (1e-1, 1e-2, 1e-3)  # that Adam tries
_DIVERGED = 1e2  # of the first loss
_FARTHEST = 20  # times the limit, steps that are predicted
_EVERY = 10  # steps of gradient descent after which M is made again
_SYSTEMS = 8  # steps of Levenberg–Marquardt, at most
_INNER = 1e-4  # of the error of its linear systems, in the norm of A + μI


def run(
    *,
    cases: Sequence[Case] = CASES,
    methods: Sequence[str] = tuple(METHODS),
    report: Callable[[str], object],
) -> Row:
    """Train every case by gradient descent, Adam and Levenberg–Marquardt, with every preconditioner.

    M is made once, from A and a damping μ where training starts, and kept; where A moves, runs of gradient descent that
    make it again every 10 steps, and systems with an M of their own, stand beside. Predictions are made at the start:

    * gradient descent, from the spectral measure of ``J M Jᵀ`` at the residual and the rate ``1/λ_max(M(A + μI))``;
      made are steps of the optimizer at the best of some shares of this rate, all of it on linear cases;
    * Adam: no theory; made are its steps at the best of three rates;
    * Levenberg–Marquardt: the systems ``(A + μI) δ = −Jᵀr`` on its path are solved by conjugate gradients,
      predicted from κ at the start to take ``√κ ln(2/rtol)/2`` steps each.
    """
    rows = [row for case in cases for row in _measure(case, methods, report)]
    return {
        "ok": all(row["status"] == "ok" for row in rows if row["method"] == "none"),
        "inner": _INNER,
        "cases": [{key: getattr(case, key) for key in ("name", "wanted", "limit", "damping")} for case in cases],
        "rows": compared(rows),
        "machine": machine(),
        "versions": own_versions(),
    }


def _measure(case: Case, methods: Sequence[str], report: Callable[[str], object]) -> Iterator[Row]:
    path = _path(case)
    for method in methods:
        report(f"{case.name}: {method}")
        yield _one(case, method, path)


def _one(case: Case, method: str, path: Sequence[Jacobian]) -> Row:
    model = case.model()
    J = Jacobian(case.residual(model)).formed()
    start = Start(case.problem, model, J, case.damping * torch.linalg.matrix_norm(J.dense(), 2).item() ** 2)
    row: Row = {"case": case.name, "method": method, "parameters": J.shape[1]}
    began, before = time.process_time(), start.products
    try:
        M = METHODS[method](start)
    except (ValueError, ArithmeticError, NotImplementedError) as error:
        return row | {"status": "refused", "reason": f"{type(error).__name__}: {error}"}
    seconds, setup = time.process_time() - began, max(getattr(M, "setup_matvecs", 0), start.products - before)
    before = start.products
    M.forward(J.domain.random(1))
    each = 1 + start.products - before
    kappa = condition(start.damped, preconditioner=M)
    row |= {
        "status": "ok",
        "setup_matvecs": setup,
        "step_matvecs": each,
        "setup_seconds": seconds,
        "kappa": kappa.to_dict()["upper"],
        "descent": _descent(case, start, method, M, kappa.largest),
        "adam": _best(case, [(rate, _adam(M, rate)) for rate in _RATES]),
        "lm": _levenberg_marquardt(case, path, method, M, kappa, start.damping),
    }
    for name in OPTIMIZERS:
        found = row[name]
        found["products"] = None if found["steps"] is None else setup + found["steps"] * each
        found["seconds"] += seconds
    return row


def _again(case: Case, J: Jacobian, method: str, damping: float) -> Operator:
    """Return the preconditioner made where J is."""
    model = case.model()
    model.load_state_dict(J.at, strict=False)
    return METHODS[method](Start(case.problem, model, J.formed(), damping))


# Gradient descent and Adam ----------------------------------------------------------------------


def _descent(case: Case, start: Start, method: str, M: Operator, largest: float) -> Row:
    """Predict steps of gradient descent, then make them; ``remade`` with an M that follows the parameters."""
    J = start.J

    def predicted(rate: float) -> int | None:
        n, limit = J.shape[1], _FARTHEST * case.limit
        curve = predict_training(J, J.value, steps=limit, learning_rate=rate, preconditioner=M, num_matvecs=n)
        below = (curve.loss <= case.wanted * curve.loss[0]).nonzero()[0]
        return int(below[0]) if len(below) else None

    first = predicted(1 / largest)
    shares = _SHARES[:1] if case.linear else _SHARES
    rates = [share / largest for share in shares]
    found = _best(case, [(rate, _gradient_descent(M, rate)) for rate in rates])
    remade = None
    if not case.linear:
        remade = _best(case, [(rate, _remaking(case, method, start.damping, rate)) for rate in rates])
    said = {"predicted": first, "predicted_at_rate": predicted(found["rate"]), "share": found["rate"] * largest}
    return said | found | {"remade": remade}


def _gradient_descent(M: Operator, rate: float) -> Maker:
    return lambda model, residual: GradientDescent(residual, lr=rate, preconditioner=M)


def _remaking(case: Case, method: str, damping: float, rate: float) -> Maker:
    def make(A: Operator) -> Operator:
        assert isinstance(A, Gram) and isinstance(A.J, Jacobian)  # Preconditioned makes it so
        return _again(case, A.J, method, damping)

    return lambda model, residual: Preconditioned(
        residual, torch.optim.SGD(model.parameters(), lr=rate), make=make, every=_EVERY
    )


def _adam(M: Operator, rate: float) -> Maker:
    return lambda model, residual: Preconditioned(
        residual, torch.optim.Adam(model.parameters(), lr=rate), make=lambda A: M, every=None
    )


def _best(case: Case, makers: Sequence[tuple[float, Maker]]) -> Row:
    """Return the run of the fewest steps, or else of the least loss; none goes on beyond the best before it."""
    best: Row = {"steps": None, "reached": math.inf, "rate": makers[0][0], "seconds": 0.0}
    for rate, make in makers:
        found = {"rate": rate} | _train(case, make, case.limit if best["steps"] is None else best["steps"])
        if found["steps"] is not None or (best["steps"] is None and found["reached"] < best["reached"]):
            best = found
    return best | {"reached": None if math.isinf(best["reached"]) else best["reached"]}


def _train(case: Case, make: Maker, limit: int) -> Row:
    """Make steps until the loss has fallen as wanted; ``reached`` is the least one, ∞ for a run that diverged."""
    model = case.model()
    optimizer = make(model, case.residual(model))
    first, least, began = math.nan, math.inf, time.process_time()
    for step in range(limit + 1):
        try:
            loss = optimizer.step().item()
        except (Breakdown, NotPositive):
            loss = math.inf
        first = loss if step == 0 else first
        least = min(least, loss / first)
        if least <= case.wanted or not loss < _DIVERGED * first:
            break
    return {
        "steps": step if least <= case.wanted else None,
        "reached": least if loss < _DIVERGED * first else math.inf,
        "seconds": time.process_time() - began,
    }


# Levenberg–Marquardt ----------------------------------------------------------------------------


def _path(case: Case) -> list[Jacobian]:
    """Return J at the points from which Levenberg–Marquardt makes its steps until the loss has fallen as wanted."""
    model = case.model()
    residual = case.residual(model)
    optimizer, found = LevenbergMarquardt(residual), []
    while len(found) < _SYSTEMS:
        J = Jacobian(residual, at=optimizer.point()).formed()
        if found and J.value.square().sum() <= case.wanted * found[0].value.square().sum():
            break
        found.append(J)
        optimizer.step()
    return found


def _levenberg_marquardt(
    case: Case, path: Sequence[Jacobian], method: str, M: Operator, kappa: Condition, damping: float
) -> Row:
    """Predict steps of conjugate gradients from κ at the start, and make them; ``remade`` with an M for each system."""
    each = steps_promised(kappa.upper, rtol=_INNER)
    predicted = each * len(path) if math.isfinite(kappa.upper) else None
    remade = None
    if not case.linear:
        remade = _systems(path, lambda J: _again(case, J, method, damping), damping)
    return {"predicted": predicted} | _systems(path, lambda J: M, damping) | {"remade": remade}


def _systems(path: Sequence[Jacobian], make: Callable[[Jacobian], Operator], damping: float) -> Row:
    """Solve ``(A + μI) δ = −Jᵀr`` on a path by conjugate gradients."""
    steps, began = [], time.process_time()
    for J in path:
        root = math.sqrt(damping) * torch.eye(J.shape[1], dtype=J.domain.dtype)
        R = torch.linalg.qr(torch.cat([J.dense(), root]), mode="r").R
        b = -J.backward(J.value[:, None])
        exact = torch.cholesky_solve(b, R.T.contiguous(), upper=False)[:, 0]
        steps.append(conjugate_gradients(Gram(Dense(R)), make(J), exact, rtol=_INNER, limit=20 * J.shape[1]))
    return {
        "each": steps,
        "steps": None if None in steps else sum(steps),
        "seconds": time.process_time() - began,
    }


# Comparison -------------------------------------------------------------------------------------


def compared(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with ``speedup``, by optimizer: without a preconditioner over with it.

    ``predicted``, ``steps`` and ``remade`` are ratios of steps, for Levenberg–Marquardt of products in its systems, of
    which a step of the inner solver may take several; ``remade`` is of the runs that make M again, without what that
    costs; ``products`` and ``seconds`` include the set-up. None if either run did not end, or nothing is predicted.
    """
    plain = {row["case"]: row for row in rows if row["method"] == "none"}
    found = []
    for row in rows:
        if row["status"] == "ok":
            before = plain[row["case"]]
            row = row | {"speedup": {name: _speedup(before, row, name) for name in OPTIMIZERS}}
        found.append(row)
    return found


def _speedup(before: Row, after: Row, name: str) -> dict[str, float | None]:
    per_step = after["step_matvecs"] if name == "lm" else 1
    costs = {"predicted": per_step, "steps": per_step, "products": 1}
    ratios = {key: _ratio(before[name].get(key), after[name].get(key), cost) for key, cost in costs.items()}
    remade = after[name].get("remade")
    ratios["remade"] = None if remade is None else _ratio(before[name]["steps"], remade["steps"], per_step)
    ended = before[name]["steps"] is not None and after[name]["steps"] is not None
    return ratios | {"seconds": before[name]["seconds"] / after[name]["seconds"] if ended else None}


def _ratio(before: int | None, after: int | None, cost: int) -> float | None:
    return None if before is None or after is None else before / (max(after, 1) * cost)
