"""What every preconditioner is: an operator approximating an inverse, with a name and what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from precondlab.errors import Breakdown
from precondlab.operator import Operator
from precondlab.preconditioners.state import Stateful
from precondlab.space import Space

__all__ = ["Preconditioner"]


class Preconditioner(Stateful):
    """A positive operator ``M ≈ A⁻¹`` that says what it is and how many products it took to build.

    Parameters
    ----------
    operator
        The operator M. A factor S with ``S Sᴴ = M`` is passed on unless it has more columns than rows: ``SᴴAS``
        would be singular, and spectra are then taken in the inner product of ``M⁻¹``.
    name, facts
        For the repr.
    setup_matvecs
        Products with A spent on the construction; one with J and one with Jᴴ count as one.
    space
        That of A, if its blocks have names.
    parts
        What M was made of, where ``operator`` has only the factors: it is saved and loaded with M.

    >>> import torch
    >>> from precondlab.operators import Diagonal
    >>> Preconditioner(Diagonal(torch.ones(3)), "Jacobi", "exact", setup_matvecs=3)
    Jacobi[3×3, exact]
    """

    def __init__(
        self,
        operator: Operator,
        name: str,
        *facts: str,
        setup_matvecs: int,
        space: Space | None = None,
        parts: Sequence[Operator] = (),
    ) -> None:
        space = operator.domain if space is None else space
        super().__init__(space, space, symmetric=operator.symmetric, positive=operator.positive)
        self.operator, self.parts = operator, list(parts)
        self.setup_matvecs = setup_matvecs
        self._name, self.facts = name, ", ".join(facts)

    def _apply(self, V: Tensor) -> Tensor:
        return self.operator.forward(V)

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        return self.operator.backward(U)

    @property
    def sqrt(self) -> Operator | None:
        root = self.operator.sqrt
        return root if root is not None and root.shape[1] <= root.shape[0] else None

    @property
    def inverse(self) -> Operator | None:
        return self.operator.inverse

    def __repr__(self) -> str:
        m, n = self.shape
        return f"{self._name}[{m}×{n}{', ' if self.facts else ''}{self.facts}]"


def require_square(caller: str, A: Operator) -> None:
    """Raise unless A maps a non-trivial space to itself."""
    if A.shape[0] != A.shape[1] or not A.shape[0]:
        raise ValueError(
            f"{caller}: expected a square operator, got {A!r} of shape {A.shape}; for a Jacobian J take pl.Gram(J)"
        )


def require_damping(caller: str, damping: float) -> None:
    """Raise unless the damping is a finite number ≥ 0."""
    if not (math.isfinite(damping) and damping >= 0):
        raise ValueError(f"{caller}: expected a finite damping ≥ 0, got {damping}; 0 preconditions A itself")


def finite(Y: Tensor, caller: str, A: Operator) -> Tensor:
    """Return products with A, or raise if one is not finite."""
    if not Y.isfinite().all():
        raise Breakdown(f"{caller}: a product with {A!r} is not finite; check the model and its residual at this point")
    return Y
