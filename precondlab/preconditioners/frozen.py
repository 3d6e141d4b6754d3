"""The symbol with frozen coefficients: for variable coefficients and nonlinear equations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from precondlab.differentiation.calculus import KnownField, at, partials
from precondlab.operators import Diagonal
from precondlab.preconditioners.symbol import Multipliers, eps, require_fourier, require_seen, seen_by_conditions
from precondlab.problems.sampling import box_points
from precondlab.symbol import MultiIndex, Symbol

if TYPE_CHECKING:
    from precondlab.models.fourier import FourierSeries
    from precondlab.problems import Problem

__all__ = ["frozen"]


def frozen(
    problem: Problem,
    model: FourierSeries,
    /,
    *,
    weights: Mapping[str, float] | None = None,
    points: int = 4096,
) -> Diagonal:
    """Precondition a Fourier model by the symbol of the equation linearized at the present u, averaged over the box.

    With ``D'(u) φ = Σ_α c_α(x) ∂^α φ`` the preconditioner is ``M = P²`` with

        ``P_k^{-2} = ⨍ |Σ_α c_α(x) (ik)^α|² dx + Σ_b λ_b ‖B_b φ_k‖²``,

    the diagonal of A up to the phase of the waves; for constant coefficients it is
    :func:`~precondlab.preconditioners.symbol`. It removes the dependence of κ on the order of the
    equation and on the frequencies. What the variation of c_α leaves in κ is up to about
    ``(max |c| / min |c|)²``, as no multiplier of waves sees where in the box a coefficient is large: for high contrast
    take a preconditioner from the matrix. Build it again when u has moved.

    Parameters
    ----------
    problem
        Any problem, linear or not.
    model
        Fourier series; u is its present value.
    weights
        λ of the conditions (default 1), as given to ``problem.residual``.
    points
        About how many points the average is taken over.

    Raises
    ------
    ValueError
        If the model has no wave vectors, or a mode is in the kernel of ``D'(u)`` and invisible to every condition.

    Cost: one evaluation of the equation and its derivative in u at the points, one column norm of each
    condition's Jacobian; no product with A.
    Reference: De Ryck, Bonnet, Mishra & de Bézenac (2024), arXiv:2310.05801, for constant coefficients.

    >>> from precondlab import models, problems
    >>> model = models.fourier(2)
    >>> from precondlab.preconditioners import symbol
    >>> ratio = frozen(problems.poisson(), model).entries / symbol(problems.poisson(), model).entries
    >>> ratio.round(decimals=9).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    require_fourier("frozen", model)
    x, quadrature = box_points(problem.domain, points)
    x, mean = x.to(model.wavevectors), quadrature.to(model.wavevectors) / quadrature.sum()
    coefficients = _linearized(problem, model, x)
    moments = torch.stack([torch.stack([mean @ (a * b) for b in coefficients.values()]) for a in coefficients.values()])
    waves = torch.stack([Symbol.derivative(*alpha)(model.wavevectors) for alpha in coefficients], dim=1)
    size = ((waves @ moments.to(waves.dtype)) * waves.conj()).sum(1).real * model.scale**2
    terms = ((waves.abs() @ moments.abs()) * waves.abs()).sum(1) * model.scale**2
    seen = seen_by_conditions(problem, model, weights or {})
    kernel = size <= 10 * eps(size) * terms  # a sum of squares that cancel
    require_seen("frozen", model, kernel, seen)
    total = torch.where(kernel, 0, size) + seen
    return Multipliers(1 / total)


def _linearized(problem: Problem, model: FourierSeries, x: Tensor) -> dict[MultiIndex, Tensor]:
    """Return α → ``c_α = ∂F/∂(∂^α u)`` at points ``[N]``, for the equation ``F(x, u, ∇u, …) = f`` at the present u."""
    if isinstance(problem.equation, Symbol):
        return {alpha: torch.full_like(x[:, 0], c) for alpha, c in problem.equation.coefficients.items()}
    field = _Leaves(at(model, {name: p.detach() for name, p in model.named_parameters()}))
    with torch.enable_grad():
        value = problem.equation(x, field)
        slots = field.slots
        found = torch.autograd.grad(value.sum(), list(slots.values()), allow_unused=True)
    return {alpha: torch.zeros_like(x[:, 0]) if c is None else c for alpha, c in zip(slots, found, strict=True)}


class _Leaves(KnownField):
    """A field whose derivatives are independent variables, so that an equation can be differentiated in each."""

    def __init__(self, field: object) -> None:
        self.field, self.slots = field, {}

    def __call__(self, x: Tensor) -> Tensor:
        (value,) = self.partials(x, [(0,) * x.shape[1]]).values()
        return value[:, None]

    def partials(self, x: Tensor, orders: Iterable[MultiIndex]) -> dict[MultiIndex, Tensor]:
        orders = list(orders)
        missing = [alpha for alpha in orders if alpha not in self.slots]
        for alpha, value in partials(self.field, x, missing).items():  # type: ignore[arg-type]
            self.slots[alpha] = value.detach().requires_grad_()
        return {alpha: self.slots[alpha] for alpha in orders}

    def apply(self, symbol: Symbol, x: Tensor) -> Tensor:
        known = self.partials(x, symbol.coefficients)
        return torch.stack([c * known[alpha] for alpha, c in symbol.coefficients.items()]).sum(0)
