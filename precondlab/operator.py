"""Linear operators backed by torch: one class that is SciPy's ``LinearOperator`` and stays in torch.

An author writes ``_apply`` and ``_apply_adjoint`` on blocks of columns; everything else
(`@`, SciPy's methods, shape checks, counting) is here; sums and products are in ``algebra``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.space import Space

__all__ = ["Foreign", "Operator", "as_operator"]

_DENSE_BLOCK = 256  # columns of the identity applied at once by `dense`


class Operator(LinearOperator):
    """A linear map between two spaces that applies itself and its adjoint to blocks of columns.

    Subclasses implement ``_apply(V: [n k]) -> [m k]`` and, unless symmetric,
    ``_apply_adjoint(U: [m k]) -> [n k]``. Applied to a torch tensor an operator returns a
    torch tensor on the same device; applied to anything NumPy understands it returns an array.
    Sums, products, scalings and adjoints are operators again.

    Parameters
    ----------
    domain, codomain
        Spaces of size n and m.
    symmetric
        Declared: the operator equals its adjoint (Hermitian if complex).
    positive
        Declared: symmetric and ``vᴴAv ≥ 0`` for all v.

    >>> from precondlab.operators import Diagonal
    >>> A = Diagonal(torch.tensor([1.0, 2.0]))
    >>> (2 * A + A.H @ A) @ torch.tensor([1.0, 1.0])
    tensor([3., 8.])
    """

    def __init__(self, domain: Space, codomain: Space, *, symmetric: bool = False, positive: bool = False) -> None:
        if domain.dtype != codomain.dtype or domain.device != codomain.device:
            raise ValueError(
                f"{type(self).__name__}: domain {domain} and codomain {codomain} differ in dtype or device"
            )
        if (symmetric or positive) and domain.size != codomain.size:
            raise ValueError(
                f"{type(self).__name__}: a symmetric operator is square, got {codomain.size}×{domain.size}"
            )
        self.domain = domain
        self.codomain = codomain
        self.symmetric = symmetric or positive
        self.positive = positive
        self.num_matvecs = 0
        super().__init__(domain.numpy_dtype, (codomain.size, domain.size))

    # What an author writes ------------------------------------------------------------------

    def _apply(self, V: Tensor) -> Tensor:
        """Return ``A V`` for a block of columns ``[n k]``."""
        raise NotImplementedError(f"{type(self).__name__} does not define _apply")

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        """Return ``Aᴴ U`` for a block of columns ``[m k]``."""
        if self.symmetric:
            return self._apply(U)
        raise NotImplementedError(f"{type(self).__name__} does not define _apply_adjoint")

    @property
    def sqrt(self) -> Operator | None:
        """An operator S with ``S Sᴴ = A``, or None if none is known."""
        return None

    @property
    def inverse(self) -> Operator | None:
        """``A⁻¹``, or None if no closed form is known."""
        return None

    # What the algebra calls -----------------------------------------------------------------

    def forward(self, V: Tensor) -> Tensor:
        """Return ``A V`` for a valid block ``[n k]`` and count k products."""
        self.num_matvecs += V.shape[1]
        return self._apply(V) if V.shape[1] else self.codomain.zeros(0)

    def backward(self, U: Tensor) -> Tensor:
        """Return ``Aᴴ U`` for a valid block ``[m k]`` and count k products."""
        self.num_matvecs += U.shape[1]
        return self._apply_adjoint(U) if U.shape[1] else self.domain.zeros(0)

    # What a user calls ----------------------------------------------------------------------

    def matvec(self, x: Any) -> Any:
        """Return ``A x`` for a vector ``[n]`` or a column ``[n 1]``."""
        return self._enter(x, "matvec", adjoint=False, vector=True)

    def matmat(self, X: Any) -> Any:
        """Return ``A X`` for a block of columns ``[n k]``."""
        return self._enter(X, "matmat", adjoint=False, vector=False)

    def rmatvec(self, x: Any) -> Any:
        """Return ``Aᴴ x`` for a vector ``[m]`` or a column ``[m 1]``."""
        return self._enter(x, "rmatvec", adjoint=True, vector=True)

    def rmatmat(self, X: Any) -> Any:
        """Return ``Aᴴ X`` for a block of columns ``[m k]``."""
        return self._enter(X, "rmatmat", adjoint=True, vector=False)

    _matvec, _matmat, _rmatvec, _rmatmat = matvec, matmat, rmatvec, rmatmat

    def dot(self, x: Any) -> Any:
        """Apply to a vector or block, compose with an operator, or scale by a number."""
        if _is_scalar(x):
            return algebra.Scaled(self, x)
        if isinstance(x, LinearOperator):
            return algebra.Product(self, as_operator(x, like=self))
        return self._enter(x, "@", adjoint=False, vector=None)

    def __matmul__(self, other: Any) -> Any:
        if _is_scalar(other):
            raise ValueError("scalars multiply operators with *, not @")
        return self.dot(other)

    def __rmatmul__(self, other: Any) -> Any:
        if _is_scalar(other):
            raise ValueError("scalars multiply operators with *, not @")
        return self._rdot(other)

    def _rdot(self, x: Any) -> Any:
        if isinstance(x, LinearOperator):
            return algebra.Product(as_operator(x, like=self), self)
        moved = x if isinstance(x, Tensor) else np.asanyarray(x)
        return self.T._enter(moved.T if moved.ndim > 1 else moved, "x @", adjoint=False, vector=None).T

    def __mul__(self, other: Any) -> Any:
        return self.dot(other)

    def __rmul__(self, other: Any) -> Any:
        return algebra.Scaled(self, other) if _is_scalar(other) else self._rdot(other)

    def __truediv__(self, other: Any) -> Operator:
        if not _is_scalar(other):
            raise ValueError("an operator can only be divided by a number")
        return algebra.Scaled(self, 1.0 / other)

    def __add__(self, other: Any) -> Operator:
        return algebra.Sum(self, as_operator(other, like=self)) if isinstance(other, LinearOperator) else NotImplemented

    def __radd__(self, other: Any) -> Operator:
        return algebra.Sum(as_operator(other, like=self), self) if isinstance(other, LinearOperator) else NotImplemented

    def __sub__(self, other: Any) -> Operator:
        return (
            algebra.Sum(self, -as_operator(other, like=self)) if isinstance(other, LinearOperator) else NotImplemented
        )

    def __neg__(self) -> Operator:
        return algebra.Scaled(self, -1.0)

    def __pow__(self, power: int) -> Operator:
        if not isinstance(power, int | np.integer) or power < 1 or self.shape[0] != self.shape[1]:
            raise ValueError(f"A**p needs a square operator and an integer p ≥ 1, got {self.shape} and p={power}")
        return self if power == 1 else algebra.Product(*[self] * power)

    def _adjoint(self) -> Operator:
        return self if self.symmetric else algebra.Adjoint(self)

    def _transpose(self) -> Operator:
        return algebra.Conjugate(self.H) if self.domain.dtype.is_complex else self.H

    def dense(self) -> Tensor:
        """Return the matrix ``[m n]``, by min(m, n) products with columns of the identity."""
        m, n = self.shape
        if m < n:
            return _on_identity(self.backward, self.codomain, self.domain).mH
        return _on_identity(self.forward, self.domain, self.codomain)

    def __repr__(self) -> str:
        m, n = self.shape
        return f"{type(self).__name__}[{m}×{n}]"

    # Entry: the only place where user data is checked and converted ---------------------------

    def _enter(self, x: Any, verb: str, *, adjoint: bool, vector: bool | None) -> Any:
        space = self.codomain if adjoint else self.domain
        V = x.detach() if isinstance(x, Tensor) else self._to_torch(x, space, verb)
        sizes = {True: "({n},) or ({n}, 1)", False: "({n}, k)", None: "({n},) or ({n}, k)"}
        fits = {
            True: V.shape in ((space.size,), (space.size, 1)),
            False: V.dim() == 2 and V.shape[0] == space.size,
            None: V.dim() in (1, 2) and V.shape[0] == space.size,
        }
        if not fits[vector]:
            expected = sizes[vector].format(n=space.size)
            raise ValueError(f"{self!r}.{verb}: expected shape {expected}, got {tuple(V.shape)} (dimension mismatch)")
        if V.device != space.device:
            raise ValueError(f"{self!r}.{verb}: expected a tensor on {space.device}, got {V.device}; use .to(...)")
        if V.dtype != space.dtype and V.dtype != space.dtype.to_complex():
            raise TypeError(f"{self!r}.{verb}: expected {space.dtype}, got {V.dtype}; use .to({space.dtype})")
        block = V if V.dim() == 2 else V[:, None]
        product = self.backward if adjoint else self.forward
        with torch.no_grad():
            if block.is_complex() and not space.dtype.is_complex:
                Y = torch.complex(product(block.real.contiguous()), product(block.imag.contiguous()))
            else:
                Y = product(block)
        Y = Y if V.dim() == 2 else Y[:, 0]
        if isinstance(x, Tensor):
            return Y
        array = Y.numpy(force=True)
        return np.asmatrix(array) if isinstance(x, np.matrix) else array

    def _to_torch(self, x: Any, space: Space, verb: str) -> Tensor:
        array = np.asanyarray(x)
        if array.dtype.kind not in "biufc":
            raise TypeError(
                f"{self!r}.{verb}: expected numbers, got {type(x).__name__} of dtype {array.dtype}; "
                "turn it into a dense array or an operator first"
            )
        wanted = space.numpy_dtype
        if array.dtype.kind == "c" and wanted.kind != "c":
            wanted = np.result_type(wanted, np.complex64)
        # a copy in C order and native byte order: torch refuses every other layout
        return torch.from_numpy(np.array(array, dtype=wanted, order="C", copy=True)).to(space.device)


def _on_identity(product: Callable[[Tensor], Tensor], source: Space, target: Space) -> Tensor:
    blocks = [target.zeros(0)]
    for start in range(0, source.size, _DENSE_BLOCK):
        width = min(_DENSE_BLOCK, source.size - start)
        columns = source.zeros(width)
        columns[range(start, start + width), range(width)] = 1
        blocks.append(product(columns))
    return torch.cat(blocks, dim=1)


def _is_scalar(x: Any) -> bool:
    return np.isscalar(x) or (isinstance(x, Tensor) and x.dim() == 0)


class Foreign(Operator):
    """Any SciPy ``LinearOperator``, applied on the host."""

    def __init__(self, parent: LinearOperator, *, device: torch.device | str = "cpu", positive: bool = False) -> None:
        dtype = torch.from_numpy(np.empty(0, dtype=np.result_type(parent.dtype, np.float32))).dtype
        super().__init__(
            Space(int(parent.shape[1]), dtype=dtype, device=device),
            Space(int(parent.shape[0]), dtype=dtype, device=device),
            positive=positive,
        )
        self.parent = parent

    def _apply(self, V: Tensor) -> Tensor:
        return torch.as_tensor(self.parent.matmat(V.numpy(force=True)), dtype=V.dtype, device=V.device)

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        if self.symmetric:
            return self._apply(U)
        return torch.as_tensor(self.parent.rmatmat(U.numpy(force=True)), dtype=U.dtype, device=U.device)


def as_operator(x: LinearOperator, *, like: Operator | None = None, positive: bool = False) -> Operator:
    """Return x as an :class:`Operator`; SciPy's own operators are wrapped, on the device of ``like``.

    ``positive`` declares of a SciPy operator, which cannot say so itself, that it is symmetric and ``vᴴAv ≥ 0``.

    Raises
    ------
    TypeError
        If x is not an operator.
    ValueError
        If x is an :class:`Operator` that was made without the declaration.

    >>> from scipy.sparse.linalg import aslinearoperator
    >>> as_operator(aslinearoperator(np.eye(2)))
    Foreign[2×2]
    """
    if isinstance(x, Operator):
        if positive and not x.positive:
            raise ValueError(f"as_operator: {x!r} was not declared positive; declare it where it is made")
        return x
    if not isinstance(x, LinearOperator):
        raise TypeError(
            f"as_operator: expected an Operator or a SciPy LinearOperator, got {type(x).__name__}; "
            "wrap a matrix with pl.operators.Dense or scipy.sparse.linalg.aslinearoperator"
        )
    return Foreign(x, device="cpu" if like is None else like.domain.device, positive=positive)


# Operator arithmetic builds algebra nodes and algebra nodes are operators: the one deliberate cycle.
from precondlab import algebra  # noqa: E402
