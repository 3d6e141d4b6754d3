"""``precondlab precondition``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from precondlab import demo, preconditioners
from precondlab.cli.output import JsonFlag, console, environment, print_json, refusals
from precondlab.factory import load_problem, load_residual
from precondlab.operators import Gram, Jacobian


def precondition(
    target: Annotated[str, typer.Argument(metavar="PROBLEM", help="Name of a problem, or FILE.py:FACTORY.")],
    frequencies: Annotated[int, typer.Option(min=1, help="Highest frequency of the Fourier series, for a name.")] = 20,
    budget: Annotated[int, typer.Option(min=2, help="Products each candidate may spend.")] = 500,
    damping: Annotated[float, typer.Option(min=0.0, help="Added to A; positive for a singular A.")] = 0.0,
    out: Annotated[Path | None, typer.Option(help="Folder for a picture of the spectra before and after.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Try the preconditioners that apply to A = JᵀJ and rank them by what a solution costs."""
    with refusals():
        more = {}
        if ":" in target:
            residual = load_residual(target)
        else:
            problem, model, residual = load_problem(target, frequencies=frequencies)
            if getattr(problem, "symbol", None) is not None:
                more["symbol"] = preconditioners.symbol(problem, model)
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
