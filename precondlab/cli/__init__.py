"""Spectra and preconditioners for physics-informed training.

Every module here holds a command, a function of the module's own name, and every subpackage is a group of commands.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType

import torch

try:
    import rich  # noqa: F401
    import typer
except ImportError as error:
    raise SystemExit("the command line needs typer and rich: pip install 'precondlab[cli]'") from error

__all__ = ["app"]


def _group(package: ModuleType) -> typer.Typer:
    """Return a group of the commands in a package: the functions that bear the names of their modules."""
    summary = (package.__doc__ or "").partition("\n")[0]
    group = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=summary)
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        command = getattr(module, info.name, None)
        if info.ispkg:
            group.add_typer(_group(module), name=info.name)
        elif inspect.isfunction(command):
            group.command()(command)
    return group


app = _group(importlib.import_module(__name__))


@app.callback()
def main() -> None:
    """Leave one thread to torch."""
    torch.set_num_threads(1)  # more threads are slower on matrices of this size
