"""The laws of the contract, one function each; a law raises ``CheckFailed`` through its probe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.differentiation.choose import finite_difference_error
from precondlab.map import Map
from precondlab.operator import Operator
from precondlab.operators.gram import Gram, Kernel
from precondlab.operators.jacobian import Jacobian
from precondlab.testing.probe import Probe, norm, tolerance

__all__ = ["LAWS"]


def linear(p: Probe) -> None:
    """``A(αx + βy) = αAx + βAy``, also for large and small multiples, and ``A0 = 0``."""
    for name, B in p.sides():
        X, Y = p.vectors(B.domain, 3), p.vectors(B.domain, 3)
        a, b = (0.5 - 2j, 1j) if X.is_complex() else (0.5, -3.0)
        AX, AY = B @ X, B @ Y
        allowed = p.scale * (abs(a) * norm(X) + abs(b) * norm(Y))
        p.close(f"{name}(αx + βy) - (α{name}x + β{name}y)", B @ (a * X + b * Y), a * AX + b * AY, allowed)
        for factor in (1e4, 1e-4):
            p.close(
                f"{name}({factor:g}x) / {factor:g} - {name}x",
                B @ (factor * X) / factor,
                AX,
                p.scale * norm(X),
            )


def adjoint(p: Probe) -> None:
    """``⟨u, Av⟩ = ⟨Aᴴu, v⟩``."""
    U, V = p.vectors(p.A.codomain, 4), p.vectors(p.A.domain, 4)
    left, right = p.A.codomain.inner(U, p.A @ V), p.A.domain.inner(p.A.H @ U, V)
    # the rounding errors of an inner product have random signs: one factor √n, not two
    p.at_most("⟨u, Av⟩ - ⟨Aᴴu, v⟩", (left - right).abs().max().item(), p.scale * max(norm(U), norm(V)))


def block_is_columns(p: Probe) -> None:
    """``A[v₁ v₂ …] = [Av₁ Av₂ …]``, for narrow and wide blocks."""
    for name, B in p.sides():
        V = p.vectors(B.domain, 19)
        columns = torch.stack([B @ v for v in V.T], dim=1)
        for k in (1, 2, 19):
            p.close(
                f"{name} @ (block of {k}) against its columns",
                B @ V[:, :k],
                columns[:, :k],
                p.scale * norm(V),
            )


def zero_columns(p: Probe) -> None:
    """A zero column gives an exact zero, and a block without columns a block without columns."""
    for name, B in p.sides():
        V = p.vectors(B.domain, 3)
        V[:, 1] = 0
        p.require(not (B @ V)[:, 1].any(), f"{name} @ 0 is not zero: is the operator affine?")
        for empty in (V[:, :0], V[:, :0].numpy(force=True)):
            p.require(
                tuple((B @ empty).shape) == (B.shape[0], 0),
                f"{name} @ (block of no columns) has a wrong shape",
            )


def torch_is_numpy(p: Probe) -> None:
    """NumPy arrays and torch tensors of every memory layout give the same product."""
    for name, B in p.sides():
        V = p.vectors(B.domain, 3)
        expected, allowed = B @ V, p.scale * norm(V)
        strided = torch.stack([V, V], dim=1).reshape(-1, 3)[::2]
        for layout, W in {"transposed": V.T.contiguous().T, "strided": strided}.items():
            p.close(f"{name} @ ({layout} tensor)", B @ W, expected, allowed)
        for layout, array in _layouts(V.numpy(force=True)):
            got = B @ array
            p.require(
                isinstance(got, np.ndarray) and got.dtype == B.dtype,
                f"{name} @ ({layout} array) is {type(got).__name__} of {got.dtype}, not an array of {B.dtype}",
            )
            p.close(f"{name} @ ({layout} array)", _tensor(got, expected), expected, allowed)
        column = V[:, :1].numpy(force=True)
        p.close(f"{name} @ (n, 1)", _tensor(B @ column, expected), expected[:, :1], allowed)
        p.close(f"{name}.matvec (n,)", _tensor(B.matvec(column[:, 0]), expected), expected[:, 0], allowed)
        p.close(f"{name}.matvec (n, 1)", _tensor(B.matvec(column), expected), expected[:, :1], allowed)
        p.close(f"{name}.matmat", _tensor(B.matmat(column), expected), expected[:, :1], allowed)


def _layouts(V: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield "C", np.ascontiguousarray(V)
    yield "Fortran", np.asfortranarray(V)
    yield "negative-stride", np.ascontiguousarray(V[::-1])[::-1]
    yield "strided", np.repeat(V, 2, axis=0)[::2]
    yield "big-endian", V.astype(V.dtype.newbyteorder(">"))
    frozen = V.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen


def complex_vectors(p: Probe) -> None:
    """A real operator takes complex vectors: ``A(x + iy) = Ax + iAy``."""
    for name, B in p.sides():
        X, Y = p.vectors(B.domain, 2), p.vectors(B.domain, 2)
        p.close(
            f"{name}(x + iy)",
            B @ torch.complex(X, Y),
            torch.complex(B @ X, B @ Y),
            p.scale * (norm(X) + norm(Y)),
        )


def dense(p: Probe) -> None:
    """``dense()``, columns of A, rows from the adjoint, random products and ``matrix`` agree."""
    A, given = p.A, p.matrix
    columns = A @ torch.eye(A.shape[1], dtype=A.domain.dtype, device=A.domain.device)
    if given is not None:
        p.close("A against the given matrix", columns, given.to(columns), p.scale)
    if p.small:
        rows = A.H @ torch.eye(A.shape[0], dtype=A.domain.dtype, device=A.domain.device)
        p.close("rows from A.H against columns from A", rows.mH, columns, p.scale * A.shape[0] ** 0.5)
        p.close("A.dense()", A.dense(), columns, p.scale * A.shape[0] ** 0.5)
    U, V = p.vectors(A.codomain, 3), p.vectors(A.domain, 3)
    p.close("A @ v against columns of A", A @ V, columns @ V, p.scale * norm(V))
    p.close("A.H @ u against columns of A", A.H @ U, columns.mH @ U, p.scale * norm(U))


def symmetric(p: Probe) -> None:
    """``⟨u, Av⟩ = ⟨Au, v⟩`` if declared symmetric."""
    U, V = p.vectors(p.A.domain, 4), p.vectors(p.A.domain, 4)
    left, right = p.A.domain.inner(U, p.A @ V), p.A.domain.inner(p.A @ U, V)
    p.at_most("⟨u, Av⟩ - ⟨Au, v⟩", (left - right).abs().max().item(), p.scale * max(norm(U), norm(V)))


def positive(p: Probe) -> None:
    """No Ritz value is negative if declared positive: all eigenvalues when small, else 24 Krylov steps."""
    A = p.A
    if p.small:
        basis = torch.eye(A.shape[0], dtype=A.domain.dtype, device=A.domain.device)
    else:
        basis = _normalized(p.vectors(A.domain, 1))
        for _ in range(24):
            fresh = A @ basis[:, -1:]
            for _ in range(2):
                fresh = fresh - basis @ A.domain.inner(basis, fresh)
            if norm(fresh) <= p.scale:
                break
            basis = torch.cat([basis, _normalized(fresh)], dim=1)
    projected = A.domain.inner(basis, A @ basis)
    if not projected.isfinite().all():
        p.fail("products are not finite")
    lowest = torch.linalg.eigvalsh((projected + projected.mH) / 2)[0].item()
    p.at_most("negative curvature vᴴAv", -lowest, p.scale)


def _normalized(V: Tensor) -> Tensor:
    return V / torch.linalg.vector_norm(V, dim=0)


def square_root(p: Probe) -> None:
    """``S Sᴴ = A`` for ``S = A.sqrt``."""
    root = p.A.sqrt
    V = p.vectors(p.A.domain, 3)
    if root is None:
        return
    p.close("S Sᴴ v - A v", root @ (root.H @ V), p.A @ V, p.scale * norm(V))


def repeatable(p: Probe) -> None:
    """The same product twice, on a vector that is left alone and shares no memory with the result."""
    for name, B in p.sides():
        V = p.vectors(B.domain, 3)
        before, scale = V.clone(), p.scale
        first = B @ V
        p.require(torch.equal(V, before), f"{name} @ v changes v")
        kept = first.clone()
        again = B @ V
        gain = norm(first) + scale
        allowed = tolerance(B.domain.dtype, gain=gain) if p.rtol is None else p.rtol * gain
        p.close(f"{name} @ v once and again", again, kept, allowed)
        _ = B @ p.vectors(B.domain, 3)
        p.require(torch.equal(first, kept), f"{name} @ w changes the result of an earlier product")
        again.zero_()
        p.require(torch.equal(V, before), f"{name} @ v returns the memory of v")
        p.close(f"{name} @ v after a result was overwritten", B @ V, kept, allowed)


def refuses(p: Probe) -> None:
    """Wrong shapes raise a ValueError with both shapes, wrong dtypes a TypeError, wrong devices a ValueError."""
    for name, B in p.sides():
        n = B.shape[1]
        v = p.vectors(B.domain, 1)[:, 0]
        longer = torch.cat([v, v[:1]]) if n else v.new_zeros(1)
        for verb in ("__matmul__", "matvec", "matmat"):
            for bad in (longer, longer[:, None], v[None, :, None], longer.numpy(force=True)):
                _expect(p, f"{name}.{verb}", B, verb, bad, ValueError, (str(n), str(tuple(bad.shape))))
        two = torch.stack([v, v], dim=1)
        _expect(p, f"{name}.matvec", B, "matvec", two, ValueError, (str(n), str(tuple(two.shape))))
        _expect(p, f"{name}.matmat", B, "matmat", v, ValueError, (str(n), str(tuple(v.shape))))
        other = torch.float32 if B.domain.dtype in (torch.float64, torch.complex128) else torch.float64
        _expect(p, name, B, "__matmul__", v.real.to(other), TypeError, (str(B.domain.dtype), str(other)))
        _expect(p, name, B, "__matmul__", v.to("meta"), ValueError, (str(B.domain.device), "meta"))


def _expect(
    p: Probe, name: str, B: Operator, verb: str, bad: Tensor | np.ndarray, kind: type[Exception], words: tuple[str, ...]
) -> None:
    what = f"{name} of {tuple(bad.shape)} {bad.dtype}"
    try:
        getattr(B, verb)(bad)
    except kind as error:
        missing = [word for word in words if word not in str(error)]
        p.require(not missing, f"{what} raises {kind.__name__} without saying {missing}: {error}")
    else:
        p.fail(f"{what} is accepted; it should raise {kind.__name__}")


def scipy_attributes(p: Probe) -> None:
    """SciPy's ``shape``, ``dtype``, ``H`` and ``T``; a repr; a counter that counts columns."""
    A, (m, n) = p.A, p.A.shape
    p.require(isinstance(A, LinearOperator), "not a SciPy LinearOperator")
    p.require((m, n) == (A.codomain.size, A.domain.size), f"shape {A.shape} against {A.codomain} ← {A.domain}")
    p.require(A.dtype == A.domain.numpy_dtype, f"dtype {A.dtype} against {A.domain.numpy_dtype}")
    p.require(A.H.shape == (n, m) and A.T.shape == (n, m), f"A.H or A.T is not {n}×{m}")
    p.require(bool(repr(A)) and "\n" not in repr(A), "repr is not one line")
    U, V = p.vectors(A.codomain, 2), p.vectors(A.domain, 2)
    p.close("A.H.H @ v against A @ v", A.H.H @ V, A @ V, p.scale * norm(V))
    p.close("A.T @ u against conj(A.H @ conj(u))", A.T @ U, (A.H @ U.conj()).conj(), p.scale * norm(U))
    array = U.numpy(force=True)
    p.close("A.T @ (array)", _tensor(A.T @ array, U), A.T @ U, p.scale * norm(U))
    p.close("A.rmatvec(u) against A.H @ u", A.rmatvec(U[:, 0]), A.H @ U[:, 0], p.scale * norm(U))
    p.close("A.rmatmat(U) against A.H @ U", A.rmatmat(U), A.H @ U, p.scale * norm(U))
    before = A.num_matvecs
    _ = A @ V
    p.require(A.num_matvecs == before + 2, f"num_matvecs grew by {A.num_matvecs - before} for a block of 2 columns")


