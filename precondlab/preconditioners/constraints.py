"""Boundary values asked for in the loss or built into the model: what each does to κ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from precondlab.models import box_mask, fourier, masked
from precondlab.models.fourier import FourierSeries
from precondlab.operator import Operator
from precondlab.operators import Gram, Jacobian
from precondlab.preconditioners.symbol import symbol
from precondlab.preconditioners.weights import balance
from precondlab.spectrum import Condition, condition

if TYPE_CHECKING:
    from precondlab.problems import Problem
    from precondlab.problems.sampling import Count, Rule

__all__ = ["Constraint", "Constraints", "compare_constraints"]


@dataclass(frozen=True)
class Treatment:
    """κ of one operator, at the weight of the boundary block that is used; None where there is no such block."""

    weight: float | None
    condition: Condition

    @property
    def kappa(self) -> float:
        """κ, or κ on the resolved subspace of an operator that is numerically singular."""
        found = self.condition
        return found.estimate if math.isfinite(found.estimate) else found.resolved

    def steps(self, rtol: float) -> float:
        """Return ``κ ln(1/rtol)``: steps of gradient descent with η = 1/λ_max that suffice from any start."""
        return self.kappa * math.log(1 / rtol)

    def to_dict(self, rtol: float) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"weight": self.weight, "condition": self.condition.to_dict(), "steps": self.steps(rtol)}


@dataclass(frozen=True)
class Constraint:
    """One way to impose boundary values.

    Attributes
    ----------
    name
        Of the way.
    plain
        κ of A; None where there is no best λ: κ falls up to a bound of the search, or A is numerically singular.
    preconditioned
        κ of PAP, P being that of the symbol; None also where no symbol applies.
    """

    name: str
    plain: Treatment | None
    preconditioned: Treatment | None


@dataclass(frozen=True)
class Constraints:
    """Ways to impose boundary values, side by side; ``str`` is a table."""

    rows: tuple[Constraint, ...]
    rtol: float

    def __getitem__(self, name: str) -> Constraint:
        """Return a row by its name.

        Raises KeyError for an unknown one.
        """
        return {row.name: row for row in self.rows}[name]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        rows = [
            {
                "name": row.name,
                "plain": row.plain and row.plain.to_dict(self.rtol),
                "preconditioned": row.preconditioned and row.preconditioned.to_dict(self.rtol),
            }
            for row in self.rows
        ]
        return {"rtol": self.rtol, "rows": rows}

    def __str__(self) -> str:
        head = "   ".join(f"{'λ':>10} {name:>11} {'steps':>10}" for name in ("κ(A)", "κ(PAP)"))
        lines = [f"{'':16} {head}"]
        for row in self.rows:
            cells = [_cells(each, self.rtol) for each in (row.plain, row.preconditioned)]
            lines.append(f"{row.name:16} {cells[0]}   {cells[1]}".rstrip())
        singular = any(row.plain and not math.isfinite(row.plain.condition.estimate) for row in self.rows)
        note = "; *: numerically singular, κ on the resolved subspace" if singular else ""
        return "\n".join([*lines, f"steps of gradient descent to {self.rtol:g}, from κ alone{note}"])


def compare_constraints(
    problem: Problem,
    model: nn.Module,
    /,
    *,
    interior: Count,
    boundary: Count = 400,
    rule: Rule | None = "gauss",
    hard: Mapping[str, nn.Module] | None = None,
    kernel: float = 1.0,
    bounds: tuple[float, float] = (1e-6, 1e9),
    rtol: float = 1e-6,
) -> Constraints:
    """Compare soft boundary conditions with hard ones by what they do to κ(A) and, preconditioned, to κ(PAP).

    Rows: ``"soft, λ = 1"``; ``"soft, best λ"``, best for A and for PAP each; ``"hard, basis"``, the Fourier basis
    that vanishes at both ends (a Fourier series on one interval (−a, a) only); ``"hard, mask"``, the model times
    :func:`~precondlab.models.box_mask`; and models of your own. P is that of :func:`symbol` with ``kernel``, for a
    Fourier series. A mask is not a diagonal in the basis: P, which knows nothing of it, no longer gives a κ
    that is independent of the number of frequencies.

    Parameters
    ----------
    problem
        With a condition that prescribes values of u on both faces of an axis, or of several.
    model
        The soft model; the operators are those at its present parameters.
    interior, boundary, rule
        Points, as for ``problem.residual``. A masked model is not periodic: the midpoint rule does not resolve it.
    hard
        More models that satisfy the condition for every θ, by name.
    kernel
        γ of P on the kernel of D.
    bounds
        Where the best λ is looked for.
    rtol
        For the predicted steps.

    Raises
    ------
    ValueError
        If no condition prescribes values on both faces of an axis.

    Cost: that of :func:`balance` for A and for PAP, and one :func:`~precondlab.condition` for every other entry.

    >>> from precondlab import models, problems
    >>> found = compare_constraints(problems.poisson(), models.fourier(5), interior=90)
    >>> basis, mask = found["hard, basis"], found["hard, mask"]
    >>> round(basis.plain.kappa / 5**4, 6), round(basis.preconditioned.kappa, 6)
    (1.000000, 1.000000)
    >>> round(mask.plain.kappa / 5**4, 2), round(mask.preconditioned.kappa, 2)
    (17.08, 40.65)
    """
    axes, block = _held(problem)

    def gram(module: nn.Module) -> Gram:
        return Gram(Jacobian(problem.residual(module, interior=interior, boundary=boundary, rule=rule)))

    def inverse(series: nn.Module) -> Operator | None:
        if not isinstance(series, FourierSeries) or problem.symbol is None:
            return None
        return symbol(problem, series, kernel=kernel)

    def treated(A: Gram, M: Operator | None, weight: float | None) -> tuple[Treatment, Treatment | None]:
        plain = Treatment(weight, condition(A))
        return plain, None if M is None else Treatment(weight, condition(A, preconditioner=M))

    def best(A: Gram, M: Operator | None) -> Treatment | None:
        try:
            found = balance(A, block, preconditioner=M, bounds=bounds)
        except ValueError:  # κ falls up to a bound
            return None
        return Treatment(found.weight, found.condition) if found.condition.status.ok else None

    A, M = gram(model), inverse(model)
    rows = [
        Constraint("soft, λ = 1", *treated(A, M, 1.0)),
        Constraint("soft, best λ", best(A, None), None if M is None else best(A, M)),
    ]
    basis = _vanishing(problem, model)
    if basis is not None:
        rows.append(Constraint("hard, basis", *treated(gram(basis), inverse(basis), None)))
    mask = box_mask([interval if axis in axes else None for axis, interval in enumerate(problem.domain)])
    rows.append(Constraint("hard, mask", *treated(gram(masked(model, mask)), M, None)))
    rows += [Constraint(name, *treated(gram(module), None, None)) for name, module in (hard or {}).items()]
    return Constraints(tuple(rows), rtol)


def _held(problem: Problem) -> tuple[set[int], str]:
    """Return the axes on both faces of which a condition prescribes values, and the name of that condition."""
    for each in problem.conditions:
        if each.operators or each.shift is not None:
            continue
        faces = set(each.where)
        axes = {axis for axis, interval in enumerate(problem.domain) if {(axis, end) for end in interval} <= faces}
        if axes and all(axis in axes for axis, _ in faces):
            return axes, each.name
    raise ValueError(
        f"compare_constraints: no condition of {problem!r} prescribes values of u on both faces of an axis; "
        "give hard models to problem.residual and compare their condition numbers"
    )


def _vanishing(problem: Problem, model: nn.Module) -> FourierSeries | None:
    """Return the Fourier series of as many frequencies that vanishes at both ends of an interval (−a, a)."""
    if not isinstance(model, FourierSeries) or problem.dim != 1 or model.features.offsets.any():
        return None
    ((a, b),) = problem.domain
    periods = model.wavevectors.abs().max().item() * (b - a) / (2 * math.pi)
    highest = round(periods)
    if not highest or abs(periods - highest) > 1e-9 * highest or not math.isclose(a, -b):
        return None
    basis = fourier(
        highest, domain=problem.domain, scale=model.scale[1:], boundary="zero", dtype=model.coefficients.dtype
    )
    with torch.no_grad():
        basis.coefficients.copy_(model.coefficients[1:])
    return basis.to(model.coefficients.device)


def _cells(treatment: Treatment | None, rtol: float) -> str:
    if treatment is None:
        return f"{'–':>10} {'–':>10}  {'–':>10}"
    weight = "–" if treatment.weight is None else f"{treatment.weight:.4g}"
    mark = "" if math.isfinite(treatment.condition.estimate) else "*"
    return f"{weight:>10} {treatment.kappa:>10.6g}{mark:1} {treatment.steps(rtol):>10.3g}"
