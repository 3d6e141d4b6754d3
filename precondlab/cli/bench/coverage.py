"""``precondlab bench coverage``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from precondlab.cli.output import JsonFlag, finish, progress


def coverage(
    out: Annotated[Path, typer.Option(help="Folder for coverage.json and its picture.")] = Path("bench-output"),
    runs: Annotated[int, typer.Option(min=1, help="Number of intervals; 10000 or more to be quoted.")] = 10_000,
    as_json: JsonFlag = False,
) -> None:
    """Count how often intervals for κ hold, over the gallery of known spectra and drawn ones."""
    from precondlab.bench import coverage as campaign

    document = campaign.run(runs=runs, report=progress.print)
    picture = campaign.draw(document, out)
    finish("coverage", document, out, [picture], [campaign.table(document)], as_json)
