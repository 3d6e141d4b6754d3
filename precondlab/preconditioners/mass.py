"""Mass and stiffness of the tangent functions: the discrete Green's operator of any ansatz space."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from precondlab.differentiation.calculus import Field, Pointwise, partials
from precondlab.errors import NotPositive
from precondlab.map import Map
from precondlab.operator import Operator
from precondlab.operators import Dense, Jacobian
from precondlab.preconditioners.preconditioner import Preconditioner, finite, require_damping
from precondlab.problems.sampling import box_points

if TYPE_CHECKING:
    from precondlab.problems import Problem

__all__ = ["mass_stiffness"]

_BYTES = 2**30  # of the dense matrices


def mass_stiffness(
    problem: Problem,
    model: nn.Module,
    /,
    *,
    order: float | None = None,
    shift: float = 1.0,
    damping: float = 0.0,
    points: int = 1024,
) -> Operator:
    """Precondition any model by the mass and stiffness matrices of its tangent functions ``φ_i = ∂u/∂θ_i``.

    With ``M_ij = ∫φ_iφ_j``, ``K_ij = ∫∇φ_i·∇φ_j + c M_ij`` and the pairs ``Kx = κMx``, ``XᵀMX = I``,

        ``P = X κ^(−s/2)``,  so that ``PPᵀ = M⁻¹, K⁻¹, K⁻¹MK⁻¹, …`` for s = 0, 1, 2, …:

    the Green's operator ``(c − Δ)^(−s)`` in coordinates of θ. For every s the spectrum of ``PᵀAP`` depends on the span
    of the φ_i, no longer on the basis: TT* is gone. s = 0 is whitening and leaves ``D*D`` on the span; s, the order of
    the equation, takes its growth away too. On a Fourier basis it is ``(c + |k|²)^(−s)``, and κ does not depend on the
    number of frequencies K; for Fourier series times a mask that vanishes on the boundary, s = 2 leaves κ ~ K of K⁴.

    Parameters
    ----------
    problem
        Gives the box, and the order if that is None.
    model
        Linearized at its present parameters.
    order
        s ≥ 0; that of the equation if None.
    shift
        c > 0.
    damping
        μ ≥ 0, added to M; positive for tangent functions that depend on each other, those of every network.
    points
        About how many quadrature points.

    Raises
    ------
    NotPositive
        If M is singular to round-off and the damping too small.
    ValueError
        If a number is out of range, the order unknown, or the matrices would take more than a gibibyte.

    Cost: no product with A: the tangent functions and their gradients at N points, ``(d + 1) N n`` numbers, and
    singular value decompositions of both; an application ``4 n²`` operations.
    Reference: Mardal & Winther (2011), doi:10.1002/nla.716, for the inverse of an inner product as a preconditioner;
    De Ryck, Bonnet, Mishra & de Bézenac (2024), arXiv:2310.05801.

    >>> from precondlab import models, problems
    >>> M = mass_stiffness(problems.poisson(), models.fourier(2))  # 1, cos x, cos 2x, sin x, sin 2x
    >>> M.dense().diagonal().rsqrt().round(decimals=6).tolist()
    [1.0, 2.0, 5.0, 2.0, 5.0]
    """
    if order is None:
        if problem.symbol is None:
            raise ValueError(f"mass_stiffness: {problem.name} has no symbol to take the order from; give order=")
        order = float(problem.symbol.order)
    if not (0 <= order < math.inf and 0 < shift < math.inf):
        raise ValueError(f"mass_stiffness: expected a finite order ≥ 0 and shift > 0, got {order} and {shift}")
    require_damping("mass_stiffness", damping)
    J = _tangents(problem, model, points)
    m, n = J.shape
    needed = J.domain.dtype.itemsize * (m * n + 3 * n * n)
    if needed > _BYTES:
        raise ValueError(
            f"mass_stiffness: {n} parameters and {points} points take {needed:,} bytes, more than {_BYTES:,}; "
            "take fewer points, or a method that forms no matrix, e.g. kfac"
        )
    values, gradients = (finite(J.block(name).dense(), "mass_stiffness", J) for name in ("value", "gradient"))
    _, sigma, Vh = torch.linalg.svd(values, full_matrices=len(values) < n)
    mass = torch.nn.functional.pad(sigma.square(), (0, n - len(sigma))) + damping
    if not mass.min() > (0 if damping else (n * J.domain.eps) ** 2 * mass.max()):
        raise NotPositive(
            f"mass_stiffness: the tangent functions of {type(model).__name__} depend on each other: give damping > 0"
        )
    white = Vh.mH * mass.rsqrt()
    _, slope, Qh = torch.linalg.svd(gradients @ white, full_matrices=len(gradients) < n)
    stiffness = shift + torch.nn.functional.pad(slope.square(), (0, n - len(slope)))
    P = Dense((white @ Qh.mH) * stiffness.pow(-order / 2))
    facts = [f"order {order:g}", *([f"μ={damping:.3g}"] if damping else [])]
    return Preconditioner(P @ P.H, "MassStiffness", *facts, setup_matvecs=0, space=J.domain)


def _tangents(problem: Problem, model: nn.Module, points: int) -> Jacobian:
    """Return the Jacobian of u and of ∇u at quadrature points."""
    x, quadrature = (t.to(next(model.parameters())) for t in box_points(problem.domain, points))
    units = [tuple(int(i == j) for j in range(problem.dim)) for i in range(problem.dim)]

    def gradient(x: Tensor, u: Field) -> Tensor:
        found = partials(u, x, units)
        return torch.stack([found[unit] for unit in units], dim=1)

    rows = {"value": Pointwise(model, lambda x, u: u(x)[:, 0]), "gradient": Pointwise(model, gradient)}
    everywhere = {name: x for name in rows}
    weights = {name: quadrature for name in rows}
    return Jacobian(Map(rows, dict(model.named_parameters()), points=everywhere, quadrature=weights))
