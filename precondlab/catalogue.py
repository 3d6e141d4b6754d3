"""Find what a subpackage offers: new files are found without being registered anywhere."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["factories"]


def factories(package: ModuleType, returning: str) -> dict[str, Callable[..., Any]]:
    """Return the public functions of a subpackage's modules that return a type, by name.

    A function is public if its module names it in ``__all__``.

    >>> from precondlab import problems
    >>> "poisson" in factories(problems, "Problem")
    True
    """
    found = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for name in getattr(module, "__all__", ()):
            candidate = getattr(module, name)
            if inspect.isfunction(candidate) and candidate.__annotations__.get("return") == returning:
                found[name] = candidate
    return dict(sorted(found.items()))
