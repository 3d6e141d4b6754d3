"""``precondlab demo``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import track
from rich.table import Table as Grid

from precondlab import demo as demonstration
from precondlab.cli.output import JsonFlag, console, environment, print_json, progress
from precondlab.report import Table


def demo(
    out: Annotated[Path, typer.Option(help="Folder for pictures and demo.json.")] = Path("demo-output"),
    as_json: JsonFlag = False,
) -> None:
    """Recompute the tables of the theory, measured beside predicted, and draw spectra and training curves."""
    steps = demonstration.TABLES
    tables = [make() for make in track(steps, description="tables", console=progress, disable=not progress.is_terminal)]
    pictures = demonstration.draw(out)
    agrees = all(table.agrees for table in tables)
    document = {
        "ok": agrees,
        "tables": [table.to_dict() for table in tables],
        "pictures": [str(path) for path in pictures],
        "environment": environment(),
    }
    (out / "demo.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if as_json:
        print_json(document)
    else:
        for table in tables:
            console.print(_grid(table))
        for path in [*pictures, out / "demo.json"]:
            console.print(f"wrote {path}")
        verdict = "every number agrees with theory" if agrees else "[bold red]some numbers disagree with theory"
        console.print(verdict)
    raise typer.Exit(0 if agrees else 1)


def _grid(table: Table) -> Grid:
    grid = Grid(title=escape(table.title), title_justify="left")
    grid.add_column("")
    grid.add_column("theory", justify="right")
    grid.add_column("measured", justify="right")
    grid.add_column("")
    for row in table.rows:
        mark = "[green]✓" if row.agrees else "[bold red]✗"
        grid.add_row(escape(row.quantity), row.theory, f"{row.measured:.8g}", mark)
    return grid
