"""What a law of the contract works with: an operator, random vectors and one tolerance."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from precondlab.algebra import Adjoint, Conjugate, Product, Scaled, Sum
from precondlab.operator import Operator
from precondlab.operators.gram import Gram, Kernel
from precondlab.operators.structured import BlockDiagonal, HStack, VStack
from precondlab.space import Space

__all__ = ["CheckFailed", "Probe", "magnitude", "tolerance"]

_SAFETY = 1e3  # round-off of a sum grows like √n in the mean; this allows for depth and bad luck
_PROBES = 8


class CheckFailed(AssertionError):
    """An operator breaks a law of the contract; the message says which, by how much and where to look."""


def tolerance(dtype: torch.dtype, *, size: int = 1, gain: float = 1.0) -> float:
    """Return the error allowed in a product with a vector of norm 1: ``10³ ε √size · gain``.

    The only place where the contract's tolerances come from.

    Parameters
    ----------
    dtype
        Of the operator; ε is its unit round-off.
    size
        Number of terms that are added up.
    gain
        How much the operator enlarges a typical vector, ``‖Av‖ / ‖v‖``, before any cancellation.

    >>> tolerance(torch.float64, size=4) == 2000 * torch.finfo(torch.float64).eps
    True
    """
    info = torch.finfo(dtype)
    return _SAFETY * math.sqrt(size) * (info.eps * gain + info.tiny)


def magnitude(A: Operator, generator: torch.Generator) -> float:
    """Return the Frobenius norm that A would have if nothing canceled in its sums and products.

    Round-off is proportional to it: ``A - A`` is not zero but ``ε ‖A‖``. Norms of parts are
    estimated from 8 random vectors each, forwards only.

    >>> from precondlab.operators import Identity
    >>> identity = Identity(Space(1))
    >>> 1 < magnitude(identity - identity, torch.Generator().manual_seed(0)) < 3
    True
    """

    def of(B: Operator) -> float:
        return magnitude(B, generator)

    match A:
        case Sum():
            return sum(map(of, A.terms))
        case Product():
            return math.prod(map(of, A.factors))
        case Scaled():
            return abs(A.factor) * of(A.parent)
        case Adjoint() | Conjugate():
            return of(A.parent)
        case Gram() | Kernel():
            return of(A.J) ** 2
        case VStack() | HStack() | BlockDiagonal():
            return math.hypot(*map(of, A.parts))
        case _:
            V = A.domain.random(_PROBES, generator=generator)
            return (A @ V).norm().item() / math.sqrt(_PROBES)


@dataclass
class Probe:
    """An operator under test, and all that a law needs to judge it.

    Parameters
    ----------
    A
        The operator.
    law
        Name of the law, for messages.
    generator
        Of the random vectors.
    rtol
        Allowed error relative to ``‖A‖_F ‖v‖``, instead of :func:`tolerance`.
    matrix
        The operator's matrix ``[m n]`` found in another way, if the user has it.
    """

    A: Operator
    law: str
    generator: torch.Generator = field(repr=False)
    rtol: float | None = None
    matrix: Tensor | None = None

    @cached_property
    def scale(self) -> float:
        """Allowed error of a product with a vector of norm 1."""
        gain = magnitude(self.A, self.generator)
        self.require(math.isfinite(gain), "products are not finite")
        return tolerance(self.A.domain.dtype, gain=gain) if self.rtol is None else self.rtol * gain

    @property
    def small(self) -> bool:
        """Whether the operator can be compared with its dense matrix."""
        return max(self.A.shape) <= 256

    def vectors(self, space: Space, columns: int) -> Tensor:
        """Return random vectors ``[n k]``."""
        return space.random(columns, generator=self.generator)

    def sides(self) -> tuple[tuple[str, Operator], ...]:
        """Return A and its adjoint, each with its name."""
        return (("A", self.A), ("A.H", self.A.H))

    def close(self, what: str, got: Tensor, expected: Tensor, allowed: float) -> None:
        """Require ``‖got - expected‖ ≤ allowed``, column by column."""
        if got.shape != expected.shape or got.dtype != expected.dtype:
            self.fail(
                f"{what}: {got.dtype} of shape {tuple(got.shape)} "
                f"against {expected.dtype} of shape {tuple(expected.shape)}"
            )
        if got.numel():
            self.at_most(what, torch.linalg.vector_norm(got - expected, dim=0).max().item(), allowed)

    def at_most(self, what: str, measured: float, allowed: float) -> None:
        """Require ``measured ≤ allowed``; a NaN fails."""
        if not measured <= allowed:
            self.fail(f"{what}: measured {measured:.2e}, allowed {allowed:.2e}")

    def require(self, condition: bool, what: str) -> None:
        """Require a condition."""
        if not condition:
            self.fail(what)

    def fail(self, what: str) -> None:
        raise CheckFailed(f"{self.law}: {self.A!r}: {what}")


def norm(V: Tensor) -> float:
    """Return the largest norm of a column."""
    return torch.linalg.vector_norm(V, dim=0).max().item() if V.numel() else 0.0
