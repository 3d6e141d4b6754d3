"""``precondlab bench networks``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from precondlab.cli.output import JsonFlag, finish, progress


def networks(
    out: Annotated[Path, typer.Option(help="Folder for networks.json and its picture.")] = Path("bench-output"),
    as_json: JsonFlag = False,
) -> None:
    """Precondition networks at initialization: what moves their spectrum, and what only moves κ."""
    from precondlab.bench import networks as study

    document = study.run(report=progress.print)
    picture = study.draw(document, out)
    finish("networks", document, out, [picture], study.tables(document), as_json)
