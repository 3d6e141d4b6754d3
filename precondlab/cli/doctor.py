"""``precondlab doctor``."""

from __future__ import annotations

from importlib.util import find_spec

from rich.markup import escape
from rich.table import Table

from precondlab.cli.output import JsonFlag, console, environment, print_json

_OPTIONAL = {  # extra → its package
    "plot": "matplotlib",
    "testing": "hypothesis",
    "checkpoint": "safetensors",
    "deepxde": "deepxde",
    "lightning": "lightning",
    "pina": "pina",
    "huggingface": "transformers",
}


def doctor(as_json: JsonFlag = False) -> None:
    """Say what a result depends on besides its inputs: versions, threads, device, optional packages."""
    optional = {extra: find_spec(package) is not None for extra, package in _OPTIONAL.items()}
    if as_json:
        print_json(environment() | {"optional": optional})
        return
    grid = Table(show_header=False)
    for name, value in environment().items():
        grid.add_row(name, str(value))
    for extra, present in optional.items():
        grid.add_row(extra, "installed" if present else escape(f"missing: pip install 'precondlab[{extra}]'"))
    console.print(grid)
