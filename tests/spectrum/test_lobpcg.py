"""LOBPCG against dense decompositions, SciPy's, and the theory of its rate."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import precondlab as pl
from precondlab.errors import Breakdown
from precondlab.operators import Dense, Diagonal
from precondlab.spectrum import ExtremesStatus, lobpcg


def haar(n, seed=0):
    return torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q


@given(seed=st.integers(0, 2**31), k=st.integers(1, 4), spread=st.floats(0, 1))
def test_smallest_eigenvalues_of_an_ill_conditioned_operator(seed, k, spread):
    n = 60
    values = np.logspace(0, 8, n)
    Q = haar(n, seed)
    A = Dense(Q @ torch.diag(torch.as_tensor(values)) @ Q.T, symmetric=True)
    near = torch.as_tensor(np.exp(np.random.default_rng(seed).uniform(-spread, spread, n)) / values)
    M = Dense(Q @ torch.diag(near) @ Q.T, positive=True)
    X = A.domain.random(k, generator=torch.Generator().manual_seed(seed))
    found = lobpcg(A, X, M=M, largest=False, tol=1e-10).check()
    exact = np.linalg.eigvalsh(A.matrix.numpy())[:k]
    np.testing.assert_allclose(found.values, exact, atol=2000 * 2.2e-16 * 1e8)
    assert found.num_matvecs <= 150 * k  # the gap is 27 %, κ(MA) up to e²; without M it takes thousands


def test_products_do_not_depend_on_kappa():
    counts = []
    for decades in (4, 8, 12):
        A = Diagonal(torch.logspace(0, decades, 200, dtype=torch.float64))
        M = Diagonal(1.0 / A.entries * (1 + 0.3 * torch.sin(torch.arange(200.0, dtype=torch.float64))))
        counts.append(lobpcg(A, A.domain.random(1), M=M, largest=False, tol=1e-8).check().num_matvecs)
    assert max(counts) <= 60


def test_largest_without_preconditioner():
    A = Diagonal(torch.cat([torch.linspace(0, 1, 97), torch.tensor([2.0, 3.0, 5.0])]).double())
    found = lobpcg(A, A.domain.random(3)).check()
    np.testing.assert_allclose(found.values, [2, 3, 5], rtol=1e-13)
    assert (found.vectors.T @ found.vectors - torch.eye(3)).abs().max() < 1e-13


def test_too_few_steps_say_so():
    A = Diagonal(torch.logspace(0, 8, 100, dtype=torch.float64))
    found = lobpcg(A, A.domain.random(1), largest=False, maxiter=5)
    assert found.status is ExtremesStatus.NOT_CONVERGED and found.num_matvecs == 7  # one at the start, one at the end
    with pytest.raises(ArithmeticError, match=r"lobpcg: residuals .* after 7 products: .*maxiter"):
        found.check()


def test_a_dependent_start_is_filled():
    A = Diagonal(torch.arange(1.0, 31.0, dtype=torch.float64))
    found = lobpcg(A, torch.ones(30, 2, dtype=torch.float64)).check()
    np.testing.assert_allclose(found.values, [29, 30], rtol=1e-12)


@pytest.mark.parametrize(
    ("X", "M", "message"),
    [
        (torch.ones(10), None, "starting block"),
        (torch.ones(10, 4), None, "eigsh"),
        (torch.ones(10, 1), Diagonal(-torch.ones(10)), "positive"),
        (torch.ones(10, 1), Diagonal(torch.ones(9)), "one shape"),
        (torch.full((10, 1), float("nan")), None, "not finite"),
    ],
)
def test_bad_arguments_are_refused(X, M, message):
    with pytest.raises(ValueError, match=message):
        lobpcg(Diagonal(torch.ones(10)), X, M=M)


def test_constraints_of_another_size_are_refused():
    for Y in (torch.ones(9, 1), torch.ones(10), torch.full((10, 1), float("inf"))):
        with pytest.raises(ValueError, match=r"finite constraints Y of shape \(10, q\)"):
            lobpcg(Diagonal(torch.ones(10)), torch.ones(10, 1), Y=Y)


def test_a_number_of_steps_that_is_none_is_refused():
    A = Diagonal(torch.ones(10))
    with pytest.raises(ValueError, match="maxiter should be ≥ 0"):
        lobpcg(A, torch.ones(10, 1), maxiter=-1)
    with pytest.raises(TypeError, match="maxiter should be an integer"):
        lobpcg(A, torch.ones(10, 1), maxiter=20.0)


def test_an_array_is_a_start():
    A = Diagonal(torch.arange(1.0, 31.0, dtype=torch.float64))
    found = lobpcg(A, np.random.default_rng(0).standard_normal((30, 2))).check()
    np.testing.assert_allclose(found.values, [29, 30], rtol=1e-12)


def test_products_that_are_not_finite_are_named():
    with pytest.raises(Breakdown, match="product 1"):
        lobpcg(Diagonal(torch.full((9,), float("nan"))), torch.ones(9, 1))


@pytest.mark.parametrize("largest", [True, False])
@given(seed=st.integers(0, 2**31), q=st.integers(1, 6))
def test_constraints_leave_the_eigenpairs_of_the_complement(largest, seed, q):
    Q, generator = haar(40, seed), torch.Generator().manual_seed(seed)
    A = Dense(Q @ torch.diag(torch.linspace(1, 3, 40).double() ** 4) @ Q.T, positive=True)
    Y = torch.randn(40, q, generator=generator, dtype=torch.float64)  # no eigenvectors, not orthonormal
    M = None if largest else Dense(torch.linalg.inv(A.matrix), positive=True)
    found = lobpcg(A, A.domain.random(2, generator=generator), Y=Y, M=M, largest=largest)
    assert largest or found.num_matvecs <= 120  # 350 with M as it is
    Z = torch.linalg.qr(Y, mode="complete").Q[:, q:]
    exact = np.linalg.eigvalsh((Z.T @ A.matrix @ Z).numpy())
    np.testing.assert_allclose(found.check().values, exact[-2:] if largest else exact[:2], rtol=1e-11)
    assert (Y.T @ found.vectors).abs().max() < 1e-12 * Y.norm()


def test_known_eigenvectors_as_constraints_give_the_next_ones():
    A = Diagonal(torch.arange(1.0, 51.0, dtype=torch.float64))
    first = lobpcg(A, A.domain.random(2), M=A.inverse, largest=False).check()
    more = lobpcg(A, A.domain.random(2), M=A.inverse, largest=False, Y=first.vectors.numpy()).check()
    np.testing.assert_allclose(more.values, [3, 4], rtol=1e-12)


@pytest.mark.parametrize("noise", [1e-12, 1e-8, 1e-4])
def test_noise_ends_the_iteration_and_is_said(noise):
    A = Diagonal(torch.arange(1.0, 201.0, dtype=torch.float64) ** 2)
    found = lobpcg(pl.testing.Faulty(A, noise=noise), A.domain.random(4), M=A.inverse, largest=False, maxiter=1000)
    assert found.status is ExtremesStatus.INACCURATE
    assert found.num_matvecs < 400  # 46 without noise
    assert np.abs(found.values - [1, 4, 9, 16]).max() < 10 * noise * 4e4
