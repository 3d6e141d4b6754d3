"""Property tests for operators, for users as much as for the library itself.

Two lines put an operator under the contract::

    @pytest.mark.parametrize("check", pl.testing.checks(make()), ids=str)
    def test_mine(check):
        check()

``pl.testing.gallery`` holds operators with known spectra, each hard in its own way. Random operators,
maps, models and problems for tests with hypothesis are in ``pl.testing.strategies``, which needs
``pip install "precondlab[testing]"``.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from precondlab.testing import gallery
from precondlab.testing.contract import Check, CheckFailed, check_operator, checks
from precondlab.testing.faulty import Faulty, Injected
from precondlab.testing.probe import tolerance

__all__ = ["Check", "CheckFailed", "Faulty", "Injected", "check_operator", "checks", "gallery", "tolerance"]


def __getattr__(name: str) -> ModuleType:
    if name == "strategies":  # on demand: hypothesis is optional
        return importlib.import_module("precondlab.testing.strategies")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
