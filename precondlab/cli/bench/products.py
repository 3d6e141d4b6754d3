"""``precondlab bench products``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from precondlab.cli.output import JsonFlag, finish, progress


def products(
    out: Annotated[Path, typer.Option(help="Folder for products.json and pictures.")] = Path("bench-output"),
    peers: Annotated[Path, typer.Option(help="Interpreter with the other libraries (make peers).")] = Path(
        ".venv-peers/bin/python"
    ),
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of timing; 5 or more to be quoted.")] = 7,
    quick: Annotated[bool, typer.Option("--quick", help="A tiny network: only that everything works.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Time products with JᵀJ in every way, as a ratio to the arithmetic bound."""
    from precondlab.bench import products as benchmark
    from precondlab.bench import show

    found = peers.absolute() if peers.exists() else None  # not resolve(): the link is what makes it a venv
    document = benchmark.run(quick=quick, rounds=rounds, peers=found, report=progress.print)
    pictures = show.draw(document, out)
    finish("products", document, out, pictures, show.tables(document), as_json)
