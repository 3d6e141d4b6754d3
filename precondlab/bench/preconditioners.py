"""Every preconditioner on every problem: κ before and after, products, set-up, predicted and real steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from precondlab import problems
from precondlab.bench.environment import machine, own_versions
from precondlab.models import fourier
from precondlab.operator import Operator
from precondlab.operators import Gram, Jacobian
from precondlab.preconditioners import deflation, design, frozen, symbol
from precondlab.problems import Problem
from precondlab.report import style
from precondlab.spectrum import eigsh

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["CASES", "Case", "draw", "run", "tables"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A problem, the highest frequencies of its Fourier series, and the weight of its conditions."""

    name: str
    make: Callable[[], Problem]
    frequencies: int | tuple[int, ...]
    weight: float = 1.0


CASES = (
    Case("Poisson 1-d", lambda: problems.poisson(1), 100),
    Case("Poisson 2-d", lambda: problems.poisson(2), 8),
    Case("Poisson 3-d", lambda: problems.poisson(3), 3),
    Case("Poisson 5-d", lambda: problems.poisson(5), 1),
    Case("Helmholtz ω = 4", lambda: problems.helmholtz(4.0), 100),
    Case("advection β = 60π", lambda: problems.advection(60 * math.pi), (5, 20)),
    Case("advection β = 100", lambda: problems.advection(100.0), (5, 20)),
    Case("heat", problems.heat, (8, 8)),
    Case("wave", problems.wave, (8, 8)),
    Case("biharmonic", problems.biharmonic, 40),
    Case("KdV, linear part", problems.kdv, 60),
    Case("Burgers, linearized", lambda: problems.burgers(0.1), (8, 8)),
    Case("Allen–Cahn, linearized", problems.allen_cahn, (8, 8)),
    Case("diffusion, contrast 10", lambda: problems.variable_diffusion(10.0), 60),
    Case("diffusion, contrast 1e6", lambda: problems.variable_diffusion(1e6), 60),
    Case("convection–diffusion, Pe 1e4", lambda: problems.convection_diffusion(1e4), 100),
)


def run(
    *, cases: tuple[Case, ...] = CASES, budget: int = 500, rtol: float = 1e-6, report: Callable[[str], object]
) -> Row:
    """Design on ``A = JᵀJ`` of every case; each candidate may spend ``budget`` products on set-up and on its solve."""
    rows = []
    for case in cases:
        problem, model, A = _build(case)
        more: dict[str, Operator | Callable[[Operator], Operator]] = {
            "frozen": frozen(problem, model),
            "deflation, rank 20": _deflated,
        }
        if problem.symbol is not None:
            more["symbol"] = symbol(problem, model)
        found = design(A, budget=budget, candidates=more, rtol=rtol)
        rows.append({"case": case.name, "operator": repr(A), "parameters": A.shape[1], **found.to_dict()})
        report(f"{case.name}: {found.reason}")
    return {
        "ok": all(any(c["ok"] for c in row["candidates"]) for row in rows),
        "budget": budget,
        "rtol": rtol,
        "cases": rows,
        "machine": machine(),
        "versions": own_versions(),
    }


def _build(case: Case) -> tuple[Problem, Any, Gram]:
    """Return the problem, a Fourier series at a generic point, and ``A``; quadrature resolves every wave."""
    problem = case.make()
    model = fourier(case.frequencies, domain=problem.domain)
    highest = (case.frequencies,) * problem.dim if isinstance(case.frequencies, int) else case.frequencies
    per_axis = tuple(4 * k + 8 if problem.dim < 3 else 2 * k + 3 for k in highest)
    if not problem.linear:
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            size = 1 + model.wavevectors.norm(dim=1)
            model.coefficients.copy_(torch.randn(len(size), generator=generator, dtype=size.dtype) / size**3)
    residual = problem.residual(
        model, interior=per_axis if problem.dim > 1 else per_axis[0], boundary=max(per_axis) ** 2
    )
    return problem, model, Gram(Jacobian(residual))


def _deflated(A: Operator) -> Operator:
    found = eigsh(A, min(20, A.shape[0] // 2), which="LA", tol=1e-3)
    return deflation(found.values, found.vectors)


def _methods(document: Row) -> list[str]:
    """Return the names of all candidates: none first, then by name and rank."""
    names = {c["name"] for row in document["cases"] for c in row["candidates"]}
    return sorted(
        names, key=lambda name: (name != "none", name.split(", rank ")[0], int(f"0{name.partition('rank ')[2]}"))
    )


def draw(document: Row, out: Path) -> Path:
    """Draw the steps of every preconditioner on every problem as a map; return the file ``preconditioners.png``."""
    out.mkdir(parents=True, exist_ok=True)
    methods, cases = _methods(document), document["cases"]
    steps, done = np.full((len(cases), len(methods)), np.nan), np.zeros((len(cases), len(methods)), dtype=bool)
    for i, row in enumerate(cases):
        for c in row["candidates"]:
            if c["steps"] is not None:
                steps[i, methods.index(c["name"])] = c["steps"]
                done[i, methods.index(c["name"])] = c["ok"]
    with style() as plt:
        figure, axes = plt.subplots(figsize=(3.2 + 0.72 * len(methods), 1.6 + 0.36 * len(cases)))
        image = axes.imshow(np.log10(np.maximum(steps, 1)), cmap="viridis_r", vmin=0, vmax=4, aspect="auto")
        for i in range(len(cases)):
            for j in range(len(methods)):
                if np.isfinite(steps[i, j]):
                    text = f"{steps[i, j]:.0f}" if done[i, j] else f"≈{steps[i, j]:.0e}".replace("e+0", "e")
                    dark = np.log10(max(steps[i, j], 1)) > 2
                    axes.text(j, i, text, ha="center", va="center", fontsize=7, color="w" if dark else "k")
                else:
                    axes.text(j, i, "–", ha="center", va="center", fontsize=7, color="0.5")
        axes.set_xticks(range(len(methods)), methods, rotation=40, ha="right", fontsize="small")
        axes.set_yticks(range(len(cases)), [row["case"] for row in cases], fontsize="small")
        axes.set_title(f"Steps of conjugate gradients to {document['rtol']:g} (≈: extrapolated from κ)")
        axes.grid(visible=False)
        figure.colorbar(image, label="log₁₀ steps")
        figure.tight_layout()
        figure.savefig(out / "preconditioners.png")
        plt.close("all")
    return out / "preconditioners.png"


def tables(document: Row) -> list[Table]:
    """Return a rich table per problem."""
    from rich.table import Table

    found = []
    for row in document["cases"]:
        table = Table(title=f"{row['case']}: {row['operator']}", title_justify="left", caption=row["reason"])
        for name in ("", "κ", "set-up", "predicted", "steps", "seconds"):
            table.add_column(name, justify="left" if not name else "right", no_wrap=True)
        for c in row["candidates"]:
            if c["condition"] is None:
                table.add_row(c["name"], "not built")
                continue
            upper = c["condition"]["upper"]
            kappa = f"{c['condition']['lower']:.4g} … {'∞' if upper is None else format(upper, '.4g')}"
            steps = f"{c['steps']:.4g}" if c["ok"] else f"≈ {c['steps']:.3g}"
            table.add_row(
                c["name"], kappa, str(c["setup_matvecs"]), f"{c['predicted']:.4g}", steps, f"{c['seconds']:.3g}"
            )
        found.append(table)
    return found
