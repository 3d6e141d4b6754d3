"""A test operator whose spectrum is known before anything is computed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from precondlab.operator import Operator
from precondlab.operators.gram import Gram

__all__ = ["Known"]


@dataclass(frozen=True, eq=False, repr=False)
class Known:
    """An operator, its exact spectrum, and what it traps.

    Parameters
    ----------
    name
        Of the function that made it.
    operator
        The operator.
    values
        All its eigenvalues (float64, descending) if it is declared symmetric, else all ``min(m, n)``
        singular values. Zeros are exact zeros.
    trap
        What goes wrong for whom.
    rtol
        Bound on ``|values[i] - exact| / exact`` for every i, where exact belongs to the numbers that
        the operator holds. Products carry round-off of their own: about ``ε‖A‖``, however small rtol is.

    >>> import torch
    >>> from precondlab.operators import Diagonal
    >>> A = Known("example", Diagonal(torch.tensor([3.0, 0.0])), np.array([3.0, 0.0]), "singular")
    >>> A, A.kappa
    (Known example: Diagonal[2×2], eigenvalues 3 … 0, rank 1, inf)
    """

    name: str
    operator: Operator
    values: np.ndarray
    trap: str
    rtol: float = 0.0

    @property
    def eigenvalues(self) -> np.ndarray:
        """All eigenvalues, descending; ValueError if the operator is not declared symmetric."""
        if not self.operator.symmetric:
            raise ValueError(f"{self.name}: {self.operator!r} is not symmetric; use .singular_values")
        return self.values

    @property
    def singular_values(self) -> np.ndarray:
        """All ``min(m, n)`` singular values, descending."""
        return np.sort(np.abs(self.values))[::-1]

    @property
    def norm(self) -> float:
        """The spectral norm ``σ₁``."""
        return float(np.abs(self.values).max(initial=0.0))

    @property
    def rank(self) -> int:
        """Number of non-zero singular values, however small."""
        return int(np.count_nonzero(self.values))

    @property
    def kappa(self) -> float:
        """``σ₁ / σ_min(m, n)``: infinite if the rank is not full, NaN for an operator that is zero or empty."""
        if not self.rank:
            return math.nan
        return self.kappa_on_range if self.rank == len(self.values) else math.inf

    @property
    def kappa_on_range(self) -> float:
        """``σ₁ / σ_rank``, with the smallest singular value that is not zero; NaN if all are."""
        return float(self.norm / self.singular_values[self.rank - 1]) if self.rank else math.nan

    def gram(self) -> Known:
        """Return ``AᴴA`` with its eigenvalues ``σᵢ²``, padded with zeros to n; it keeps A as its factor."""
        squares = np.zeros(self.operator.shape[1])
        squares[: len(self.values)] = self.singular_values**2
        rtol = 2 * self.rtol + np.finfo(float).eps
        return Known(f"{self.name}, squared", Gram(self.operator), squares, f"squared: {self.trap}", rtol)

    def __repr__(self) -> str:
        kind = "eigenvalues" if self.operator.symmetric else "singular values"
        ends = " … ".join(f"{value:.6g}" for value in self.values[[0, -1]]) if len(self.values) else "none"
        return f"Known {self.name}: {self.operator!r}, {kind} {ends}, rank {self.rank}"
