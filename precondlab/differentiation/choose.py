"""Choose a differentiation route: the right ones first, of those the fastest."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from precondlab.differentiation.context import differentiable
from precondlab.differentiation.dual import Dual
from precondlab.differentiation.functional import Functional
from precondlab.differentiation.graph import Graph
from precondlab.differentiation.jets.route import Jets
from precondlab.differentiation.memory import keep_freed
from precondlab.differentiation.route import Route
from precondlab.differentiation.watch import missing_derivative
from precondlab.errors import NotDeterministic, WrongDerivative
from precondlab.space import Space

Function = Callable[[dict[str, Tensor]], Tensor]
RouteName = Literal["auto", "jets", "graph", "functional", "dual"]

_log = logging.getLogger(__name__)


#: All routes, the fastest first. The order is measured, not timed at run time, so that one
#: program takes one route and repeats bit for bit: closed forms take half the time of a retained graph,
#: and that a half to a sixth of evaluating anew, for every model size tried.
ROUTES: dict[str, type[Route]] = {
    "jets": Jets,
    "graph": Graph,
    "functional": Functional,
    "dual": Dual,
}


def linearize(
    function: Function, params: Mapping[str, Tensor], space: Space, route: str, *, memory_budget: int = 2**30
) -> Route:
    """Return the route of the given name for a function at a point; the budget is for routes that are bounded."""
    keep_freed()
    make = ROUTES[route]
    return make(function, params, space, memory_budget) if make.bounded else make(function, params, space)


def values(
    function: Function, params: Mapping[str, Tensor], space: Space, route: str, *, memory_budget: int = 2**30
) -> Function:
    """Return the function as the route of the given name evaluates it, at any parameters and without derivatives.

    Points and whatever else it depends on should stay as they are while it is used.
    """
    keep_freed()
    return ROUTES[route].values(function, params, space, memory_budget)


def choose(
    function: Function,
    params: Mapping[str, Tensor],
    space: Space,
    route: RouteName = "auto",
    *,
    refused: Mapping[str, str] | None = None,
) -> str:
    """Return the name of the fastest route whose products are right for this function.

    Each candidate is checked by :func:`verify`; one that fails is passed over and the reason
    logged, as is one in ``refused`` (name → reason). The function may be a row sample of the one to be differentiated.

    Raises
    ------
    WrongDerivative
        If no candidate is right. The message holds each candidate's reason.
    NotDeterministic
        If two evaluations of the function differ, whatever the route.
    ValueError
        If the function does not depend on the parameters.

    Cost: two products and nine evaluations per candidate, on the sample.
    """
    if route not in ("auto", *ROUTES):
        raise ValueError(f"route: expected 'auto' or one of {list(ROUTES)}, got {route!r}")
    _require_dependence(function, params)
    reasons = []
    for name in ROUTES if route == "auto" else [route]:
        reason = (refused or {}).get(name) or verify(name, function, params, space)
        if reason is None:
            return name
        _log.info("route %r refused: %s", name, reason)
        reasons.append(f"{name}: {reason}")
    raise WrongDerivative(
        "no differentiation route is right for this residual.\n  "
        + "\n  ".join(reasons)
        + "\nSome layers have wrong higher derivatives in torch (LayerNorm at third order, special Bessel "
        "functions): write them from elementary operations, or lower the order of the equation."
    )


def _require_dependence(function: Function, params: Mapping[str, Tensor]) -> None:
    with differentiable():
        leaves = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
        output = function(leaves)
        try:
            gradients = (
                torch.autograd.grad(output.sum(), list(leaves.values()), allow_unused=True)
                if output.requires_grad
                else [None]
            )
        except RuntimeError as error:
            missing = missing_derivative(error)
            if missing is None:
                raise
            raise ValueError(f"the residual has no derivative in its parameters: {missing}") from error
    if all(gradient is None for gradient in gradients):
        raise ValueError(
            f"the residual does not depend on the parameters {list(params)}; compute it from the parameters that "
            "are passed in (or from the model itself), without .detach(), .item(), no_grad or copies made beforehand"
        )


def verify(name: str, function: Function, params: Mapping[str, Tensor], space: Space) -> str | None:
    """Return why a route is wrong for a function, or None if it is right.

    Tests, on fixed random vectors: a finite output that repeats up to round-off, the adjoint
    identity ``⟨u, Jv⟩ = ⟨Jᵀu, v⟩``, and ``Jv`` against central differences. The last one is
    needed: where torch differentiates a layer wrongly, both products can be wrong together. v is
    scaled so that every parameter tensor contributes alike to ``Jv``, as ``Jᵀu`` tells: large ones
    do not hide errors of small ones, down to ε^⅓ of the largest.
    """
    try:
        linearization = linearize(function, params, space, name)
        value = linearization.value
        v, u = _directions(value, params, space)
        Jtu = linearization.vjp(u[:, None])[:, 0]
        v, scale = _balanced(v, Jtu, u, space)
        Jv = linearization.jvp(v[:, None])[:, 0]
    except RuntimeError as error:  # torch's way to say "not supported", and that of jets
        return f"not supported here ({missing_derivative(error) or str(error).splitlines()[0]})"
    once, again = _evaluate(function, params), _evaluate(function, params)
    if not once.isfinite().all():
        raise ValueError(
            f"the residual has {(~once.isfinite()).sum().item()} rows that are not finite at the point of "
            "linearization; check that point and the points at which the residual is evaluated"
        )
    slack = round_off(params, space, v, Jv)
    if not torch.equal(once, again) and not close(once, again, 1e3 * space.eps, slack):
        raise NotDeterministic(
            "the residual gives two different values at the same parameters: draw random points once, "
            "outside the residual, and put the model in evaluation mode (model.eval())"
        )
    if not close(value, once, space.eps**0.5, slack):
        return "its value is not that of the residual"
    if not (Jv.isfinite().all() and Jtu.isfinite().all()):
        return "its products are not finite"
    mismatch = abs((u @ Jv - Jtu @ v).item())
    if mismatch > space.eps**0.5 * scale:
        return f"⟨u, Jv⟩ and ⟨Jᵀu, v⟩ differ by {mismatch / scale:.1e} relative"
    error = finite_difference_error(function, params, space, v, Jv)
    tolerance = 1e-4 if space.eps < 1e-10 else 2e-2
    return None if error <= tolerance else f"Jv is {error:.1e} away from finite differences"


def finite_difference_error(
    function: Function, params: Mapping[str, Tensor], space: Space, v: Tensor, Jv: Tensor
) -> float:
    """Return the smallest relative distance of ``Jv`` to central differences over several steps.

    Round-off of the difference quotient is subtracted, so a right ``Jv`` gives about 0 for some
    step and a wrong one is off for all of them.
    """
    theta = space.ravel(params)
    scale = max(theta.norm().item(), 1.0) / v.norm().item()
    errors = []
    for exponent in (0.2, 1 / 3, 0.45):
        step = space.eps**exponent * scale
        ahead = _evaluate(function, space.unravel(theta + step * v))
        behind = _evaluate(function, space.unravel(theta - step * v))
        quotient = (ahead - behind) / (2 * step)
        round_off = 10 * space.eps * (ahead.norm() + behind.norm()).item() / step
        excess = max((quotient - Jv).norm().item() - round_off, 0.0)
        size = max(Jv.norm().item(), quotient.norm().item())
        errors.append(excess / size if excess else 0.0)
    return min(errors)


def _directions(value: Tensor, params: Mapping[str, Tensor], space: Space) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    v = space.random(generator=generator)
    u = torch.randn(value.shape, dtype=value.dtype, generator=generator).to(value.device)
    return v, u


def _evaluate(function: Function, params: Mapping[str, Tensor]) -> Tensor:
    with torch.enable_grad():  # the residual may differentiate inside
        return function(dict(params)).detach()


def _balanced(v: Tensor, Jtu: Tensor, u: Tensor, space: Space) -> tuple[Tensor, float]:
    """Return v with blocks scaled by ``1/‖(Jᵀu)_b‖``, and the size ``‖u‖‖Jv‖`` that its products then have."""
    balanced, scale = v.clone(), 0.0
    sizes = {name: Jtu[part].norm().item() for name, part in space.slices.items()}
    largest = max(sizes.values())
    if not 0 < largest < float("inf"):
        return v, (u.norm() * v.norm()).item()
    for name, part in space.slices.items():
        size = sizes[name] if sizes[name] > space.eps ** (1 / 3) * largest else largest
        balanced[part] /= size
        scale += sizes[name] * balanced[part].norm().item()
    return balanced, scale


def round_off(params: Mapping[str, Tensor], space: Space, v: Tensor, Jv: Tensor) -> float:
    """Return what a relative change of the parameters by a thousand ε may change in a residual.

    A residual small by cancellation, as where training has converged, is known no better.
    """
    return 1e3 * space.eps * Jv.norm().item() * space.ravel(params).norm().item() / max(v.norm().item(), space.eps)


def close(a: Tensor, b: Tensor, rtol: float, atol: float) -> bool:
    """Return whether ``‖a − b‖ ≤ rtol ‖b‖ + atol``."""
    return (a - b).norm().item() <= rtol * b.norm().item() + (atol if math.isfinite(atol) else 0.0)
