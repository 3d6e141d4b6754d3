"""The interface of all computations: made once, then run, within a budget."""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from typing import Any

from precondlab.bench.inputs import Inputs

__all__ = ["Budget", "Computation", "GaveUp"]


class GaveUp(Exception):
    """The budget of products or of time is spent."""


class Budget:
    """Counts products, and ends a computation that takes too many or too long.

    >>> Budget(products=1).spend(2)
    Traceback (most recent call last):
        ...
    precondlab.bench.ways.spectral.computation.GaveUp: no answer after 1 products
    """

    def __init__(self, *, products: float | None = None, seconds: float | None = None) -> None:
        self.products, self.seconds, self.spent = products, seconds, 0.0
        self._start = time.process_time()

    def spend(self, products: float = 1.0) -> None:
        """Count products; half a one for J or Jᵀ alone. Raises GaveUp."""
        self.spent += products
        if self.products is not None and self.spent > self.products:
            raise GaveUp(f"no answer after {self.products:,.0f} products")
        if self.seconds is not None and time.process_time() - self._start > self.seconds:
            raise GaveUp(f"no answer after {self.seconds:g} cpu-s and {self.spent:,.0f} products")


class Computation(ABC):
    """One spectral computation in one library.

    The constructor makes what a user has before: model, data, a matrix. ``run`` does everything else.
    """

    def __init__(self, inputs: Inputs | None, **options: Any) -> None:
        self._inputs, self.options = inputs, options
        self.budget = Budget()

    @property
    def inputs(self) -> Inputs:
        """Network, points and labels."""
        if self._inputs is None:
            raise ValueError(f"{type(self).__name__}: needs a case with inputs")
        return self._inputs

    @abstractmethod
    def run(self) -> dict[str, Any]:
        """Return plain values; ``doubt`` among them, if the library says that they are not converged."""

    def outcome(self) -> dict[str, Any]:
        """Run, and return ``status`` ``"done"`` or ``"gave up"`` with products, warnings and values."""
        self.budget = Budget(products=self.options.get("products"), seconds=self.options.get("seconds"))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = {"status": "done", **self.run()}
            except GaveUp as error:
                found = {"status": "gave up", "reason": str(error)}
        texts = dict.fromkeys(" ".join(str(each.message).split())[:200] for each in caught if _relevant(each.category))
        return {"products": self.budget.spent, "warnings": list(texts), **found}


def _relevant(category: type[Warning]) -> bool:
    """Whether a warning is about the result."""
    return not issubclass(category, DeprecationWarning | FutureWarning | ResourceWarning | ImportWarning)
