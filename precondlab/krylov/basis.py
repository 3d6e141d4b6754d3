"""Orthonormal bases that grow column by column and shrink by rotation."""

from __future__ import annotations

import torch
from torch import Tensor

from precondlab.errors import Breakdown
from precondlab.operator import Operator
from precondlab.space import Space

__all__ = ["Basis", "require_finite"]

_ROTATED_AT_ONCE = 2**22  # numbers moved at once, so that a rotation needs no second basis


class Basis:
    """Up to ``capacity`` orthonormal vectors of a space, orthogonalized twice.

    >>> basis = Basis(Space(2, dtype=torch.float64), 2)
    >>> C, R = basis.append(torch.tensor([[3.0], [4.0]], dtype=torch.float64))
    >>> R.item(), basis.vectors.T.tolist()
    (5.0, [[0.6..., 0.8...]])
    """

    def __init__(self, space: Space, capacity: int, *, generator: torch.Generator | None = None) -> None:
        self.space = space
        self.size = 0
        self.generator = torch.Generator().manual_seed(0) if generator is None else generator
        # one vector per row: contiguous, and no memory is touched before a row is written
        self._rows = torch.empty(min(capacity, space.size), space.size, dtype=space.dtype, device=space.device)

    @property
    def vectors(self) -> Tensor:
        """The vectors as columns ``[n size]``."""
        return self._rows[: self.size].T

    @property
    def room(self) -> int:
        """How many vectors can still be appended."""
        return len(self._rows) - self.size

    def append(self, W: Tensor, *, scale: float = 0.0) -> tuple[Tensor, Tensor]:
        """Orthonormalize columns ``[n p]`` against the basis and append what is new in them.

        Returns C ``[size p]`` and R ``[q p]`` with ``W = Q C + Q_new R``; ``q < p`` if columns depend on
        those before them to the round-off of numbers as large as ``scale`` or themselves.

        Raises
        ------
        ValueError
            If there is something new and no room for it.
        """
        before = self.size
        columns = []
        for w in W.T:
            rest, norm, found = self._orthogonalize(w)
            allowed = 10 * self.space.eps * (self.size + 1) ** 0.5 * max(scale, _norm(self.space, w))
            if norm > allowed and self.size < self.space.size:
                self.require_room(1)
                self._rows[self.size] = rest / norm
                self.size += 1
                found = torch.cat([found, found.new_tensor([norm])])
            columns.append(found)
        coefficients = self._rows.new_zeros(self.size, len(columns))
        for j, found in enumerate(columns):
            coefficients[: len(found), j] = found
        return coefficients[:before], coefficients[before:]

    def append_random(self, count: int) -> None:
        """Append random vectors orthogonal to the basis, as many as there is room for."""
        for _ in range(min(count, self.room)):
            rest, norm, _ = self._orthogonalize(self.space.random(generator=self.generator))
            rest, norm, _ = self._orthogonalize(rest / norm)
            self._rows[self.size] = rest / norm
            self.size += 1

    def require_room(self, count: int) -> None:
        """Raise ``ValueError`` unless so many vectors can be appended, or all that the space has left."""
        if self.room < min(count, self.space.size - self.size):
            raise ValueError(
                f"the basis is full: it holds {self.size} of {len(self._rows)} vectors and {count} more are needed; "
                "restart with fewer (KrylovSchur: .restart(Ritz vectors)), or give a larger capacity"
            )

    def rotate(self, Y: Tensor) -> None:
        """Replace the vectors Q by ``Q Y``, Y ``[size k]`` with orthonormal columns."""
        Y = Y.to(self._rows)
        step = max(1, _ROTATED_AT_ONCE // max(self.size, 1))
        for start in range(0, self.space.size, step):
            stop = start + step
            self._rows[: Y.shape[1], start:stop] = Y.T @ self._rows[: self.size, start:stop]
        self.size = Y.shape[1]

    def restore(self, vectors: Tensor) -> None:
        """Start again from the orthonormal columns of an earlier basis."""
        if vectors.shape[0] != self.space.size or vectors.shape[1] > len(self._rows):
            raise ValueError(
                f"Basis: expected up to {len(self._rows)} vectors of size {self.space.size}, got {tuple(vectors.shape)}"
            )
        self.size = vectors.shape[1]
        self._rows[: self.size] = vectors.T

    def _orthogonalize(self, w: Tensor) -> tuple[Tensor, float, Tensor]:
        basis = self.vectors
        total = w.new_zeros(self.size)
        for _ in range(2):
            found = self.space.inner(basis, w[:, None])[:, 0]
            w = w - basis @ found
            total += found
        return w, _norm(self.space, w), total


def _norm(space: Space, w: Tensor) -> float:
    return space.inner(w[:, None], w[:, None])[0, 0].real.item() ** 0.5


def require_finite(W: Tensor, A: Operator, product: int) -> None:
    """Raise :class:`Breakdown` naming the first product that is not finite."""
    if not torch.isfinite(W).all():
        raise Breakdown(f"product {product} with {A!r} is not finite; check the model and its residual at this point")
