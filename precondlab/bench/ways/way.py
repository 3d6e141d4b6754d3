"""The interface of all ways: set up once, then multiply."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import numpy as np

from precondlab.bench.inputs import Inputs

__all__ = ["NotAvailable", "Way"]

Array = TypeVar("Array")


class NotAvailable(Exception):
    """This way cannot be taken here: the message says why."""


class Way(ABC, Generic[Array]):
    """A product with ``A = JᵀJ`` in one library, whose arrays are of the type ``Array``.

    ``setup`` may keep whatever makes products faster; products are timed and convert nothing.
    """

    def __init__(self, inputs: Inputs, **options: Any) -> None:
        self.inputs, self.options = inputs, options

    @abstractmethod
    def setup(self) -> None:
        """Do what is done once per point of linearization."""

    @abstractmethod
    def enter(self, array: np.ndarray) -> Array:
        """Return a vector ``[n]`` or a block of columns ``[n k]`` in the library's format."""

    @abstractmethod
    def leave(self, array: Array) -> np.ndarray:
        """Return the library's array as NumPy's."""

    @abstractmethod
    def product(self, v: Array) -> Array:
        """Return ``A v``, finished."""

    @abstractmethod
    def block(self, V: Array) -> Array:
        """Return ``A V`` for a block of columns, finished."""

    def describe(self) -> str:
        """Return what setup chose, if it chose anything."""
        return ""
