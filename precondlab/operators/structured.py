"""Operators known by their entries or their parts: dense, identity, diagonal, low rank, blocks, stacks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from precondlab.operator import Operator
from precondlab.space import Space

__all__ = ["BlockDiagonal", "Dense", "Diagonal", "HStack", "Identity", "LowRank", "VStack"]


class Dense(Operator):
    """A matrix ``[m n]``.

    Raises TypeError unless given a 2-d tensor of a floating-point dtype.

    >>> Dense(torch.tensor([[1.0, 2.0]])) @ torch.tensor([1.0, 1.0])
    tensor([3.])
    """

    def __init__(self, matrix: Tensor, *, symmetric: bool = False, positive: bool = False) -> None:
        if not isinstance(matrix, Tensor) or matrix.dim() != 2:
            raise TypeError(
                f"Dense: expected a 2-d tensor, got {getattr(matrix, 'shape', type(matrix).__name__)}; "
                "use torch.as_tensor"
            )
        super().__init__(
            _space(matrix.shape[1], matrix),
            _space(matrix.shape[0], matrix),
            symmetric=symmetric,
            positive=positive,
        )
        self.matrix = matrix.detach()

    def _apply(self, V: Tensor) -> Tensor:
        return self.matrix @ V

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        return self.matrix.mH @ U

    def dense(self) -> Tensor:
        return self.matrix.clone()


class Identity(Operator):
    """The identity on a space.

    >>> Identity(Space(2)) @ torch.tensor([1.0, 2.0], dtype=torch.float64)
    tensor([1., 2.], dtype=torch.float64)
    """

    def __init__(self, space: Space) -> None:
        super().__init__(space, space, positive=True)

    def _apply(self, V: Tensor) -> Tensor:
        return V.clone()

    @cached_property
    def sqrt(self) -> Operator:
        return self

    @property
    def inverse(self) -> Operator:
        return self


class Diagonal(Operator):
    """Multiplication by a vector ``[n]``, entry by entry; positive if its entries are ≥ 0.

    >>> Diagonal(torch.tensor([4.0, 9.0])).sqrt @ torch.tensor([1.0, 1.0])
    tensor([2., 3.])
    """

    def __init__(self, entries: Tensor) -> None:
        if not isinstance(entries, Tensor) or entries.dim() != 1:
            raise TypeError(f"Diagonal: expected a 1-d tensor, got {getattr(entries, 'shape', type(entries).__name__)}")
        space = _space(len(entries), entries)
        real = not (entries.is_complex() and entries.imag.any())
        super().__init__(space, space, symmetric=real, positive=real and bool((entries.real >= 0).all()))
        self.entries = entries.detach()

    def _apply(self, V: Tensor) -> Tensor:
        return self.entries[:, None] * V

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        return self.entries.conj()[:, None] * U

    @cached_property
    def sqrt(self) -> Operator | None:
        return Diagonal(self.entries.sqrt()) if self.positive else None

    @cached_property
    def inverse(self) -> Operator | None:
        return Diagonal(1 / self.entries) if self.entries.all() else None


class LowRank(Operator):
    """``U diag(s) Vᴴ`` with U ``[m r]``, s ``[r]``, V ``[n r]``; symmetric if V is left out (V = U).

    Cost per product: ``2 r (m + n)`` operations.

    >>> LowRank(torch.tensor([[1.0], [2.0]]), torch.tensor([3.0])).dense()
    tensor([[ 3.,  6.],
            [ 6., 12.]])
    """

    def __init__(self, U: Tensor, s: Tensor, V: Tensor | None = None) -> None:
        tensors = [U, s] if V is None else [U, s, V]
        kinds = [(x.dtype, x.device) if isinstance(x, Tensor) else type(x).__name__ for x in tensors]
        if not isinstance(U, Tensor) or len(set(kinds)) > 1:
            raise TypeError(f"LowRank: expected tensors of one dtype on one device, got {kinds}")
        rank = U.shape[1] if U.dim() == 2 else -1
        if s.shape != (rank,) or (V is not None and (V.dim() != 2 or V.shape[1] != rank)):
            raise ValueError(
                "LowRank: expected U [m r], s [r] and V [n r], "
                f"got {tuple(U.shape)}, {tuple(s.shape)} and {None if V is None else tuple(V.shape)}"
            )
        real = not s.is_complex()
        symmetric = V is None and real
        super().__init__(
            _space(len(U if V is None else V), U),
            _space(len(U), U),
            symmetric=symmetric,
            positive=symmetric and bool((s >= 0).all()),
        )
        self.U, self.s, self.V = U.detach(), s.detach(), (U if V is None else V).detach()

    def _apply(self, V: Tensor) -> Tensor:
        return self.U @ (self.s[:, None] * (self.V.mH @ V))

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        return self.V @ (self.s.conj()[:, None] * (self.U.mH @ U))

    @cached_property
    def sqrt(self) -> Operator | None:
        return Dense(self.U * self.s.sqrt()) if self.positive else None


class VStack(Operator):
    """Operators with one domain on top of each other: ``V ↦ [A₁V; A₂V; …]``.

    >>> I = Identity(Space(1, dtype=torch.float32))
    >>> VStack(I, 2 * I).dense()
    tensor([[1.],
            [2.]])
    """

    def __init__(self, *parts: Operator) -> None:
        _require_parts("VStack", parts)
        for part in parts[1:]:
            if not part.domain.matches(parts[0].domain):
                raise ValueError(f"VStack: {part!r} and {parts[0]!r} have different domains")
        super().__init__(parts[0].domain, _space(sum(part.shape[0] for part in parts), parts[0].domain))
        self.parts = parts

    def _apply(self, V: Tensor) -> Tensor:
        return torch.cat([part.forward(V) for part in self.parts])

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        pieces = U.split([part.shape[0] for part in self.parts])
        return torch.stack([part.backward(piece) for part, piece in zip(self.parts, pieces, strict=True)]).sum(0)


class HStack(Operator):
    """Operators with one codomain side by side: ``[A₁ A₂ …]``.

    >>> I = Identity(Space(1, dtype=torch.float32))
    >>> HStack(I, 2 * I).dense()
    tensor([[1., 2.]])
    """

    def __init__(self, *parts: Operator) -> None:
        _require_parts("HStack", parts)
        for part in parts[1:]:
            if not part.codomain.matches(parts[0].codomain):
                raise ValueError(f"HStack: {part!r} and {parts[0]!r} have different codomains")
        super().__init__(_space(sum(part.shape[1] for part in parts), parts[0].codomain), parts[0].codomain)
        self.parts = parts

    def _apply(self, V: Tensor) -> Tensor:
        pieces = V.split([part.shape[1] for part in self.parts])
        return torch.stack([part.forward(piece) for part, piece in zip(self.parts, pieces, strict=True)]).sum(0)

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        return torch.cat([part.backward(U) for part in self.parts])


class BlockDiagonal(Operator):
    """Operators on independent blocks of coordinates: ``diag(A₁, A₂, …)``.

    >>> I = Identity(Space(1, dtype=torch.float32))
    >>> BlockDiagonal(I, 2 * I).dense()
    tensor([[1., 0.],
            [0., 2.]])
    """

    def __init__(self, *parts: Operator) -> None:
        _require_parts("BlockDiagonal", parts)
        first = parts[0].domain
        for part in parts[1:]:
            if (part.domain.dtype, part.domain.device) != (first.dtype, first.device):
                raise ValueError(f"BlockDiagonal: {part.domain} of {part!r} and {first} differ in dtype or device")
        super().__init__(
            _space(sum(part.shape[1] for part in parts), parts[0].domain),
            _space(sum(part.shape[0] for part in parts), parts[0].domain),
            symmetric=all(part.symmetric for part in parts),
            positive=all(part.positive for part in parts),
        )
        self.parts = parts

    def _apply(self, V: Tensor) -> Tensor:
        return self._blockwise(V, 1, Operator.forward)

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        return self._blockwise(U, 0, Operator.backward)

    def _blockwise(self, V: Tensor, axis: int, product: Callable[[Operator, Tensor], Tensor]) -> Tensor:
        pieces = V.split([part.shape[axis] for part in self.parts])
        return torch.cat([product(part, piece) for part, piece in zip(self.parts, pieces, strict=True)])

    @cached_property
    def sqrt(self) -> Operator | None:
        roots = [root for part in self.parts if (root := part.sqrt) is not None]
        return BlockDiagonal(*roots) if len(roots) == len(self.parts) else None

    @cached_property
    def inverse(self) -> Operator | None:
        found = [inverse for part in self.parts if (inverse := part.inverse) is not None]
        return BlockDiagonal(*found) if len(found) == len(self.parts) else None


def _space(size: int, like: Tensor | Space) -> Space:
    return Space(size, dtype=like.dtype, device=like.device)


def _require_parts(name: str, parts: tuple[Operator, ...]) -> None:
    if not parts:
        raise ValueError(f"{name}: expected at least one operator")
    wrong = [type(part).__name__ for part in parts if not isinstance(part, Operator)]
    if wrong:
        raise TypeError(f"{name}: expected operators, got {wrong}; wrap matrices with pl.operators.Dense")
