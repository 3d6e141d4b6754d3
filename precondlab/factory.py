"""Load a residual: a user's from ``FILE.py:FACTORY``, or a problem of the library by its name."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from torch import nn

from precondlab import problems
from precondlab.catalogue import factories
from precondlab.map import Map
from precondlab.models import fourier
from precondlab.models.fourier import FourierSeries
from precondlab.problems import Problem

__all__ = ["FactoryError", "load_problem", "load_residual", "named_problem"]


class FactoryError(ValueError):
    """A ``FILE.py:FACTORY`` that cannot be found or does not return a residual."""


def load_residual(target: str) -> Map:
    """Run the factory named by ``FILE.py:FACTORY`` and return its residual map.

    The file is executed. The factory takes no arguments and returns a :class:`Map`, or a pair
    (model, closure) for :meth:`Map.of_module`.

    Raises
    ------
    FactoryError
        If the file or the function does not exist, the file does not import, or the function
        returns something else.
    """
    path, separator, name = target.rpartition(":")
    if not separator or not name:
        raise FactoryError(f"expected FILE.py:FACTORY, got {target!r}; e.g. problem.py:make_residual")
    module = _load(Path(path))
    factory = getattr(module, name, None)
    if not callable(factory):
        found = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        raise FactoryError(f"{path} has no function {name!r}; it defines {', '.join(found) or 'none'}")
    made = factory()
    if isinstance(made, Map):
        return made
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module) and callable(made[1]):
        return Map.of_module(*made)
    raise FactoryError(f"{target} should return a pl.Map or a pair (model, closure), got {type(made).__name__}")


def named_problem(name: str) -> Problem:
    """Return a problem of the library by its name.

    Raises
    ------
    FactoryError
        If there is none of that name.

    >>> named_problem("heat_rod").dim
    2
    """
    known = factories(problems, "Problem")
    if name not in known:
        raise FactoryError(f"expected the name of a problem, one of {', '.join(known)}; got {name!r}")
    return known[name]()


def load_problem(name: str, *, frequencies: int) -> tuple[Problem, FourierSeries, Map]:
    """Return a problem of the library by its name, with a Fourier series and its residual.

    Raises
    ------
    FactoryError
        If there is no problem of that name.

    >>> load_problem("poisson", frequencies=2)[2]
    Map[5 parameters → {interior: 16, boundary: 2}]
    """
    problem = named_problem(name)
    model = fourier(frequencies, domain=problem.domain)
    per_axis = 4 * frequencies + 8
    return problem, model, problem.residual(model, interior=per_axis ** len(problem.domain), boundary=4 * per_axis)


def _load(path: Path) -> ModuleType:
    if not path.is_file() or path.suffix != ".py":
        raise FactoryError(f"there is no Python file {str(path)!r}")
    name = f"precondlab_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FactoryError(f"cannot read {str(path)!r} as a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError, NameError) as error:
        raise FactoryError(f"{path} does not import: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    return module
