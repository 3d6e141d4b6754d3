"""What commands share: where they write, how they refuse, and what a number depends on besides its inputs."""

from __future__ import annotations

import contextlib
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["JsonFlag", "console", "environment", "finish", "print_json", "progress", "refusals"]

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
console = Console()
progress = Console(stderr=True)


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turn a mistake of the user into one line on stderr and exit code 2."""
    try:
        yield
    except (ArithmeticError, TypeError, ValueError) as error:
        progress.print(f"[bold red]error:[/] {escape(str(error))}")
        raise typer.Exit(2) from None


def print_json(document: dict[str, Any]) -> None:
    """Write one JSON document on stdout."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def environment() -> dict[str, Any]:
    """Return versions, threads and devices: what a number depends on besides its inputs."""
    import numpy
    import scipy

    import precondlab

    return {
        "precondlab": precondlab.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
    }


def finish(
    name: str, document: dict[str, Any], out: Path, pictures: list[Path], tables: list[Table], as_json: bool
) -> NoReturn:
    """Write the document of a benchmark, show it, and exit with whether it is what it claims."""
    path = out / f"{name}.json"
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if as_json:
        print_json(document)
    else:
        for table in tables:
            console.print(table)
        for written in [*pictures, path]:
            console.print(f"wrote {written}")
    raise typer.Exit(0 if document["ok"] else 1)
