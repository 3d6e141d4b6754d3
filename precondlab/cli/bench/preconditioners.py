"""``precondlab bench preconditioners``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from precondlab.cli.output import JsonFlag, finish, progress


def preconditioners(
    out: Annotated[Path, typer.Option(help="Folder for preconditioners.json and its picture.")] = Path("bench-output"),
    budget: Annotated[int, typer.Option(min=2, help="Products each candidate may spend.")] = 500,
    as_json: JsonFlag = False,
) -> None:
    """Try every preconditioner on every problem: κ, set-up, predicted and real steps."""
    from precondlab.bench import preconditioners as workshop

    document = workshop.run(budget=budget, report=progress.print)
    picture = workshop.draw(document, out)
    finish("preconditioners", document, out, [picture], workshop.tables(document), as_json)
