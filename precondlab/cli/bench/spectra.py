"""``precondlab bench spectra``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from precondlab.cli.output import JsonFlag, finish, progress


def spectra(
    out: Annotated[Path, typer.Option(help="Folder for spectra.json and its picture.")] = Path("bench-output"),
    peers: Annotated[Path, typer.Option(help="Interpreter with the other libraries (make peers).")] = Path(
        ".venv-peers/bin/python"
    ),
    only: Annotated[list[str] | None, typer.Option(help="Name of a study; all by default.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small operators: only that everything works.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Compute condition numbers, eigenvalues and densities in every library, checked against the truth."""
    from precondlab.bench import spectra as benchmark
    from precondlab.bench import spectra_show as show

    try:
        studies = benchmark.select(only or (), quick=quick)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    found = peers.absolute() if peers.exists() else None
    document = benchmark.run(quick=quick, studies=studies, peers=found, report=progress.print)
    picture = show.draw(document, out)
    finish("spectra", document, out, [picture], show.tables(document), as_json)
