"""What the gallery is put together from: orthogonal factors, and diagonals that are not square."""

from __future__ import annotations

import math

import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.operator import Foreign, Operator
from precondlab.operators.structured import Dense, Diagonal, Identity
from precondlab.space import Space

__all__ = [
    "ORTHOGONAL",
    "Banded",
    "Declared",
    "Difference",
    "Reflections",
    "Stretch",
    "rotation",
    "with_eigenvalues",
    "with_singular",
]

#: ``‖QᵀQ - I‖`` of a rotation; by Ostrowski's theorem the relative change of every eigenvalue of ``Q D Qᵀ``.
ORTHOGONAL = 200 * torch.finfo(torch.float64).eps

_HAAR = 512  # largest rotation that is drawn as a dense matrix


class Banded(Operator):
    """A symmetric matrix given by its diagonal ``[n]`` and the diagonals ``[n-1]``, ``[n-2]``, … above it.

    >>> Banded(torch.tensor([2.0, 2.0]), torch.tensor([-1.0])).dense()
    tensor([[ 2., -1.],
            [-1.,  2.]])
    """

    def __init__(self, *diagonals: Tensor, positive: bool = False) -> None:
        space = Space(len(diagonals[0]), dtype=diagonals[0].dtype, device=diagonals[0].device)
        super().__init__(space, space, symmetric=True, positive=positive)
        self.diagonals = diagonals

    def _apply(self, V: Tensor) -> Tensor:
        Y = self.diagonals[0][:, None] * V
        for offset, entries in enumerate(self.diagonals[1:], start=1):
            Y[:-offset] += entries[:, None] * V[offset:]
            Y[offset:] += entries[:, None] * V[:-offset]
        return Y


class Declared(Foreign):
    """A SciPy operator that is known to be symmetric, and positive if it is.

    >>> from scipy.sparse.linalg import aslinearoperator
    >>> Declared(aslinearoperator(torch.eye(2).numpy()), positive=True).symmetric
    True
    """

    def __init__(self, parent: LinearOperator, *, positive: bool = False) -> None:
        super().__init__(parent)
        self.symmetric, self.positive = True, positive


class Difference(Operator):
    """Differences of neighbors ``[n+1 n]``, with zeros beyond both ends.

    >>> Difference(Space(2)).dense()
    tensor([[ 1.,  0.],
            [-1.,  1.],
            [ 0., -1.]], dtype=torch.float64)
    """

    def __init__(self, space: Space) -> None:
        super().__init__(space, Space(space.size + 1, dtype=space.dtype, device=space.device))

    def _apply(self, V: Tensor) -> Tensor:
        zero = V.new_zeros(1, V.shape[1])
        return torch.diff(V, dim=0, prepend=zero, append=zero)

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        return -torch.diff(U, dim=0)


class Reflections(Operator):
    """The product of Householder reflections ``∏ᵢ (I - 2wᵢwᵢᵀ)`` along the columns of W ``[n k]``.

    Orthogonal to ``4kε``. Cost per product: ``4kn`` operations.

    >>> Reflections(torch.tensor([[3.0], [4.0]])).dense()
    tensor([[ 0.2800, -0.9600],
            [-0.9600, -0.2800]])
    """

    def __init__(self, W: Tensor) -> None:
        space = Space(len(W), dtype=W.dtype, device=W.device)
        super().__init__(space, space)
        self.W = W / torch.linalg.vector_norm(W, dim=0)

    def _apply(self, V: Tensor) -> Tensor:
        return self._reflect(V, self.W.flip(1))

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        return self._reflect(U, self.W)

    @property
    def inverse(self) -> Operator:
        return self.H

    def _reflect(self, V: Tensor, W: Tensor) -> Tensor:
        for w in W.T:
            V = torch.addr(V, w, w @ V, alpha=-2)
        return V


class Stretch(Operator):
    """The ``[m n]`` matrix with s on its main diagonal and zeros elsewhere.

    >>> Stretch(torch.tensor([2.0]), 1, 2).dense()
    tensor([[2., 0.]])
    """

    def __init__(self, s: Tensor, m: int, n: int) -> None:
        super().__init__(Space(n, dtype=s.dtype, device=s.device), Space(m, dtype=s.dtype, device=s.device))
        self.s = s

    def _apply(self, V: Tensor) -> Tensor:
        return self._scale(V, self.codomain)

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        return self._scale(U, self.domain)

    def _scale(self, V: Tensor, space: Space) -> Tensor:
        Y = space.zeros(V.shape[1])
        Y[: len(self.s)] = self.s[:, None] * V[: len(self.s)]
        return Y


def rotation(n: int, *, generator: torch.Generator | None) -> Operator:
    """Return a random orthogonal operator ``[n n]``; the identity without a generator.

    Haar-distributed (QR of a Gaussian matrix, signs fixed so that R has a positive diagonal) up to
    n = 512; beyond, the product of ``⌈log₂ n⌉`` random Householder reflections, which never forms a
    matrix. Mezzadri 2007, "How to generate random matrices from the classical compact groups".

    >>> Q = rotation(3, generator=torch.Generator().manual_seed(0)).dense()
    >>> torch.allclose(Q.T @ Q, torch.eye(3, dtype=torch.float64))
    True
    """
    space = Space(n)
    if generator is None:
        return Identity(space)
    if n > _HAAR:
        return Reflections(space.random(math.ceil(math.log2(n)), generator=generator))
    Q, R = torch.linalg.qr(space.random(n, generator=generator))
    return Dense(Q * R.diagonal().sign())


def with_eigenvalues(values: Tensor, *, generator: torch.Generator | None) -> Operator:
    """Return ``Q diag(values) Qᵀ`` with a random rotation Q; the diagonal itself without a generator.

    >>> with_eigenvalues(torch.tensor([2.0, 1.0]), generator=None)
    Diagonal[2×2]
    """
    D = Diagonal(values)
    if generator is None:
        return D
    Q = rotation(len(values), generator=generator)
    return Q @ D @ Q.H


def with_singular(values: Tensor, m: int, n: int, *, generator: torch.Generator | None) -> Operator:
    """Return ``U Σ Vᵀ`` of shape ``[m n]`` with random rotations U and V; Σ itself without a generator.

    >>> with_singular(torch.tensor([2.0]), 1, 2, generator=None)
    Stretch[1×2]
    """
    S = Stretch(values, m, n)
    if generator is None:
        return S
    return rotation(m, generator=generator) @ S @ rotation(n, generator=generator).H
