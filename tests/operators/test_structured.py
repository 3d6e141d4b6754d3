"""Operators known by their entries or parts, for every dtype."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precondlab.operators import BlockDiagonal, Dense, Diagonal, HStack, Identity, LowRank, VStack
from precondlab.space import Space
from precondlab.testing import check_operator
from precondlab.testing.strategies import generators, operators, spectra

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]


def normal(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_leaves(dtype):
    a, U, s, V = (normal(*shape, dtype=dtype) for shape in [(5, 3), (5, 2), (2,), (3, 2)])
    real = s.real.abs().to(dtype)
    for operator, matrix in [
        (Dense(a), a),
        (Dense(a.mH @ a, positive=True), a.mH @ a),
        (Diagonal(s), torch.diag(s)),
        (Diagonal(s.abs()), torch.diag(s.abs())),
        (LowRank(U, s, V), U @ torch.diag(s) @ V.mH),
        (LowRank(U, real), U @ torch.diag(real) @ U.mH),
        (Identity(Space(4, dtype=dtype)), torch.eye(4, dtype=dtype)),
    ]:
        check_operator(operator, matrix=matrix)


@given(spectra(), generators())
def test_what_is_declared_follows_from_the_entries(values, generator):
    U = torch.randn(5, len(values), dtype=values.dtype, generator=generator)
    for A in (Diagonal(values), LowRank(U, values), BlockDiagonal(Diagonal(values), LowRank(U, values))):
        assert A.positive
        check_operator(A)
    values[-1] = -1.0
    for A in (Diagonal(values), LowRank(U, values), BlockDiagonal(Diagonal(values), LowRank(U, values))):
        assert A.symmetric
        assert not A.positive
        assert A.sqrt is None
        check_operator(A)


@given(st.data(), st.integers(1, 4), st.integers(1, 4), st.sampled_from(DTYPES))
def test_stacks(data, m, n, dtype):
    def draw(*shape):
        return data.draw(operators(depth=1, dtypes=[dtype], shape=shape))

    (A, a), (B, b), (C, c) = draw(m, n), draw(2, n), draw(m, 3)
    check_operator(VStack(A, B, A), matrix=torch.cat([a, b, a]))
    check_operator(HStack(A, C, A), matrix=torch.cat([a, c, a], dim=1))
    check_operator(BlockDiagonal(A, B, C), matrix=torch.block_diag(a, b, c))


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: Dense(torch.ones(3)), TypeError, "expected a 2-d tensor, got torch.Size"),
        (lambda: Dense(torch.eye(2).numpy()), TypeError, r"got \(2, 2\); use torch.as_tensor"),
        (lambda: Dense(torch.eye(2, dtype=torch.int64)), TypeError, "need float32, float64.*got torch.int64"),
        (lambda: Diagonal(torch.eye(2)), TypeError, "expected a 1-d tensor"),
        (lambda: LowRank(torch.ones(3), torch.ones(1)), ValueError, r"U \[m r\], s \[r\]"),
        (lambda: LowRank(torch.ones(3, 2), torch.ones(1)), ValueError, r"got \(3, 2\), \(1,\)"),
        (lambda: LowRank(torch.ones(3, 1), torch.ones(1).double()), TypeError, "one dtype on one device"),
        (lambda: LowRank(torch.ones(3, 1).numpy(), torch.ones(1)), TypeError, "expected tensors"),
        (lambda: VStack(), ValueError, "at least one operator"),
        (lambda: HStack(torch.eye(2)), TypeError, r"got \['Tensor'\]; wrap matrices with pl.operators.Dense"),
        (lambda: VStack(Dense(torch.eye(2)), Dense(torch.eye(3))), ValueError, "different domains"),
        (lambda: HStack(Dense(torch.eye(2)), Dense(torch.eye(3))), ValueError, "different codomains"),
        (
            lambda: BlockDiagonal(Dense(torch.eye(2)), Dense(torch.eye(2).double())),
            ValueError,
            "differ in dtype",
        ),
    ],
)
def test_mistakes_are_refused(make, kind, message):
    with pytest.raises(kind, match=message):
        make()
