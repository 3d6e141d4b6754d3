"""``precondlab bench ablation``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from precondlab.cli.output import JsonFlag, finish, progress


def ablation(
    out: Annotated[Path, typer.Option(help="Folder for ablation.json and its picture.")] = Path("bench-output"),
    as_json: JsonFlag = False,
) -> None:
    """Put every preconditioner into gradient descent, Adam and Levenberg–Marquardt: predicted and measured speed-up."""
    from precondlab.bench import ablation as study
    from precondlab.bench import ablation_show as show

    document = study.run(report=progress.print)
    picture = show.draw(document, out)
    finish("ablation", document, out, [picture], show.tables(document), as_json)
