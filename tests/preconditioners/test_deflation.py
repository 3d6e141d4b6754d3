"""Deflation: the eigenvalues it is given move, the others stay; pairs from ARPACK; bad pairs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import eigsh

import precondlab as pl
from precondlab.errors import NotPositive
from tests.preconditioners.spectra import haar, kappa, positive, power

deflation = pl.preconditioners.deflation


@given(seed=st.integers(0, 2**31), n=st.integers(1, 30), data=st.data())
def test_known_eigenvalues_move_to_the_target_and_the_others_stay(seed, n, data):
    r = data.draw(st.integers(1, n))
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:r]
    values, A, target = power(n, 2), positive(power(n, 2), seed), data.draw(st.floats(0.01, 10))
    M = deflation(values[chosen], haar(n, seed)[:, chosen], target=target)
    expected = values / target
    expected[chosen] = 1.0
    found = torch.linalg.eigvals(M.dense() @ A.dense()).real.sort().values
    torch.testing.assert_close(found, expected.sort().values, rtol=1e-6, atol=1e-9)
    pl.testing.check_operator(M)


def test_pairs_from_arpack_leave_the_next_eigenvalue_over_the_last():
    A = positive(power(120, 3))
    values, vectors = eigsh(A, k=20)
    M = deflation(values, vectors)
    assert repr(M) == "Deflation[120×120, rank 20, σ=0.000125]"
    assert M.setup_matvecs == 0
    assert kappa(M, A) == pytest.approx((120 / 20) ** 3, rel=1e-6)
    assert pl.condition(A, preconditioner=M).estimate == pytest.approx((120 / 20) ** 3, rel=1e-6)


def test_the_smallest_eigenvalues_go_to_the_largest():
    A = positive(power(40, 4))
    M = deflation(power(40, 4)[-10:], haar(40)[:, -10:], target=1.0)
    assert kappa(M, A) == pytest.approx(30.0**4, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
def test_other_dtypes(dtype):
    V = torch.linalg.qr(torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)).Q
    pl.testing.check_operator(deflation([3.0, 2.0, 1.0], V))


def test_bad_pairs_are_refused():
    V = torch.eye(4)[:, :2]
    with pytest.raises(ValueError, match=r"values \[r\] and vectors \[n r\]"):
        deflation([1.0], V)
    with pytest.raises(ValueError, match=r"values \[r\] and vectors \[n r\]"):
        deflation([], torch.zeros(3, 0))
    with pytest.raises(NotPositive, match="at the level of round-off"):
        deflation([1.0, 0.0], V)
    with pytest.raises(NotPositive, match="positive target"):
        deflation([1.0, 1.0], V, target=-2.0)
    with pytest.raises(NotPositive, match="positive"):
        deflation([1.0, float("nan")], V)
    with pytest.raises(ValueError, match="orthonormal"):
        deflation([1.0, 2.0], 2 * V)
    with pytest.raises(ValueError, match="orthonormal"):
        deflation([1.0, 2.0], float("nan") * V)
