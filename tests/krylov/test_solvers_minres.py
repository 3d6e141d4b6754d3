"""Minimal residuals against dense decompositions and SciPy's iterates; which right-hand sides are compatible."""

import numpy as np
import pytest
import scipy.sparse.linalg as sla
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

from precondlab.errors import Breakdown, NotSymmetric
from precondlab.krylov import SolverStatus, minres
from precondlab.operators import Dense, Diagonal

F64 = torch.float64
N = 60
seeds = st.integers(0, 2**31)


def normal(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def haar(n, seed=0, dtype=F64):
    return torch.linalg.qr(normal(n, n, seed=seed, dtype=dtype)).Q


def symmetric(values, seed=0, dtype=F64):
    values = torch.as_tensor(values, dtype=dtype)
    Q = haar(len(values), seed, dtype)
    return Dense(Q @ torch.diag(values) @ Q.mH, symmetric=True)


def signed(n, decades=1.0):
    return np.logspace(-decades, 0, n) * np.where(np.arange(n) % 3 == 1, -1, 1)


@given(seed=seeds, n=st.integers(1, 40), decades=st.floats(0, 3), k=st.integers(1, 4), preconditioned=st.booleans())
def test_indefinite_operators_are_solved(seed, n, decades, k, preconditioned):
    A, b = symmetric(signed(n, decades), seed), normal(n, k, seed=seed + 1)
    M = Diagonal(torch.linspace(1, 3, n, dtype=F64)) if preconditioned else None
    solution = minres(A, b, rtol=1e-8, M=M).check()
    true = (b - A.matrix @ solution.x).norm(dim=0) / b.norm(dim=0)
    assert (true <= 1e-8 * (1 + 1e-6)).all()
    np.testing.assert_allclose(solution.relative_residual, true, atol=1e-15 * (n + 10**decades))


@pytest.mark.parametrize("preconditioned", [False, True])
def test_iterates_are_those_of_scipy(preconditioned):
    A, b = symmetric(signed(N)), normal(N).numpy()
    d = torch.linspace(1, 2, N, dtype=F64)
    M = Diagonal(d) if preconditioned else None
    ours, theirs = [], []
    minres(A, b, M=M, maxiter=20, rtol=1e-14, callback=ours.append)
    sla.minres(
        A.matrix.numpy(),
        b,
        M=np.diag(d.numpy()) if preconditioned else None,
        maxiter=20,
        rtol=1e-14,
        callback=lambda x: theirs.append(x.copy()),
    )
    assert len(ours) == 20
    np.testing.assert_allclose(ours, theirs[:20], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("preconditioned", [False, True])
def test_the_history_holds_true_residual_norms(preconditioned):
    A, b, iterates = symmetric(signed(N)), normal(N), []
    M = Diagonal(torch.linspace(1, 2, N, dtype=F64)) if preconditioned else None
    solution = minres(A, b, rtol=1e-8, M=M, callback=iterates.append).check()
    true = [(b - A.matrix @ x).norm() for x in iterates]
    np.testing.assert_allclose(solution.history[1:], true, rtol=1e-6)
    if not preconditioned:
        assert (np.diff(solution.history) <= 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.complex64, torch.complex128])
def test_every_dtype(dtype):
    A, b = symmetric(signed(N), dtype=dtype), normal(N, dtype=dtype)
    rtol = 1e-4 if dtype in (torch.float32, torch.complex64) else 1e-11
    solution = minres(A, b, rtol=rtol).check()
    assert (b - A.matrix @ solution.x).norm() <= 1.01 * rtol * b.norm()


def test_shift():
    A, b = symmetric(signed(N)), normal(N)
    solution = minres(A, b, shift=2.5, rtol=1e-10).check()
    torch.testing.assert_close(solution.x, torch.linalg.solve(A.matrix - 2.5 * torch.eye(N, dtype=F64), b))


@given(seed=seeds, zeros=st.integers(1, 10), preconditioned=st.booleans())
def test_a_singular_operator_says_whether_the_right_hand_side_is_compatible(seed, zeros, preconditioned):
    A = symmetric(np.r_[np.zeros(zeros), signed(N - zeros)], seed)
    b = normal(N, seed=seed + 1)
    M = Diagonal(torch.linspace(1, 2, N, dtype=F64)) if preconditioned else None
    compatible = minres(A, A.matrix @ b, rtol=1e-8, M=M).check()
    assert compatible.gradient_norm is None
    null = haar(N, seed)[:, :zeros]
    solution = minres(A, b, rtol=1e-8, M=M)
    assert solution.status is SolverStatus.LEAST_SQUARES and not solution.compatible
    r = b - A.matrix @ solution.x
    assert solution.gradient_norm <= 1e-7 * np.sqrt(N)
    if not preconditioned:
        torch.testing.assert_close(r, null @ (null.T @ b), atol=1e-6, rtol=0)
    with pytest.raises(ArithmeticError, match="least-squares solution"):
        solution.check()


def test_one_block_holds_every_outcome():
    A = symmetric(np.r_[np.zeros(3), signed(N - 3)])
    b = torch.stack([normal(N), A.matrix @ normal(N), torch.zeros(N, dtype=F64)], dim=1)
    solution = minres(A, b, rtol=1e-8)
    assert [s.name for s in solution.statuses] == ["LEAST_SQUARES", "OK", "OK"]
    assert solution.status is SolverStatus.LEAST_SQUARES


def test_zero_operator_and_zero_right_hand_side():
    b = torch.ones(5, dtype=F64)
    nothing = minres(symmetric(np.zeros(5)), b)
    assert nothing.status is SolverStatus.LEAST_SQUARES
    assert (nothing.x == 0).all() and nothing.relative_residual == 1
    assert minres(symmetric(np.ones(5)), 0 * b, x0=b).check().num_matvecs == 0


def test_kappa_1e14_never_claims_more_than_it_has():
    A, b = symmetric(np.logspace(-14, 0, N)), normal(N)
    solution = minres(A, b, rtol=1e-8)
    true = (b - A.matrix @ solution.x).norm() / b.norm()
    assert not solution.status.ok
    assert solution.relative_residual == pytest.approx(true.item(), rel=1e-3)


@given(seed=seeds)
def test_a_nonsymmetric_operator_is_refused_or_solved(seed):
    A = Dense(symmetric(np.linspace(0.1, 1, N), seed).matrix + 0.1 * normal(N, N, seed=seed + 1))
    with pytest.raises(NotSymmetric):
        minres(A, normal(N, seed=seed), rtol=1e-8).check()


@pytest.mark.parametrize("number", [1, 8])
def test_the_first_product_that_is_not_finite_stops(number):
    class Failing(Dense):
        def _apply(self, V):
            return self.matrix @ V * (float("nan") if self.num_matvecs >= number else 1)

    A = Failing(symmetric(signed(N)).matrix, symmetric=True)
    with pytest.raises(Breakdown, match=rf"product {number} with Failing"):
        minres(A, normal(N), rtol=1e-8)
    assert A.num_matvecs == number


def test_noise_and_round_off_are_told_apart():
    class Noisy(Dense):
        def _apply(self, V):
            Y = self.matrix @ V
            return Y + 1e-6 * Y.norm() / N**0.5 * torch.randn_like(Y)

    A, b = symmetric(np.linspace(0.1, 1, N)), normal(N)
    assert minres(Noisy(A.matrix, symmetric=True), b, rtol=1e-8).status is SolverStatus.NOISY
    assert minres(A, b, rtol=1e-17).status is SolverStatus.ROUND_OFF


@pytest.mark.parametrize("sign", [0.0, -1.0])
def test_a_preconditioner_that_is_not_positive_has_its_own_status(sign):
    solution = minres(symmetric(signed(N)), normal(N), M=aslinearoperator(sign * np.eye(N)))
    assert solution.status is SolverStatus.M_NOT_POSITIVE
    assert np.isfinite(solution.residual_norm)


def test_ritz_values_bound_the_condition_of_a_positive_operator():
    solution = minres(symmetric(np.linspace(0.1, 1, N)), normal(N), rtol=1e-12).check()
    assert 9.9 <= solution.condition <= 10 * (1 + 1e-10)