def derivative(p: Probe) -> None:
    """``Jv`` agrees with central differences of the map, in all parameters and in each block of them."""
    J = _jacobian_of(p.A)
    if J is None:
        return
    rows = [J.map.codomain.slices[name] for name in J.codomain.shapes]

    def residual(params: dict[str, Tensor]) -> Tensor:
        value = J.map(params)
        return torch.cat([value[part] for part in rows])

    V = p.vectors(J.domain, 1).sign()  # every parameter counts alike
    allowed = J.domain.eps**0.25  # the best central difference is accurate to ε^⅔ times the third derivative
    blocks = list(J.domain.slices.items())
    chosen = torch.randperm(len(blocks), generator=p.generator)[:6].tolist()
    for name, part in [("", slice(None)), *(blocks[i] for i in chosen if len(blocks) > 1)]:
        v = torch.zeros_like(V)
        v[part] = V[part]
        where = f" in parameter {name!r}" if name else ""
        error = finite_difference_error(residual, J.at, J.domain, v[:, 0], (J @ v)[:, 0]) if v.any() else 0.0
        p.at_most(f"Jv against finite differences{where}, relative", error, allowed)
    if isinstance(p.A, (Gram, Kernel)):
        left, right = (J.H, J) if isinstance(p.A, Gram) else (J, J.H)
        V = p.vectors(p.A.domain, 3)
        p.close(f"{p.A!r} against its two factors", p.A @ V, left @ (right @ V), p.scale * norm(V))


