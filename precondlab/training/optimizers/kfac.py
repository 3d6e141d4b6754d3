"""Gauss–Newton with one Kronecker product per layer, and the best rate and momentum in every step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from precondlab.map import Map
from precondlab.operators import Gram, Jacobian
from precondlab.preconditioners.kfac import kfac
from precondlab.training.optimizers.line_search import armijo
from precondlab.training.optimizers.minimizer import Evaluation, Minimizer, Step, require_rate

__all__ = ["KFAC", "KFACStep"]

_GOOD, _BAD, _FACTOR = 0.75, 0.25, 2.0  # ratios between which the damping stays, and by what it changes else
_LEAST = 1e-8  # damping, in units of the loss


@dataclass(frozen=True)
class KFACStep(Step):
    """What one step of :class:`KFAC` did.

    Attributes
    ----------
    reached
        ``½‖r‖²`` after it.
    ratio
        Actual reduction over the one the quadratic model predicts for a step of this length.
    damping
        μ.
    rate, momentum
        α and β.
    trials
        Lengths tried.
    limit
        ``"model"`` (the full step of the quadratic model was taken), ``"nonlinearity"`` (a longer one does not reduce
        the loss enough) or ``"stationary"`` (no length does: no step).
    """

    reached: float
    ratio: float
    damping: float
    rate: float
    momentum: float
    trials: int


class KFAC(Minimizer):
    """Minimize ``½‖r(θ)‖²`` by steps ``δ = −αMJᵀr + βδ₋``, M the Kronecker-factored inverse of ``JᵀJ + μI``.

    α and β minimize the true quadratic model ``gᵀδ + ½δᵀ(JᵀJ + μI)δ``, ``g = Jᵀr``, over the plane of Mg and of the
    last step δ₋; δ is halved until Armijo's condition holds. ``μ = damping · ½‖r‖²`` falls with the loss;
    ``damping`` is halved after full steps that gain 0.75 of what the model predicts, down to 1e-8, and doubled after
    shorter ones and below 0.25. The factors of M are made anew in every step, from all rows of the residual.

    Parameters
    ----------
    residual
        The map r, of one feed-forward network and without weights outside linear layers; its parameters are updated in
        place. It can be replaced between steps.
    lr
        First length of δ tried.
    damping
        First μ in units of the loss.

    Attributes
    ----------
    diagnostics : KFACStep or None
        What the last step did.

    Raises
    ------
    ValueError
        For lr or damping that is not positive, and for residuals that :func:`~precondlab.preconditioners.kfac` does
        not take.
    Breakdown
        If loss or gradient is not finite; the parameters are left as they were.

    Cost per step: one evaluation of r, one backward pass, the factors, which are as much as a product with Jᵀ and
    ``2 R C (p² + q²)`` operations and three eigendecompositions for each layer ``p → q``, two products with J, and one
    evaluation of r per trial.
    Reference: Dangel, Müller & Zeinhofer (2024), doi:10.48550/arXiv.2405.15603; Martens & Grosse (2015),
    doi:10.48550/arXiv.1503.05671, sections 6.5 and 7.

    >>> from precondlab.models import mlp
    >>> from precondlab.problems import poisson
    >>> problem, model = poisson(1), mlp((1, 8, 8, 1), seed=0)
    >>> optimizer = KFAC(problem.residual(model, interior=20))
    >>> losses = [optimizer.step().item() for _ in range(60)]
    >>> problem.error(model) < 1e-2
    True
    """

    def __init__(self, residual: Map, *, lr: float = 1.0, damping: float = 1.0) -> None:
        require_rate("KFAC", lr)
        if not damping > 0:
            raise ValueError(f"KFAC: expected damping > 0, got {damping}")
        super().__init__(residual, {"lr": lr}, factor=float(damping), previous=None)

    def _step(self) -> float:
        here, solver = self.here(), self.solver
        mu = solver["factor"] * here.loss
        if not here.gradient.any():
            self.diagnostics = KFACStep(here.loss, 0.0, "stationary", here.loss, 0.0, mu, 0.0, 0.0, 0)
            return here.loss
        J = self.jacobian(here.point)
        direction, gain, rates = self._model(J, here, mu)
        length, reached, trials = armijo(self.residual, here, direction, self.param_groups[0]["lr"])
        ratio = (here.loss - reached) / (length * (2 - length) * gain) if length else float("nan")
        if trials == 1 and ratio > _GOOD:
            solver["factor"] = max(solver["factor"] / _FACTOR, _LEAST)
        elif trials > 1 or not ratio > _BAD:
            solver["factor"] *= _FACTOR
        step = length * direction
        solver["previous"] = step if length else None
        self.move(here.point + step)
        limit = "stationary" if not length else "nonlinearity" if trials > 1 else "model"
        moved = step.norm().item()
        self.diagnostics = KFACStep(here.loss, moved, limit, reached, ratio, mu, *rates, trials)
        return here.loss

    def _model(self, J: Jacobian, here: Evaluation, mu: float) -> tuple[Tensor, float, tuple[float, float]]:
        """Return the minimizer of the quadratic model in the plane, what it gains, and α and β."""
        natural = -kfac(Gram(J), damping=mu).forward(here.gradient[:, None])
        previous = self.solver["previous"]
        plane = natural if previous is None else torch.cat([natural, previous[:, None]], dim=1)
        lengths = plane.norm(dim=0)
        plane = plane / lengths
        JP = J.forward(plane)
        curvature = JP.T @ JP + mu * plane.T @ plane
        slope = plane.T @ here.gradient
        best = -torch.linalg.lstsq(curvature.cpu(), slope.cpu()[:, None], driver="gelsd").solution[:, 0].to(slope)
        gain = -(slope @ best + 0.5 * best @ curvature @ best).item()
        alpha, beta = (*(best / lengths).tolist(), 0.0)[:2]
        return plane @ best, gain, (alpha, beta)
