"""Lanczos and Golub–Kahan against dense decompositions of matrices with a prescribed spectrum."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precondlab.errors import Breakdown, NotPositive
from precondlab.krylov import golub_kahan, lanczos
from precondlab.operators import Dense, Diagonal


def haar(n, seed):
    return torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q


def symmetric(values, seed=0, **declared):
    Q = haar(len(values), seed)
    return Dense(Q @ torch.diag(torch.as_tensor(values, dtype=torch.float64)) @ Q.T, symmetric=True, **declared)


def last(steps):
    *_, final = steps
    return final


@given(seed=st.integers(0, 2**31), n=st.integers(1, 40), decades=st.floats(1, 12))
def test_lanczos_run_to_the_end_finds_every_eigenvalue(seed, n, decades):
    values = np.logspace(0, -decades, n) * np.where(np.arange(n) % 3 == 2, -1, 1)
    A = symmetric(values, seed)
    T = last(lanczos(A, A.domain.random(generator=torch.Generator().manual_seed(seed)), num_matvecs=n))
    assert T.exhausted
    np.testing.assert_allclose(T.eigh()[0], np.sort(values), atol=1e-13 * n)


@given(seed=st.integers(0, 2**31), n=st.integers(2, 40))
def test_ritz_values_lie_inside_the_spectrum_at_every_step(seed, n):
    A = symmetric(np.logspace(0, -6, n), seed)
    for T in lanczos(A, A.domain.random(), num_matvecs=n):
        ritz = T.eigh()[0]
        assert ritz[0] >= 1e-6 - 1e-14
        assert ritz[-1] <= 1 + 1e-13


@given(seed=st.integers(0, 2**31), m=st.integers(1, 30), n=st.integers(1, 30), decades=st.floats(0, 14))
def test_golub_kahan_resolves_small_singular_values(seed, m, n, decades):
    rank = min(m, n)
    sigma = torch.logspace(0, -decades, rank, dtype=torch.float64)
    J = Dense(haar(m, seed)[:, :rank] @ torch.diag(sigma) @ haar(n, seed + 1)[:, :rank].T)
    B = last(golub_kahan(J, J.domain.random(), num_matvecs=n))
    found = B.svd()[0]
    assert found[0] == pytest.approx(1.0, rel=1e-12)
    if m >= n:
        assert found[-1] == pytest.approx(sigma[-1].item(), abs=1e-13 * n)
    else:
        assert found[-1] <= 1e-13 * n  # the null space is seen


def test_recurrences_stop_on_an_invariant_subspace():
    A = Diagonal(torch.tensor([1.0, 1.0, 2.0, 2.0], dtype=torch.float64))
    start = torch.ones(4, dtype=torch.float64)
    T, B = last(lanczos(A, start, num_matvecs=4)), last(golub_kahan(A, start, num_matvecs=4))
    assert T.exhausted and B.exhausted
    np.testing.assert_allclose(T.eigh()[0], [1, 2])
    np.testing.assert_allclose(B.svd()[0], [2, 1])


def test_scaling_does_not_change_when_a_recurrence_stops():
    A = symmetric(np.linspace(1, 2, 12))
    for factor in (1e-150, 1e150):
        assert len(last(lanczos(factor * A, A.domain.random(), num_matvecs=12)).diagonal) == 12
        assert len(last(golub_kahan(factor * A, A.domain.random(), num_matvecs=12)).diagonal) == 12


def test_preconditioned_lanczos_finds_the_spectrum_of_MA():
    A, M = (
        symmetric(np.logspace(0, -4, 20), positive=True),
        symmetric(np.linspace(1, 3, 20), 5, positive=True),
    )
    T = last(lanczos(A, A.domain.random(), num_matvecs=20, M=M))
    expected = np.sort(torch.linalg.eigvals(M.dense() @ A.dense()).real.numpy())
    np.testing.assert_allclose(T.eigh()[0], expected, atol=1e-12)


def test_an_indefinite_preconditioner_is_noticed():
    A, M = symmetric(np.linspace(1, 2, 6)), symmetric([1.0, 1, 1, 1, 1, -5])
    with pytest.raises(NotPositive, match="not positive"):
        last(lanczos(A, A.domain.random(), num_matvecs=6, M=M))


@pytest.mark.parametrize("recurrence", [lanczos, golub_kahan])
def test_a_zero_start_and_a_product_that_is_not_finite_are_refused(recurrence):
    A = Diagonal(torch.tensor([1.0, float("nan")]))
    with pytest.raises(Breakdown, match="product 1"):
        last(recurrence(A, torch.ones(2), num_matvecs=2))
    with pytest.raises(Breakdown, match="start vector is zero"):
        last(recurrence(A, torch.zeros(2), num_matvecs=2))