def _jacobian_of(A: Operator) -> Jacobian | None:
    J = A.J if isinstance(A, (Gram, Kernel)) else A
    known = isinstance(getattr(J, "map", None), Map) and hasattr(J, "at")  # any operator that names map and point
    return cast(Jacobian, J) if known else None


def _tensor(array: np.ndarray, like: Tensor) -> Tensor:
    return torch.as_tensor(array, device=like.device)


_Applies = Callable[[Operator, Tensor | None], bool]
_always: _Applies = lambda A, matrix: True  # noqa: E731

#: Name → law, and whether it applies to an operator (with a matrix found in another way, or None).
LAWS: dict[str, tuple[Callable[[Probe], None], _Applies]] = {
    "linear": (linear, _always),
    "adjoint": (adjoint, _always),
    "block = columns": (block_is_columns, _always),
    "zero columns": (zero_columns, _always),
    "torch = numpy": (torch_is_numpy, _always),
    "complex vectors": (complex_vectors, lambda A, matrix: not A.domain.dtype.is_complex),
    "dense": (dense, lambda A, matrix: matrix is not None or max(A.shape) <= 256),
    "symmetric": (symmetric, lambda A, matrix: A.symmetric),
    "positive": (positive, lambda A, matrix: A.positive),
    "sqrt": (square_root, lambda A, matrix: A.sqrt is not None),
    "repeatable": (repeatable, _always),
    "derivative": (derivative, lambda A, matrix: _jacobian_of(A) is not None),
    "refuses bad input": (refuses, _always),
    "scipy attributes": (scipy_attributes, _always),
}
