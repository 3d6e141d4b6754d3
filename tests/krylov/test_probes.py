"""Lanczos from many vectors against dense functions of matrices with a prescribed spectrum."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precondlab.errors import Breakdown
from precondlab.krylov.probes import orthonormalize, spherical, tridiagonalize
from precondlab.operators import Dense, Diagonal
from precondlab.space import Space


def haar(n, seed):
    return torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q


def symmetric(values, seed=0, dtype=torch.float64):
    Q = haar(len(values), seed)
    return Dense((Q @ torch.diag(torch.as_tensor(values, dtype=torch.float64)) @ Q.T).to(dtype), symmetric=True)


@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 40),
    count=st.integers(1, 5),
    steps=st.integers(1, 50),
    full=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_every_rule_integrates_polynomials_exactly(seed, n, count, steps, full, dtype):
    values = np.where(np.arange(n) % 3 == 2, -1, 1) * np.linspace(0.2, 1, n)
    A = symmetric(values, seed, dtype)
    starts = A.domain.random(count, generator=torch.Generator().manual_seed(seed))
    found = tridiagonalize(A, starts, num_steps=steps, reorthogonalize=full)
    assert len(found) == count
    dense = A.matrix.double()
    for T, v in zip(found, starts.double().T, strict=True):
        nodes, vectors = T.eigh()
        assert len(nodes) <= min(steps, n)
        assert T.norm == pytest.approx(v.norm().item(), rel=1e-6)
        q, power = v / v.norm(), v / v.norm()
        for degree in range(min(2 * len(nodes), 12)):
            moment = (q @ power).item()
            assert vectors[0] ** 2 @ nodes**degree == pytest.approx(moment, abs=60 * (n + 10) * A.domain.eps)
            power = dense @ power


def test_finished_columns_stop_and_the_others_go_on():
    A = Diagonal(torch.arange(1.0, 21.0, dtype=torch.float64))
    starts = torch.zeros(20, 3, dtype=torch.float64)
    starts[4, 0] = 2.0
    starts[:, 1] = 1.0
    starts[:2, 2] = 1.0
    first, second, third = tridiagonalize(A, starts, num_steps=6)
    assert [len(T.diagonal) for T in (first, second, third)] == [1, 6, 2]
    assert [T.exhausted for T in (first, second, third)] == [True, False, True]
    np.testing.assert_allclose(first.diagonal, [5.0])
    np.testing.assert_allclose(third.eigh()[0], [1, 2])
    assert A.num_matvecs == 1 + 6 + 2


def test_repeated_ritz_values_carry_the_weight_of_their_eigenvalue():
    """Strakoš' spectrum: without reorthogonalization large eigenvalues come out many times."""
    n, rho = 48, 0.8
    i = np.arange(1, n + 1)
    values = 0.1 + (i - 1) / (n - 1) * (100 - 0.1) * rho ** (n - i)
    A = Diagonal(torch.from_numpy(np.concatenate([values, np.zeros(60)])))
    start = torch.ones(108, 1, dtype=torch.float64)
    (T,) = tridiagonalize(A, start, num_steps=96)
    nodes, vectors = T.eigh()
    close = np.abs(nodes - 100) < 1e-6
    assert close.sum() > 1  # copies
    assert (vectors[0, close] ** 2).sum() == pytest.approx(1 / 108, rel=1e-8)
    (T,) = tridiagonalize(A, start, num_steps=48, reorthogonalize=True)
    assert (np.abs(T.eigh()[0] - 100) < 1e-6).sum() == 1


def test_a_full_space_gives_the_eigenvalues():
    values = np.logspace(0, -8, 25)
    A = symmetric(values)
    for T in tridiagonalize(A, A.domain.random(2), num_steps=25):
        assert T.exhausted
        np.testing.assert_allclose(T.eigh()[0], np.sort(values), atol=1e-14)


def test_hermitian_operators_are_taken():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(9, 9, dtype=torch.complex128, generator=generator)
    A = Dense(X + X.mH, symmetric=True)
    (T,) = tridiagonalize(A, A.domain.random(1), num_steps=9)
    np.testing.assert_allclose(T.eigh()[0], np.linalg.eigvalsh(A.matrix.numpy()), atol=1e-12)


class Shares(Diagonal):
    """Returns its argument, as SciPy's identity does."""

    def _apply(self, V):
        return V


def test_a_product_that_returns_its_argument_does_no_harm():
    A = Shares(torch.ones(5, dtype=torch.float64))
    (T,) = tridiagonalize(A, A.domain.random(1), num_steps=3)
    np.testing.assert_allclose(T.diagonal, [1.0])


def test_bad_products_and_starts_are_named():
    A = Diagonal(torch.tensor([1.0, float("nan"), 2.0]))
    with pytest.raises(Breakdown, match="product 1 with Diagonal"):
        tridiagonalize(A, torch.ones(3, 2), num_steps=2)
    with pytest.raises(Breakdown, match="start vector 2 is zero"):
        tridiagonalize(A, torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]), num_steps=2)


@given(seed=st.integers(0, 2**31), n=st.integers(1, 30), count=st.integers(1, 12), decades=st.floats(0, 30))
def test_orthonormalize_factorizes(seed, n, count, decades):
    Y = torch.randn(n, count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    Y = Y * torch.logspace(0, -decades, count, dtype=torch.float64)
    Q, R = orthonormalize(Space(n), Y)
    np.testing.assert_allclose(Q.numpy() @ R, Y, atol=1e-13 * n)
    gram = (Q.T @ Q).numpy()
    np.testing.assert_allclose(gram, np.diag(gram.diagonal().round()), atol=1e-13 * n)
    assert gram.trace().round() == min(n, count) == np.count_nonzero(R.diagonal())


def test_spherical_vectors_are_isotropic():
    V = spherical(Space(3), 4000)
    np.testing.assert_allclose(V.norm(dim=0), 3**0.5, rtol=1e-12)
    np.testing.assert_allclose(V @ V.T / 4000, np.eye(3), atol=0.15)
