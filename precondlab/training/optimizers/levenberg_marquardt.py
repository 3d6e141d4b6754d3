"""Gauss–Newton with the longest damped step that keeps its promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from precondlab.map import Map
from precondlab.training.damping import Linearization, Solver, linearization, require_options
from precondlab.training.optimizers.minimizer import Minimizer, require_rate
from precondlab.training.rows import routes, values

__all__ = ["LevenbergMarquardt", "Step"]

_START = 1e-3  # first damping, relative to σ_1²
_SPACING = 2.0  # of the grid of dampings
_FARTHEST = 8  # grid points below the last damping that one step may reach
_NEAR = 4  # trials, beyond which longer strides look for a damping that is large enough
_CORRECTIONS = 10  # of one trial,
_ENOUGH = 0.8  # unless the ratio is as good as this
_WINDOW = 30  # steps over which the damping must rise for the superlinear phase,
_EARLIEST = 80  # and the first step at which that may be


@dataclass(frozen=True)
class Step:
    """What one step of :class:`LevenbergMarquardt` did.

    Attributes
    ----------
    loss, reached
        ``½‖r‖²`` before and after.
    ratio
        Actual reduction over the one the linearization predicts, of the whole step; NaN if none was taken.
    damping, length
        μ, and the norm of the change, ``lr ‖δ‖``.
    trials
        Dampings tried.
    rank, condition
        Of ``JᵀJ`` above round-off.
    solver
        ``"dense"``, ``"krylov"`` or ``"sketch"``.
    limit
        What kept the step from being longer: ``"nonlinearity"`` (the next longer one misses the ratio),
        ``"reach"`` (the damping may fall only so far in one step), ``"round-off"`` (no damping is smaller than
        the square of the singular values' round-off), or ``"stationary"`` (no damping reduces the loss: no step).
    """

    loss: float
    reached: float
    ratio: float
    damping: float
    length: float
    trials: int
    rank: int
    condition: float
    solver: Solver
    limit: Literal["nonlinearity", "reach", "round-off", "stationary"]

    @property
    def accepted(self) -> bool:
        """Whether the parameters moved."""
        return self.limit != "stationary"


@dataclass(frozen=True)
class _Trial:
    damping: float
    ratio: float
    loss: float
    point: Tensor
    length: float


Attempt = Callable[[float], _Trial]  # of a damping


class LevenbergMarquardt(Minimizer):
    """Minimize ``½‖r(θ)‖²`` by damped Gauss–Newton steps ``δ = −(JᵀJ + μ)⁻¹Jᵀr`` along the curved map.

    Every step decomposes J once, whatever the damping, and takes from the grid ``μ = 2ʲ μ_before`` the longest
    step whose actual reduction of the loss is at least ``ratio`` times the predicted one. A low ratio
    leads past narrow valleys in which the greatest reduction gets stuck. Each trial follows the curved map by
    simplified Newton steps for ``½‖r(θ + δ)‖² + ½μ‖δ‖²``: ``δ ← −(JᵀJ + μ)⁻¹Jᵀ(r(θ + δ) − Jδ)``, the first of which is
    geodesic acceleration. J is never squared: the singular values are those of J, or of its QR factor if there
    are more rows than parameters.

    Parameters
    ----------
    residual
        The map r; its parameters are updated in place. It can be replaced between steps by one of the same
        parameters, e.g. on fresh points.
    lr
        Fraction in (0, 1] of the step found that is taken; all of it where the loss does not fall for the fraction,
        as on a chord of a curved valley. More than the whole step would miss what ``ratio`` promises. A schedule may
        end at 0: then nothing moves.
    ratio
        Smallest accepted actual over predicted reduction, in (0, 1).
    final_ratio
        The same once the damping, after the 80th step, has risen over 30 steps: near a solution of the
        nonlinear equations full steps are good ones, and longer ones only delay them.
    solver, memory_budget, maxiter, size
        As for :func:`precondlab.training.damping.linearization`: singular values of a dense J, or a Krylov
        space of at most ``maxiter`` products, chosen by size; or, with ``solver="sketch"``, those of J on a random
        subspace of dimension ``size``, drawn anew in every step.

    Attributes
    ----------
    diagnostics : Step or None
        What the last step did.

    Raises
    ------
    ValueError
        For ratios outside (0, 1), lr outside (0, 1], an unknown solver, other options that are not positive, and a
        Jacobian that a given solver needs whole but that exceeds the budget. The parameters are left as they were.
    Breakdown
        If the residual or its Jacobian is not finite; the parameters are left as they were.

    All options are in the parameter group: they are saved and loaded with the state.

    Cost per step: one decomposition, as for :func:`~precondlab.training.damping.linearization`, and for
    each of usually 3 to 5 trials up to 11 evaluations of r, as by :func:`~precondlab.training.rows.values`, and 10
    products with J and Jᵀ.

    Reference: Transtrum & Sethna (2012), arXiv:1201.5885; Webb, Jerad & Cartis (2026), arXiv:2607.02194.

    >>> a = torch.tensor([4.0], requires_grad=True)
    >>> optimizer = LevenbergMarquardt(Map(lambda p: p["a"] ** 2 - 4.0, {"a": a}))
    >>> for _ in range(9):
    ...     loss = optimizer.step()
    >>> a.tolist(), optimizer.diagnostics.rank
    ([2.0], 1)
    """

    def __init__(
        self,
        residual: Map,
        *,
        lr: float = 1.0,
        ratio: float = 0.075,
        final_ratio: float = 0.5,
        solver: Solver | None = None,
        memory_budget: int = 2**30,
        maxiter: int = 200,
        size: int = 1000,
    ) -> None:
        require_rate("LevenbergMarquardt", lr)
        _require_fraction(lr)
        if not 0 < ratio < 1 or not 0 < final_ratio < 1:
            raise ValueError(f"LevenbergMarquardt: ratios should be in (0, 1), got {ratio} and {final_ratio}")
        options = {"solver": solver, "memory_budget": memory_budget, "maxiter": maxiter, "size": size}
        require_options("LevenbergMarquardt", **options)
        super().__init__(
            residual,
            {"lr": lr, "ratio": ratio, "final_ratio": final_ratio, **options},
            **{"damping": None, "steps": 0, "final": False, "recent": [], "draws": 0},
        )
        self._routes: dict[str, str] | None = None

    def _step(self) -> float:
        residual, state, (group,) = self._residual, self.solver, self.param_groups
        _require_fraction(group["lr"])
        if self._routes is None or self._routes.keys() != residual.codomain.shapes.keys():
            self._routes = routes(residual)
        draw = torch.Generator().manual_seed(state["draws"])
        options = {name: group[name] for name in ("solver", "memory_budget", "maxiter", "size")}
        model = linearization(residual, known=self._routes, generator=draw, **options)
        state["draws"] += 1
        theta, value = self.point(), values(residual, self._routes, memory_budget=group["memory_budget"] // 8)
        ratio = group["final_ratio"] if state["final"] else group["ratio"]
        before = state["damping"] or _START * _top(model)
        found, trials, limit = self._search(model, partial(_attempt, model, value, theta), before, ratio)
        if found is not None:
            _remember(state, found.damping)
            found = found if group["lr"] == 1 else _part(found, model.loss, value, theta, group["lr"])
            self.move(found.point)
        best = found or _Trial(before, math.nan, model.loss, theta, 0.0)
        self.diagnostics = Step(
            *(model.loss, best.loss, best.ratio, best.damping, best.length, trials),
            *(model.rank, model.condition, model.solver, limit),
        )
        return model.loss

    def _search(
        self, model: Linearization, attempt: Attempt, before: float, ratio: float
    ) -> tuple[_Trial | None, int, Any]:
        """Return the trial of the smallest damping with the ratio, how many were made, and what limits it."""
        top = _top(model)
        lowest, highest = _eps(model) ** 2 * top, 1e3 * top
        if not model.rank or model.predicted(lowest) <= _eps(model) ** 2 * model.loss:
            return None, 0, "stationary"
        damping = min(max(before / _SPACING**2, lowest), highest)
        trial, trials = attempt(damping), 1
        if trial.ratio >= ratio:
            for _ in range(_FARTHEST):
                if damping <= lowest:
                    return trial, trials, "round-off"
                damping = max(damping / _SPACING, lowest)
                longer, trials = attempt(damping), trials + 1
                if not longer.ratio >= ratio:
                    return trial, trials, "nonlinearity"
                trial = longer
            return trial, trials, "reach"
        return self._shorten(model, attempt, damping, highest, ratio)

    def _shorten(
        self, model: Linearization, attempt: Attempt, failed: float, highest: float, ratio: float
    ) -> tuple[_Trial | None, int, Any]:
        """Search the grid above a damping that failed: in strides that grow, then back by bisection."""
        found: _Trial | None = None
        fallback: _Trial | None = None
        stride, trials, negligible = 1, 1, 4 * _eps(model) * model.loss
        while found is None and failed < highest and model.predicted(failed) > negligible:
            stride = 1 if trials <= _NEAR else 2 * stride
            while stride > 1 and model.predicted(failed * _SPACING**stride) <= negligible:
                stride //= 2
            trial, trials = attempt(failed * _SPACING**stride), trials + 1
            if trial.ratio >= ratio:
                found = trial
            else:
                failed = trial.damping
                if trial.ratio > 0 and (fallback is None or trial.loss < fallback.loss):
                    fallback = trial
        while found is not None and stride > 1:
            half = stride // 2
            trial, trials = attempt(failed * _SPACING**half), trials + 1
            if trial.ratio >= ratio:
                found, stride = trial, half
            else:
                failed, stride = trial.damping, stride - half
        best = fallback if found is None else found
        return best, trials, "stationary" if best is None else "nonlinearity"


def _attempt(model: Linearization, value: Callable[[Tensor], Tensor], theta: Tensor, damping: float) -> _Trial:
    """Make a damped step and correct it while that brings the loss nearer to the predicted one."""
    straight, predicted = model.step(damping), model.predicted(damping)
    delta, best = straight, _Trial(damping, -math.inf, math.inf, theta, 0.0)
    for _ in range(_CORRECTIONS + 1):
        r = value(theta + delta)
        loss = 0.5 * r.square().sum().item()
        if not math.isfinite(loss):
            break
        ratio, missed = (model.loss - loss) / predicted, 1 - best.ratio
        if ratio > best.ratio:
            best = _Trial(damping, ratio, loss, theta + delta, delta.norm().item())
        if ratio >= _ENOUGH or 1 - ratio > missed / 2:
            break
        excess = r - model.residual - model.jacobian.forward(delta[:, None])[:, 0]
        delta = straight + model.correction(damping, excess)
    return best


def _part(found: _Trial, before: float, value: Callable[[Tensor], Tensor], theta: Tensor, fraction: float) -> _Trial:
    """Return what a fraction of a step reaches, or the whole step if the loss is not below ``before`` there."""
    point = theta + fraction * (found.point - theta)
    loss = 0.5 * value(point).square().sum().item()
    if fraction and not loss < before:
        return found
    return replace(found, loss=loss, point=point, length=fraction * found.length)


def _require_fraction(lr: float) -> None:
    if not 0 <= lr <= 1:
        raise ValueError(
            f"LevenbergMarquardt: lr is a fraction of the step found and should be at most 1, got {lr}; "
            "let schedules fall from 1, and lower ratio for longer steps"
        )


def _eps(model: Linearization) -> float:
    return torch.finfo(model.residual.dtype).eps


def _top(model: Linearization) -> float:
    return model.values[0].item() ** 2 if model.rank else 1.0


def _remember(state: dict[str, Any], damping: float) -> None:
    """Note an accepted damping; a rising trend of the last ones starts the superlinear phase."""
    state["damping"], state["steps"] = damping, state["steps"] + 1
    state["recent"] = [*state["recent"], math.log(damping)][-_WINDOW:]
    if state["steps"] >= _EARLIEST and not state["final"]:
        middle = (_WINDOW - 1) / 2
        state["final"] = sum((i - middle) * y for i, y in enumerate(state["recent"])) > 0
