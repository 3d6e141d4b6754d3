"""Condition numbers of operators with a prescribed spectrum."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import precondlab as pl
from precondlab.errors import Breakdown, NotPositive
from precondlab.operators import Dense, Diagonal, Gram, Kernel
from precondlab.spectrum import ConditionStatus


def haar(n, seed=0):
    return torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q


def jacobian(eigenvalues, rows=0, seed=0):
    """A matrix J whose JᵀJ has the given eigenvalues."""
    sigma = torch.as_tensor(eigenvalues, dtype=torch.float64).sqrt()
    n = len(sigma)
    return Dense(haar(n + rows, seed)[:, :n] @ torch.diag(sigma) @ haar(n, seed + 1).T)


def positive(eigenvalues, seed=0):
    Q = haar(len(eigenvalues), seed)
    return Dense(Q @ torch.diag(torch.as_tensor(eigenvalues, dtype=torch.float64)) @ Q.T, positive=True)


@given(seed=st.integers(0, 2**31), n=st.integers(1, 40), decades=st.floats(0, 24), rows=st.integers(0, 20))
def test_dense_interval_holds_kappa_through_the_jacobian(seed, n, decades, rows):
    eigenvalues = np.logspace(3, 3 - decades, n) if n > 1 else np.array([7.0])
    truth = eigenvalues[0] / eigenvalues[-1]
    result = pl.condition(Gram(jacobian(eigenvalues, rows, seed)))
    assert result.status.ok and result.rank == n
    assert result.lower <= truth * (1 + 1e-12) and truth <= result.upper * (1 + 1e-12)
    assert result.upper <= result.lower * (1 + 1e-10 + 40 * (n + rows) * 2.3e-16 * truth**0.5)
    assert result.estimate == pytest.approx(truth, rel=1e-8 + 1e-14 * truth**0.5)


@given(seed=st.integers(0, 2**31), steps=st.integers(1, 30), decades=st.floats(1, 12))
def test_krylov_lower_bound_is_never_violated(seed, steps, decades):
    eigenvalues = np.logspace(0, -decades, 31)
    generator = torch.Generator().manual_seed(seed)
    for A in (Gram(jacobian(eigenvalues, 5, seed)), positive(eigenvalues, seed)):
        result = pl.condition(A, num_matvecs=steps, generator=generator)
        assert result.lower <= 10.0**decades * (1 + 1e-9)
        assert result.upper == math.inf
        assert result.num_matvecs <= steps
        assert result.status is ConditionStatus.LOWER_BOUND


@pytest.mark.parametrize("method", ["dense", "golub-kahan"])
def test_a_singular_operator_has_infinite_kappa_and_a_rank(method):
    J = jacobian([4.0, 2.0, 1.0, 0.0, 0.0], rows=3)
    result = pl.condition(Gram(J), num_matvecs=None if method == "dense" else 4)
    assert result.method == method
    assert result.estimate == result.upper == math.inf
    assert result.status is ConditionStatus.SINGULAR and not result.status.ok
    assert result.resolved == pytest.approx(4.0)
    assert result.rank == 3
    assert "rank" in result.status.advice
    with pytest.raises(ArithmeticError, match="singular"):
        result.check()


def test_fewer_rows_than_parameters_is_singular():
    result = pl.condition(Gram(jacobian([1.0, 2.0, 3.0]).H @ Dense(haar(5)[:3])))
    assert result.status is ConditionStatus.SINGULAR
    assert (result.rank, result.size) == (3, 5)


def test_zero_operator_is_named():
    result = pl.condition(Dense(torch.zeros(3, 3, dtype=torch.float64), positive=True))
    assert result.status is ConditionStatus.ZERO and result.rank == 0
    assert not math.isnan(result.estimate)


@pytest.mark.parametrize("num_matvecs", [None, 11])
@pytest.mark.parametrize("factored", [(True, True), (True, False), (False, True), (False, False)])
def test_preconditioned_condition_is_that_of_MA(num_matvecs, factored):
    eigenvalues = np.logspace(0, -8, 12)
    Q = haar(12)
    J = Dense(torch.diag(torch.as_tensor(eigenvalues).sqrt()) @ Q.T)
    root = Dense(Q @ torch.diag(torch.as_tensor((1 + 0.3 * np.cos(np.arange(12))) / eigenvalues).sqrt()))
    A = Gram(J) if factored[0] else Dense(J.dense().T @ J.dense(), positive=True)
    M = Kernel(root) if factored[1] else Dense(root.dense() @ root.dense().T, positive=True)
    truth = np.max(1 + 0.3 * np.cos(np.arange(12))) / np.min(1 + 0.3 * np.cos(np.arange(12)))
    result = pl.condition(A, preconditioner=M, num_matvecs=num_matvecs)
    assert result.lower <= truth * (1 + 1e-6)
    if num_matvecs is None:
        assert result.estimate == pytest.approx(truth, rel=1e-6)


def test_a_non_symmetric_operator_gets_the_ratio_of_its_singular_values():
    J = jacobian([9.0, 4.0, 1.0], rows=4)
    assert pl.condition(J).estimate == pytest.approx(3.0)
    assert pl.condition(J, num_matvecs=2).lower <= 3.0


def test_scipy_operators_are_taken():
    from scipy.sparse.linalg import aslinearoperator

    assert pl.condition(aslinearoperator(np.diag([1.0, 2.0]))).estimate == pytest.approx(2.0)


def test_an_operator_wrongly_declared_positive_is_refused():
    with pytest.raises(NotPositive, match="declared positive"):
        pl.condition(positive([1.0, 0.5, -0.25]))


def test_products_that_are_not_finite_name_the_product():
    with pytest.raises(Breakdown, match="product 3"):
        pl.condition(Dense(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, float("nan")]]).cumsum(1)))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"preconditioner": Diagonal(torch.ones(3, dtype=torch.float64))}, "shape"),
        ({"preconditioner": Diagonal(-torch.ones(2, dtype=torch.float64))}, "positive"),
        ({"num_matvecs": 0}, "num_matvecs"),
    ],
)
def test_bad_arguments_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        pl.condition(Diagonal(torch.tensor([1.0, 2.0], dtype=torch.float64)), **bad)


def test_the_result_is_json():
    document = pl.condition(Gram(jacobian([1.0, 0.0]))).to_dict()
    assert json.loads(json.dumps(document))["upper"] is None
