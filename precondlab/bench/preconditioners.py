"""Every preconditioner on every problem: κ before and after, products, set-up, predicted and real steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from precondlab import problems
from precondlab.bench.environment import machine, own_versions
from precondlab.bench.steps import made
from precondlab.krylov import cg
from precondlab.models import fourier
from precondlab.models.fourier import FourierSeries
from precondlab.operator import Operator
from precondlab.operators import Dense, Gram, Identity, Jacobian
from precondlab.preconditioners import (
    deflation,
    design,
    frozen,
    jacobi,
    lanczos_polynomial,
    lbfgs,
    mass_stiffness,
    nested,
    nystrom,
    schwarz,
    sketch,
    subdomains,
    symbol,
    two_level,
)
from precondlab.problems import Problem
from precondlab.report import style
from precondlab.spectrum import eigsh

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["CASES", "Case", "draw", "run", "tables"]

Row = dict[str, Any]
Maker = Callable[[Operator], Operator]

_TOP = 20  # eigenpairs, rank or pairs of methods that keep some


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
    Case("Poisson 4-d", lambda: problems.poisson(4), 1),
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
    *,
    cases: tuple[Case, ...] = CASES,
    budget: int = 500,
    rtol: float = 1e-6,
    limit: int = 2000,
    report: Callable[[str], object],
) -> Row:
    """Design on ``A = JᵀJ`` of every case, then train with every candidate.

    Each candidate may spend ``budget`` products on its set-up and on the trial solve of :func:`design`. Those
    that could be built then make steps of gradient descent and of conjugate gradients until the loss
    has fallen by ``rtol²``, at most ``limit``: see :func:`precondlab.bench.steps.made`. Products are those of a
    formed J, which the candidates cannot look into.
    """
    rows = []
    for case in cases:
        problem, model, A = _build(case)
        R = torch.linalg.qr(A.J.dense(), mode="r").R
        hidden = Gram(Dense(R) @ Identity(A.domain))
        found = design(hidden, budget=budget, candidates=dict(_more(problem, model, hidden)), rtol=rtol)
        row = {"case": case.name, "operator": repr(A), "parameters": A.shape[1], **found.to_dict()}
        start = A.domain.random(generator=torch.Generator().manual_seed(1))
        for candidate, document in zip(found.candidates, row["candidates"], strict=True):
            if candidate.condition is not None:
                document |= made(
                    Gram(Dense(R)), candidate.preconditioner, candidate.condition, start, rtol=rtol, limit=limit
                )
        rows.append(row)
        report(f"{case.name}: {found.reason}")
    return {
        "ok": all(any(c["ok"] for c in row["candidates"]) for row in rows),
        "budget": budget,
        "rtol": rtol,
        "limit": limit,
        "cases": rows,
        "machine": machine(),
        "versions": own_versions(),
    }


def _build(case: Case) -> tuple[Problem, FourierSeries, Gram]:
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
    residual = problem.residual(model, interior=per_axis if problem.dim > 1 else per_axis[0], boundary=per_axis)
    return problem, model, Gram(Jacobian(residual))


def _more(problem: Problem, model: FourierSeries, A: Gram) -> Iterator[tuple[str, Operator | Maker]]:
    """Yield the preconditioners that need the equation, a choice, or a spectrum computed before."""
    yield "frozen", lambda A: frozen(problem, model)
    if problem.symbol is not None:
        yield "symbol", lambda A: symbol(problem, model)
        yield "mass_stiffness", lambda A: mass_stiffness(problem, model, points=max(1024, 4 * A.shape[0]))
    bands = subdomains(model.wavevectors, (3,) + (1,) * (problem.dim - 1), overlap=0.2)
    yield "schwarz, 3 bands", lambda A: schwarz(A, bands)
    yield "sketch", lambda A: sketch(cast(Gram, A).J)
    yield "lanczos_polynomial, degree 4", lambda A: lanczos_polynomial(A, degree=4)
    yield f"deflation, rank {_TOP}", lambda A: deflation(*_top(A))
    yield f"two_level, rank {_TOP}", lambda A: two_level(A, jacobi(A), _top(A)[1])
    yield f"nested jacobi, nystrom, rank {_TOP}", lambda A: nested(A, jacobi(A), lambda B: nystrom(B, rank=_TOP))
    yield f"lbfgs, rank {_TOP}", _pairs


def _top(A: Operator) -> tuple[np.ndarray, Tensor]:
    found = eigsh(A, min(_TOP, A.shape[0] // 2), which="LA", tol=1e-3)
    return found.values, found.vectors


def _pairs(A: Operator) -> Operator:
    """Return the quasi-Newton operator of the last steps of conjugate gradients."""
    points: list[Tensor] = [A.domain.zeros()]
    b = A.forward(A.domain.random(1, generator=torch.Generator().manual_seed(2)))[:, 0]
    cg(A, b, rtol=0.0, maxiter=_TOP, callback=lambda x: points.append(x.clone()))
    steps = torch.stack(points, dim=1).diff(dim=1)
    return lbfgs(steps, A.forward(steps))


def _methods(document: Row) -> list[str]:
    """Return the names of the candidates that could be built: none first, then by name and rank."""
    names = {c["name"] for row in document["cases"] for c in row["candidates"] if c["condition"] is not None}
    return sorted(
        names, key=lambda name: (name != "none", name.split(", rank ")[0], int(f"0{name.partition('rank ')[2]}"))
    )


def draw(document: Row, out: Path) -> Path:
    """Draw the steps of every preconditioner on every problem as maps; return the file ``preconditioners.png``."""
    out.mkdir(parents=True, exist_ok=True)
    methods, cases = _methods(document), document["cases"]
    titles = {"cg": "Conjugate gradients", "descent": "Gradient descent, best η"}
    with style() as plt:
        size = (3.2 + 0.62 * len(methods), 2.6 + 0.62 * len(cases))
        figure, both = plt.subplots(len(titles), 1, figsize=size, sharex=True, layout="constrained")
        for axes, (way, title) in zip(both, titles.items(), strict=True):
            steps = np.full((len(cases), len(methods)), np.nan)
            for i, row in enumerate(cases):
                texts = dict.fromkeys(methods, "–")
                for c in row["candidates"]:
                    if way in c:
                        value, text = _shown(c[way])
                        steps[i, methods.index(c["name"])], texts[c["name"]] = value, text
                for j, method in enumerate(methods):
                    dark = np.nan_to_num(steps[i, j]) > 200
                    color = "w" if dark else "k" if np.isfinite(steps[i, j]) else "0.5"
                    axes.text(j, i, texts[method], ha="center", va="center", fontsize=6.5, color=color)
            image = axes.imshow(np.log10(np.maximum(steps, 1)), cmap="viridis_r", vmin=0, vmax=5, aspect="auto")
            axes.set_yticks(range(len(cases)), [row["case"] for row in cases], fontsize="small")
            axes.set_title(f"{title}: steps to √(L/L₀) ≤ {document['rtol']:g}   (≈: promised by κ only)")
            axes.grid(visible=False)
            figure.colorbar(image, ax=axes, label="log₁₀ steps")
        axes.set_xticks(range(len(methods)), methods, rotation=40, ha="right", fontsize="small")
        figure.savefig(out / "preconditioners.png")
        plt.close("all")
    return out / "preconditioners.png"


def _shown(found: Row) -> tuple[float, str]:
    """Return the steps made, or else those that κ promises, and how to write them."""
    if found["steps"] is not None:
        return found["steps"], str(found["steps"])
    if found["bound"] is None:
        return math.nan, "?"
    return found["bound"], f"≈{found['bound']:.0e}".replace("e+0", "e").replace("e+", "e")


def tables(document: Row) -> list[Table]:
    """Return a rich table per problem; steps as κ promises / as predicted from the spectrum / as made."""
    from rich.table import Table

    found = []
    for row in document["cases"]:
        table = Table(title=f"{row['case']}: {row['operator']}", title_justify="left", caption=row["reason"])
        for name in ("", "κ", "set-up", "per step", "CG", "gradient descent", "seconds"):
            table.add_column(name, justify="left" if not name else "right", no_wrap=True)
        for c in row["candidates"]:
            if c["condition"] is None:
                table.add_row(c["name"], "not built")
                continue
            upper = c["condition"]["upper"]
            kappa = f"{c['condition']['lower']:.4g} … {'∞' if upper is None else format(upper, '.4g')}"
            cells = [_triple(c[way]) for way in ("cg", "descent")]
            table.add_row(
                c["name"], kappa, str(c["setup_matvecs"]), str(c["step_matvecs"]), *cells, f"{c['seconds']:.3g}"
            )
        found.append(table)
    return found


def _triple(found: Row) -> str:
    parts = [found[name] for name in ("bound", "predicted", "steps")]
    return " / ".join("–" if part is None else f"{part}" if part < 1e5 else f"{part:.1e}" for part in parts)
