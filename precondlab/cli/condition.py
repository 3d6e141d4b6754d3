"""``precondlab condition``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from precondlab import demo, spectrum
from precondlab.cli.output import JsonFlag, console, environment, print_json, refusals
from precondlab.factory import load_residual
from precondlab.operators import Gram, Jacobian


def condition(
    target: Annotated[str, typer.Argument(metavar="FILE.py:FACTORY", help="This runs the code in the file.")],
    num_matvecs: Annotated[int | None, typer.Option(min=1, help="Budget of products with A.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of gradient descent to predict.")] = 1000,
    out: Annotated[Path | None, typer.Option(help="Folder for pictures of spectrum and training.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Enclose the condition number of A = JᵀJ for a residual of your own.

    FACTORY takes no arguments and returns a pl.Map, or a pair (model, closure) whose closure returns
    the residual.
    """
    with refusals():
        residual = load_residual(target)
        J = Jacobian(residual)
        result = spectrum.condition(Gram(J), num_matvecs=num_matvecs)
        pictures = [] if out is None else demo.draw_residual(J, out, steps=steps)
    document = result.to_dict() | {
        "operator": repr(Gram(J)),
        "residual": repr(residual),
        "loss": 0.5 * float(residual.value @ residual.value),
        "pictures": [str(path) for path in pictures],
        "environment": environment(),
    }
    if as_json:
        print_json(document)
    else:
        grid = Table(title=escape(repr(Gram(J))), show_header=False, title_justify="left")
        for name in ("estimate", "lower", "upper", "resolved", "rank", "size", "largest", "smallest"):
            grid.add_row(name, f"{getattr(result, name):.8g}")
        grid.add_row("noise floor", f"{result.noise_floor:.3g}")
        grid.add_row("products", str(result.num_matvecs))
        grid.add_row("method", result.method)
        grid.add_row("status", f"{result.status.name.lower()}: {result.status.advice}")
        console.print(grid)
        for path in pictures:
            console.print(f"wrote {path}")
    raise typer.Exit(0 if result.status.ok else 1)
