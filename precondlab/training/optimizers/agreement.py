"""Whether the closure that a step is given belongs to the residual that is minimized."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from precondlab.errors import Breakdown
from precondlab.map import Map

if TYPE_CHECKING:
    from precondlab.training.optimizers.minimizer import Evaluation, Minimizer

__all__ = ["Agreement", "agreement"]

_RTOL = {torch.float64: 1e-6}
_RTOL_SINGLE = 1e-3
_ROUNDED = 1e3  # change of the parameters, in units of their round-off, that may change what is compared


@dataclass(frozen=True)
class Agreement:
    """What is known of a closure: its loss is ``c · ½‖r‖²``.

    Attributes
    ----------
    residual
        The map r for which this was found.
    factor
        c > 0.
    proved
        Whether the gradients agree too; if not, c is compared in every step.
    """

    residual: Map
    factor: float
    proved: bool


def agreement(closure: Callable[[], object], optimizer: Minimizer, known: Agreement | None) -> Agreement | None:
    """Call a closure and compare what it returns with the map; None if it returns None.

    In the first step on a map c is the quotient of the losses; the gradient that the closure left, or that of the loss
    it returns where it did not go backward, should be c times ``Jᵀr``. Of a loss that is a bare number, c should be the
    same in later steps. The tolerance is 10⁻³ in single and 10⁻⁶ in
    double precision, or what parameters rounded to three digits less change: near a minimum no more is known.
    Gradients are left as the closure left them.

    Raises
    ------
    TypeError
        If the closure returns neither a number nor None.
    ValueError
        If its loss is no positive multiple of ``½‖r‖²``.
    Breakdown
        If its loss is not finite while ``½‖r‖²`` is.

    Cost: the closure, and, until the gradients agree, one evaluation of r and one backward pass, two if the closure
    did not go backward.
    """
    residual, name = optimizer.residual, type(optimizer).__name__
    if known is not None and known.residual is not residual:
        known = None
    before = {key: _state(p) for key, p in residual.params.items()} if known is None else {}
    with torch.enable_grad():
        loss = closure()
    if loss is None or (known is not None and known.proved):
        return known
    theirs, ours = _number(loss, name), optimizer.evaluate(optimizer.point())
    if not ours.finite or not ours.loss:
        return known  # the step says so; there is nothing to compare with
    if not math.isfinite(theirs):
        raise Breakdown(f"{name}: the closure's loss is {theirs}, ½‖r‖² is {ours.loss:.8g}; check the closure's data")
    factor = theirs / ours.loss if known is None else known.factor
    found = (_left(residual, before) or _owed(residual, loss)) if known is None else None
    wrong, rtol = _difference(theirs, found, factor, ours), _RTOL.get(residual.domain.dtype, _RTOL_SINGLE)
    if not wrong <= rtol:
        rounded = _rounded(optimizer, ours)
        slack = abs(rounded.loss - ours.loss) / ours.loss if rounded.finite else math.inf
        if slack >= 1:
            return known  # both are round-off
        if found is not None:
            slack += _relative(rounded.gradient - ours.gradient, ours.gradient)
        if not wrong <= rtol + slack:
            raise ValueError(
                f"{name}: the closure's loss is {theirs:.8g} and ½‖r‖² is {ours.loss:.8g}, but "
                f"{_complaint(factor, found)}; build the Map from the model, points, weights and terms of the "
                "closure's loss, or call step() without it"
            )
    return Agreement(residual, factor, proved=found is not None)


def _complaint(factor: float, found: object) -> str:
    if not factor > 0:
        return "it should be a positive multiple"
    return f"{'its gradient is not' if found else 'in the first step it was'} {factor:.8g} times that of ½‖r‖²"


def _number(loss: object, name: str) -> float:
    if isinstance(loss, Real) or (isinstance(loss, Tensor) and loss.numel() == 1):
        return float(loss)
    raise TypeError(
        f"{name}: the closure should return its loss, a number, or None, got {type(loss).__name__}; "
        "return one number, or nothing"
    )


def _state(p: Tensor) -> tuple[Tensor | None, int, Tensor | None]:
    """Return a gradient, what shows that it is written in place, and its values."""
    return (None, 0, None) if p.grad is None else (p.grad, p.grad._version, p.grad.clone())


def _left(residual: Map, before: Mapping[str, tuple[Tensor | None, int, Tensor | None]]) -> list[Tensor] | None:
    """Return what a closure may have computed ``[n]``: gradients as it left them, or their change; None for neither."""
    left, change, written = {}, {}, False
    for name, p in residual.params.items():
        was, version, values = before[name]
        now = torch.zeros_like(p) if p.grad is None else p.grad.detach()
        written = written or (p.grad is not None and (p.grad is not was or p.grad._version != version))
        left[name], change[name] = now, now if values is None else now - values
    return [residual.domain.ravel(left), residual.domain.ravel(change)] if written else None


def _owed(residual: Map, loss: object) -> list[Tensor] | None:
    """Return the gradient ``[n]`` of a loss whose graph is still there; None without one."""
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        return None
    params = residual.params
    try:
        gradients = torch.autograd.grad(
            loss, list(params.values()), grad_outputs=torch.ones_like(loss), retain_graph=True, materialize_grads=True
        )
    except RuntimeError:  # the graph was freed, or a parameter is no leaf of any
        return None
    return [residual.domain.ravel(dict(zip(params, gradients, strict=True)))]


def _difference(theirs: float, found: list[Tensor] | None, factor: float, ours: Evaluation) -> float:
    """Return by how much a closure misses c times the gradient, relative to it, or c times the loss if it has none."""
    if not factor > 0:
        return math.inf
    if found is None:
        return abs(theirs / (factor * ours.loss) - 1)
    return min(_relative(gradient / factor - ours.gradient, ours.gradient) for gradient in found)


def _relative(difference: Tensor, whole: Tensor) -> float:
    norm, scale = difference.norm().item(), whole.norm().item()
    return norm / scale if scale else math.inf if norm else 0.0


def _rounded(optimizer: Minimizer, ours: Evaluation) -> Evaluation:
    """Return loss and gradient at parameters that are off by some round-off."""
    domain, theta = optimizer.residual.domain, ours.point
    size = theta.abs() + theta.norm() / len(theta) ** 0.5
    return optimizer.evaluate(theta + _ROUNDED * domain.eps * size * domain.random().sign())
