"""Random expressions of operators beside their matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator
from torch import Tensor

from precondlab.operator import Operator, as_operator
from precondlab.operators.gram import Gram, Kernel
from precondlab.operators.structured import BlockDiagonal, Dense, Diagonal, HStack, Identity, LowRank, VStack
from precondlab.space import Space
from precondlab.testing.strategies.spectra import Draw, generators, spectra

__all__ = ["operators"]

Pair = tuple[Operator, Tensor]


@st.composite
def operators(
    draw: Draw,
    *,
    max_size: int = 6,
    depth: int = 3,
    dtypes: Sequence[torch.dtype] = (torch.float64, torch.float32, torch.complex128),
    shape: tuple[int, int] | None = None,
) -> Pair:
    """Draw a random expression of operators and its matrix, as a pair ``(operator, matrix)``.

    Leaves are dense, diagonal, low-rank, identity, positive with a drawn spectrum, or SciPy's own;
    nodes are ``+ - * / @ .H .T``, palindromes, Gram, Kernel, stacks and block diagonals. The
    matrix is computed beside the operator, by dense algebra in double precision.

    Parameters
    ----------
    max_size
        Largest number of rows or columns.
    depth
        Largest height of the expression.
    dtypes
        To choose from.
    shape
        Rows and columns; drawn if None.

    >>> from hypothesis import given, settings
    >>> @settings(max_examples=5, database=None, derandomize=True, deadline=None)
    ... @given(operators())
    ... def test(pair):
    ...     operator, matrix = pair
    ...     assert operator.shape == matrix.shape
    >>> test()
    """
    dtype = draw(st.sampled_from(list(dtypes)))
    m, n = shape or (draw(st.integers(1, max_size)), draw(st.integers(1, max_size)))
    operator, matrix = _tree(draw, m, n, depth, max_size, dtype, draw(generators()))
    return operator, matrix.to(dtype)


def _tree(
    draw: Draw, m: int, n: int, depth: int, max_size: int, dtype: torch.dtype, generator: torch.Generator
) -> Pair:
    def sub(m: int, n: int) -> Pair:
        return _tree(draw, m, n, depth - 1, max_size, dtype, generator)

    def split(size: int) -> tuple[int, int]:
        first = draw(st.integers(1, size - 1))
        return first, size - first

    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return _leaf(draw, m, n, dtype, generator)
    nodes = ["sum", "difference", "scaled", "divided", "adjoint", "transpose", "product"]
    nodes += ["square", "palindrome", "gram", "kernel"] * (m == n)
    nodes += ["vstack"] * (m > 1) + ["hstack"] * (n > 1) + ["diagonal"] * (m > 1 and n > 1)
    node = draw(st.sampled_from(nodes))
    inner = draw(st.integers(1, max_size))
    match node:
        case "sum" | "difference":
            (A, a), (B, b) = sub(m, n), sub(m, n)
            return (A + B, a + b) if node == "sum" else (A - B, a - b)
        case "scaled" | "divided":
            A, a = sub(m, n)
            factor = draw(st.sampled_from([-2, -1.0, 0, 0.5, 3.0, *([1j, 2 - 1j] if dtype.is_complex else [])]))
            return (A / (factor or 1), a / (factor or 1)) if node == "divided" else (factor * A, factor * a)
        case "adjoint" | "transpose":
            A, a = sub(n, m)
            return (A.H, a.mH) if node == "adjoint" else (A.T, a.mT)
        case "product":
            (A, a), (B, b) = sub(m, inner), sub(inner, n)
            return A @ B, a @ b
        case "square":
            A, a = sub(n, n)
            return A**2, a @ a
        case "palindrome":
            (P, q), (A, a) = sub(inner, n), sub(inner, inner)
            return P.H @ A @ P, q.mH @ a @ q
        case "gram":
            A, a = sub(inner, n)
            return Gram(A), a.mH @ a
        case "kernel":
            A, a = sub(n, inner)
            return Kernel(A), a @ a.mH
        case "vstack":
            (A, a), (B, b) = (sub(part, n) for part in split(m))
            return VStack(A, B), torch.cat([a, b])
        case "hstack":
            (A, a), (B, b) = (sub(m, part) for part in split(n))
            return HStack(A, B), torch.cat([a, b], dim=1)
        case _:
            (A, a), (B, b) = (sub(*part) for part in zip(split(m), split(n), strict=True))
            return BlockDiagonal(A, B), torch.block_diag(a, b)


def _leaf(draw: Draw, m: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> Pair:
    wide = torch.complex128 if dtype.is_complex else torch.float64

    def normal(*shape: int) -> Tensor:  # rounded to the dtype, so that operator and matrix start equal
        return torch.randn(*shape, dtype=wide, generator=generator).to(dtype).to(wide)

    leaves = ["dense", "scipy", "lowrank"] + ["identity", "diagonal", "positive", "symmetric"] * (m == n)
    match draw(st.sampled_from(leaves)):
        case "dense":
            a = normal(m, n)
            return Dense(a.to(dtype)), a
        case "scipy":
            a = normal(m, n)
            return as_operator(aslinearoperator(a.to(dtype).numpy())), a
        case "lowrank":
            rank = draw(st.integers(1, 3))
            U, s, V = normal(m, rank), normal(rank), normal(n, rank)
            return LowRank(U.to(dtype), s.to(dtype), V.to(dtype)), U @ torch.diag(s) @ V.mH
        case "identity":
            return Identity(Space(n, dtype=dtype)), torch.eye(n, dtype=wide)
        case "diagonal":
            d = normal(n)
            d = d.abs().to(wide) if draw(st.booleans()) else d
            return Diagonal(d.to(dtype)), torch.diag(d)
        case kind:
            values = draw(spectra(min_size=n, max_size=n, signed=kind == "symmetric"))
            Q = torch.linalg.qr(normal(n, n)).Q
            a = (Q * values) @ Q.mH
            a = ((a + a.mH) / 2).to(dtype)
            return Dense(a, symmetric=True, positive=kind == "positive" and bool(values.min() > 1e-3)), a.to(wide)
