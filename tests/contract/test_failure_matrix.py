"""Operators that are wrong in one way each, and what every tool says about them: a claim is true or not made."""

import math

import numpy as np
import pytest
import torch

import precondlab as pl
from precondlab.errors import Breakdown, NotPositive, NotSymmetric
from precondlab.krylov import SolverStatus, cg, lsqr, minres
from precondlab.operators import Dense
from precondlab.spectrum import ConditionStatus, eigsh
from precondlab.testing import Faulty

N = 60


def haar(seed=0):
    return torch.linalg.qr(torch.randn(N, N, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))).Q


def symmetric(values, *, positive=True):
    Q = haar()
    matrix = Q @ torch.diag(torch.as_tensor(values, dtype=torch.float64)) @ Q.T
    return Dense((matrix + matrix.T) / 2, symmetric=True, positive=positive)


@pytest.fixture
def b():
    return torch.randn(N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def true_residual(A, x, b):
    return float((b - A @ x).norm() / b.norm())


@pytest.mark.parametrize("solver", [cg, minres, lsqr])
def test_a_good_operator_is_solved_and_the_residual_is_the_true_one(solver, b):
    A = symmetric(np.geomspace(1, 100, N))
    solution = solver(A, b, rtol=1e-8)
    assert solution.status.ok
    assert solution.relative_residual == pytest.approx(true_residual(A, solution.x, b), rel=1e-3, abs=1e-15)
    if solver is not lsqr:
        assert true_residual(A, solution.x, b) <= 1e-8
    assert pl.condition(A).check().estimate == pytest.approx(100)


def test_an_indefinite_operator_is_found_with_a_direction(b):
    values = np.linspace(-1, 2, N)
    solution = cg(symmetric(values, positive=False), b, rtol=1e-12)
    assert solution.status is SolverStatus.INDEFINITE
    p = solution.direction
    assert p @ (symmetric(values, positive=False) @ p) < 0
    with pytest.raises(NotPositive):
        pl.condition(symmetric(values))
    with pytest.raises(NotPositive):
        pl.condition(symmetric(values), num_matvecs=20)
    assert minres(symmetric(values, positive=False), b, rtol=1e-8).status.ok


def test_a_singular_operator_has_infinite_kappa_and_its_rank_and_no_solution_is_invented(b):
    A = symmetric(np.append(np.geomspace(1, 10, N - 5), np.zeros(5)))
    result = pl.condition(A)
    assert result.status is ConditionStatus.SINGULAR and result.upper == math.inf
    assert result.rank == N - 5 and result.resolved == pytest.approx(10)
    assert cg(A, b, rtol=1e-8).status is SolverStatus.SINGULAR
    assert minres(A, b, rtol=1e-8).status is SolverStatus.LEAST_SQUARES
    assert not lsqr(A, b, rtol=1e-8).compatible
    compatible = A @ b
    for solver in (cg, minres, lsqr):
        assert solver(A, compatible, rtol=1e-8).compatible


@pytest.mark.parametrize("num_matvecs", [None, 30])
def test_kappa_of_1e14_is_never_called_1e5(num_matvecs):
    J = Dense(haar() @ torch.diag(torch.logspace(0, -7, N, dtype=torch.float64)) @ haar(2).T)
    for A in (pl.Gram(J), symmetric(np.geomspace(1, 1e-14, N))):
        result = pl.condition(A, num_matvecs=num_matvecs)
        assert result.lower <= 1e14 * (1 + 1e-6) and result.upper >= 1e14 * (1 - 1e-6)
        if num_matvecs is not None:
            assert result.upper == math.inf and not result.status.ok


def test_a_nonsymmetric_operator_is_refused(b):
    A = Faulty(symmetric(np.linspace(1, 11, N)), asymmetry=0.3)
    with pytest.raises(NotSymmetric):
        pl.condition(A, num_matvecs=25)
    with pytest.raises(NotSymmetric):
        pl.condition(A)
    with pytest.raises(NotSymmetric):
        eigsh(pl.as_operator(_undeclared(A)), 3)
    with pytest.raises(NotSymmetric):
        cg(_undeclared(A), b, rtol=1e-12, maxiter=N)


def _undeclared(A):
    from scipy.sparse.linalg import LinearOperator

    return LinearOperator(A.shape, matvec=A.matvec, rmatvec=A.rmatvec, dtype=np.float64)


def test_the_zero_operator_gives_a_status_and_no_nan(b):
    zero = Dense(torch.zeros(N, N, dtype=torch.float64), positive=True)
    assert pl.condition(zero).status is ConditionStatus.ZERO
    assert pl.condition(zero, num_matvecs=5).status is ConditionStatus.ZERO
    np.testing.assert_array_equal(eigsh(zero, 2).check().values, [0, 0])
    for solver in (cg, minres, lsqr):
        solution = solver(zero, b)
        assert torch.isfinite(solution.x).all() and not solution.compatible
        assert not solver(symmetric(np.ones(N)), 0 * b).x.any()


@pytest.mark.parametrize("at", [0, 8])
def test_the_first_product_that_is_not_finite_stops_everything(at, b):
    def faulty():
        return Faulty(symmetric(np.geomspace(1, 1e6, N)), fault="nan", at=at)

    for action in (
        lambda A: cg(A, b),
        lambda A: minres(A, b),
        lambda A: pl.condition(A, num_matvecs=30),
        lambda A: eigsh(A, 2, which="SA"),
    ):
        A = faulty()
        with pytest.raises(Breakdown, match="not finite"):
            action(A)
        assert A.num_matvecs <= at + 4


def test_noise_is_seen_and_widens_the_interval(b):
    A = Faulty(symmetric(np.geomspace(1, 100, N)), noise=1e-6)
    assert cg(A, b, rtol=1e-10).status is SolverStatus.NOISY
    for num_matvecs in (None, 40):
        result = pl.condition(A, num_matvecs=num_matvecs)
        assert result.lower <= 100 <= result.upper
        assert result.noise_floor > 1e-7 * result.largest
