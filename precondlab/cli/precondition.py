"""``precondlab precondition``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from precondlab import demo, preconditioners
from precondlab.cli.output import JsonFlag, console, environment, print_json, refusals
from precondlab.factory import load_problem, load_residual
from precondlab.models.fourier import FourierSeries
from precondlab.operator import Operator
from precondlab.operators import Gram, Jacobian
from precondlab.problems import Problem

Maker = Callable[[Operator], Operator]


def precondition(
    target: Annotated[str, typer.Argument(metavar="PROBLEM", help="Name of a problem, or FILE.py:FACTORY.")],
    frequencies: Annotated[int, typer.Option(min=1, help="Highest frequency of the Fourier series, for a name.")] = 20,
    budget: Annotated[int, typer.Option(min=2, help="Products each candidate may spend.")] = 500,
    damping: Annotated[float, typer.Option(min=0.0, help="Added to A; positive for a singular A.")] = 0.0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for precondition.png, the spectra before and after; else none is drawn.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Try the preconditioners that apply to A = JᵀJ and rank them by what a solution costs."""
    with refusals():
        more: dict[str, Maker] = {}
        if ":" in target:
            residual = load_residual(target)
        else:
            problem, model, residual = load_problem(target, frequencies=frequencies)
            more = dict(_of_the_equation(problem, model))
        A = Gram(Jacobian(residual))
        found = preconditioners.design(A, budget=budget, candidates=more, damping=damping)
        pictures = [] if out is None else [demo.draw_design(A, found, out)]
    if as_json:
        print_json(found.to_dict() | {"pictures": [str(path) for path in pictures], "environment": environment()})
    else:
        console.print(f"{A!r}\n\n{found}", markup=False, highlight=False, soft_wrap=True)
        for path in pictures:
            console.print(f"wrote {path}")
    raise typer.Exit(0 if found.best.status.ok else 1)


def _of_the_equation(problem: Problem, model: FourierSeries) -> Iterator[tuple[str, Maker]]:
    """Yield the preconditioners that need the equation: built within the trial, which pays for them."""
    yield "frozen", lambda A: preconditioners.frozen(problem, model)
    if problem.symbol is not None:
        yield "symbol", lambda A: preconditioners.symbol(problem, model)
        points = max(1024, 4 * len(model.wavevectors))
        yield "mass_stiffness", lambda A: preconditioners.mass_stiffness(problem, model, points=points)
