"""Conjugate gradients against dense solves, SciPy's iterates and the operators that break other solvers."""

import numpy as np
import pytest
import scipy.sparse.linalg as sla
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from precondlab.errors import Breakdown, NotSymmetric
from precondlab.krylov import SolverStatus, cg
from precondlab.operators import Dense, Diagonal

F64 = torch.float64
N = 60
seeds = st.integers(0, 2**31)


def haar(n, seed=0, dtype=F64):
    return torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=dtype)).Q


def symmetric(values, seed=0, kind=Dense, dtype=F64, **declared):
    values = torch.as_tensor(values, dtype=dtype)
    Q = haar(len(values), seed, dtype)
    return kind(Q @ torch.diag(values) @ Q.mH, symmetric=True, **declared)


def normal(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def residual(A, solution, b):
    """Relative residual by a dense product, in double precision."""
    wide = torch.complex128 if A.matrix.is_complex() else F64
    matrix, x, b = (torch.as_tensor(v).to(wide) for v in (A.matrix, solution.x, b))
    return ((b - matrix @ x).norm(dim=0) / b.norm(dim=0)).numpy()


@given(seed=seeds, n=st.integers(1, 40), decades=st.floats(0, 6), k=st.integers(1, 4))
def test_the_true_residual_meets_the_tolerance_and_is_the_one_reported(seed, n, decades, k):
    A = symmetric(np.logspace(-decades, 0, n), seed)
    b = normal(n, k, seed=seed + 1)
    solution = cg(A, b, rtol=1e-8).check()
    true = residual(A, solution, b)
    assert (true <= 1e-8 + 1e-15 * (n + 10**decades)).all()
    np.testing.assert_allclose(solution.relative_residual, true, atol=1e-15 * (n + 10**decades))
    exact = torch.linalg.solve(A.matrix, b)
    assert ((solution.x - exact).norm(dim=0) <= 10**decades * 1e-8 * exact.norm(dim=0)).all()


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.complex64, torch.complex128])
def test_every_dtype(dtype):
    A = symmetric(np.linspace(0.1, 1, N), dtype=dtype)
    b = normal(N, dtype=dtype)
    rtol = 1e-4 if dtype in (torch.float32, torch.complex64) else 1e-12
    solution = cg(A, b, rtol=rtol).check()
    assert solution.x.dtype == dtype
    assert residual(A, solution, b) <= 1.01 * rtol


@pytest.mark.parametrize("preconditioned", [False, True])
def test_iterates_are_those_of_scipy(preconditioned):
    A = symmetric(np.linspace(0.01, 1, N))
    b = normal(N).numpy()
    d = torch.linspace(1, 2, N, dtype=F64)
    M = Diagonal(d) if preconditioned else None
    ours, theirs = [], []
    cg(A, b, M=M, maxiter=20, rtol=1e-14, callback=ours.append)
    theirs_M = np.diag(d.numpy()) if preconditioned else None
    sla.cg(A.matrix.numpy(), b, M=theirs_M, maxiter=20, rtol=1e-14, callback=lambda x: theirs.append(x.copy()))
    assert len(ours) == 20
    np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-12)


@given(seed=seeds, distinct=st.integers(1, 5))
def test_as_many_steps_as_distinct_eigenvalues(seed, distinct):
    A = symmetric(np.resize(np.arange(1.0, distinct + 1), N), seed)
    solution = cg(A, normal(N, seed=seed), rtol=1e-10).check()
    assert solution.steps == distinct
    np.testing.assert_allclose(solution.ritz_values, np.arange(1, distinct + 1), rtol=1e-8)
    assert solution.num_matvecs == distinct + 1


def test_columns_stop_when_they_have_converged():
    A = symmetric(np.linspace(0.01, 1, N))
    values, vectors = torch.linalg.eigh(A.matrix)
    b = torch.stack([vectors[:, 3], torch.zeros(N, dtype=F64), normal(N)], dim=1)
    solution = cg(A, b, rtol=1e-10).check()
    alone = cg(A, b[:, 2], rtol=1e-10)
    assert solution.num_matvecs == 2 + alone.num_matvecs  # one step and its verification, nothing, all steps
    assert solution.history.shape == (alone.steps + 1, 3)
    torch.testing.assert_close(solution.x[:, 0], vectors[:, 3] / values[3])
    torch.testing.assert_close(solution.x[:, 2], alone.x, rtol=1e-8, atol=1e-10)
    assert (solution.x[:, 1] == 0).all()


def test_zero_right_hand_side_takes_no_product():
    A = symmetric(np.ones(3))
    solution = cg(A, np.zeros(3), x0=np.ones(3)).check()
    assert (solution.x == 0).all()
    assert (solution.num_matvecs, solution.residual_norm, solution.relative_residual) == (0, 0, 0)


def test_x0_is_used_and_left_alone():
    A = symmetric(np.linspace(0.1, 1, N))
    x0, b = normal(N, seed=1), normal(N)
    before = x0.clone()
    far, near = cg(A, b, x0=x0, rtol=1e-8).check(), cg(A, b, x0=torch.linalg.solve(A.matrix, b), rtol=1e-8).check()
    assert torch.equal(x0, before)
    assert residual(A, far, b) <= 1e-8
    assert (near.steps, near.num_matvecs) == (0, 1)


@given(seed=seeds, exponent=st.integers(-140, 140), scale=st.integers(-140, 140))
def test_powers_of_two_change_nothing(seed, exponent, scale):
    A, b = symmetric(np.linspace(0.1, 1, 20), seed), normal(20, seed=seed)
    plain = cg(A, b)
    scaled = cg(Dense(A.matrix * 2.0**exponent, symmetric=True), b * 2.0**scale)
    assert torch.equal(scaled.x, plain.x * 2.0 ** (scale - exponent))


@given(seed=seeds, n=st.integers(2, 40), decades=st.floats(0, 7), steps=st.integers(1, 60), slack=st.floats(0.01, 1))
def test_the_error_bound_is_above_the_error_and_ritz_values_inside_the_spectrum(seed, n, decades, steps, slack):
    values = np.logspace(-decades, 0, n)
    A, b = symmetric(values, seed), normal(n, seed=seed + 1)
    Q = haar(n, seed)
    exact = Q @ ((Q.T @ b) / torch.as_tensor(values))
    solution = cg(A, b, rtol=1e-10, maxiter=steps, floor=slack * values[0])
    e = solution.x - exact
    roundoff = 1e-13 * exact.norm() / values[0] ** 0.5
    assert (e @ A.matrix @ e) ** 0.5 <= solution.error_bound + roundoff
    assert solution.error_bound <= solution.residual_norm / (slack * values[0]) ** 0.5 * (1 + 1e-7)
    assert values[0] * (1 - 1e-6) - 1e-14 <= solution.ritz_values[0]
    assert solution.ritz_values[-1] <= 1 + 1e-11
    assert not solution.condition > 10**decades * (1 + 1e-6)


def test_the_error_bound_is_sharp_for_a_sharp_floor():
    values = np.linspace(0.1, 1, N)
    A, b = symmetric(values), normal(N)
    exact = torch.linalg.solve(A.matrix, b)
    solution = cg(A, b, rtol=1e-6, floor=0.0999)
    e = solution.x - exact
    assert solution.error_bound <= 1.5 * (e @ A.matrix @ e) ** 0.5


def test_a_floor_inside_the_spectrum_is_refuted():
    with pytest.raises(ValueError, match=r"floor=0.5 is no lower bound on the eigenvalues, 0.1 lies below"):
        cg(symmetric(np.linspace(0.1, 1, 10)), normal(10), rtol=1e-12, floor=0.5)


# What breaks other solvers -------------------------------------------------------------------


@given(seed=seeds)
def test_an_indefinite_operator_stops_with_the_direction(seed):
    A = symmetric(np.r_[-np.linspace(0.01, 1, 10), np.linspace(0.01, 1, N - 10)], seed)
    solution = cg(A, normal(N, seed=seed), rtol=1e-8)
    if solution.status.ok:  # possible, and then right
        assert residual(A, solution, normal(N, seed=seed)) <= 1e-8
        return
    assert solution.status is SolverStatus.INDEFINITE
    p = solution.direction
    assert p @ A.matrix @ p < 0
    assert p.norm() == pytest.approx(1)
    with pytest.raises(ArithmeticError, match="use minres"):
        solution.check()


@given(seed=seeds)
def test_a_singular_operator_says_whether_the_right_hand_side_is_compatible(seed):
    A = symmetric(np.r_[np.zeros(5), np.linspace(0.1, 1, N - 5)], seed)
    b = normal(N, seed=seed)
    compatible = cg(A, A @ b, rtol=1e-8).check()
    assert residual(A, compatible, A @ b) <= 1e-8
    solution = cg(A, b, rtol=1e-8)
    assert solution.status is SolverStatus.SINGULAR
    outside = (haar(N, seed)[:, :5].T @ b).norm() / b.norm()
    assert outside * (1 - 1e-12) <= solution.relative_residual <= 1
    assert solution.relative_residual == pytest.approx(residual(A, solution, b), rel=1e-10)


def test_a_zero_operator_ends_in_a_status():
    solution = cg(symmetric(np.zeros(5)), torch.ones(5, dtype=F64))
    assert solution.status is SolverStatus.SINGULAR
    assert solution.relative_residual == 1 and (solution.x == 0).all()


def test_kappa_1e14_never_claims_more_than_it_has():
    A, b = symmetric(np.logspace(-14, 0, N)), normal(N)
    solution = cg(A, b, rtol=1e-8)
    assert not solution.status.ok
    assert solution.relative_residual == pytest.approx(residual(A, solution, b), rel=1e-3)


@given(seed=seeds)
def test_a_nonsymmetric_operator_is_refused_or_solved(seed):
    A = Dense(symmetric(np.linspace(0.1, 1, N), seed).matrix + 0.1 * normal(N, N, seed=seed + 1))
    with pytest.raises(NotSymmetric, match=r"differ by .* of ‖A‖"):
        cg(A, normal(N, seed=seed), rtol=1e-8).check()


class Counting(Dense):
    """Does ``fault(product, j)`` to the product number j."""

    def __init__(self, matrix, fault, **declared):
        super().__init__(matrix, **declared)
        self.fault = fault

    def _apply(self, V):
        return self.fault(self.matrix @ V, self.num_matvecs)


@pytest.mark.parametrize("number", [1, 2, 8])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_first_product_that_is_not_finite_stops(number, bad):
    def fault(Y, j):
        Y[3] = bad if j >= number else Y[3]
        return Y

    A = Counting(symmetric(np.linspace(0.01, 1, N)).matrix, fault, positive=True)
    with pytest.raises(Breakdown, match=rf"product {number} with Counting\[60×60\] is not finite"):
        cg(A, normal(N), rtol=1e-8)
    assert A.num_matvecs == number


def test_noise_is_measured_and_bounds_what_can_be_reached():
    def fault(Y, _):
        return Y + 1e-6 * Y.norm() / N**0.5 * torch.randn_like(Y)

    A = Counting(symmetric(np.linspace(0.1, 1, N)).matrix, fault, symmetric=True)
    solution = cg(A, normal(N), rtol=1e-8)
    assert solution.status is SolverStatus.NOISY
    assert 2e-7 < solution.noise < 5e-6
    assert 1e-8 < solution.relative_residual < 1e-4
    cg(A, normal(N), rtol=1e-3).check()


@pytest.mark.parametrize("decades", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_beyond_round_off_the_status_says_so(decades, dtype):
    A, b = symmetric(np.logspace(-decades, 0, N), dtype=dtype), normal(N, dtype=dtype)
    solution = cg(A, b, rtol=0)
    assert solution.status in (SolverStatus.ROUND_OFF, SolverStatus.OK)
    assert solution.residual_norm <= 100 * torch.finfo(dtype).eps * (solution.x.norm() + b.norm())


def test_a_product_that_is_not_linear_is_told_from_round_off():
    A = Counting(symmetric(np.linspace(0.1, 1, N)).matrix, lambda Y, _: Y.bfloat16().double(), symmetric=True)
    assert cg(A, normal(N), rtol=1e-8).status is SolverStatus.STAGNATED


@pytest.mark.parametrize("sign", [0.0, -1.0])
def test_a_preconditioner_that_is_not_positive_has_its_own_status(sign):
    d = torch.ones(N, dtype=F64)
    d[: N // 2] = sign * 10
    solution = cg(symmetric(np.linspace(0.1, 1, N)), d * 0 + 1 - d.clamp(max=0), M=Diagonal(sign * d.abs()))
    assert solution.status is SolverStatus.M_NOT_POSITIVE
    assert solution.relative_residual == 1


def test_a_preconditioner_that_is_not_finite_is_named():
    with pytest.raises(Breakdown, match=r"product 1 with Diagonal\[2×2\] is not finite"):
        cg(Dense(torch.eye(2), positive=True), torch.ones(2), M=Diagonal(torch.tensor([1.0, float("nan")])))


# Kinds of input --------------------------------------------------------------------------------


def test_arrays_give_arrays_and_scipys_operators_are_taken():
    A = symmetric(np.linspace(0.1, 1, N))
    b = normal(N)
    matrix = A.matrix.numpy()
    foreign = LinearOperator((N, N), matvec=lambda v: matrix @ v, dtype=np.float64)
    M = aslinearoperator(np.linalg.inv(matrix))
    plain, both = cg(A, b.numpy(), rtol=1e-8), cg(foreign, b.numpy(), M=M, rtol=1e-8)
    assert isinstance(plain.x, np.ndarray) and isinstance(both.x, np.ndarray)
    np.testing.assert_allclose(both.x, plain.x, rtol=1e-6)
    assert both.num_matvecs == 2
    column = cg(A, b.numpy()[:, None])
    assert column.x.shape == (N, 1) and column.residual_norm.shape == (1,)


def test_a_preconditioner_saves_products():
    A = symmetric(np.logspace(-6, 0, N))
    d, b = torch.linalg.inv(A.matrix), normal(N)
    assert cg(A, b, M=Dense((d + d.T) / 2, positive=True), rtol=1e-6).num_matvecs <= 4


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"b": torch.ones(4)}, TypeError, "b should be torch.float64"),
        ({"b": np.ones(5)}, ValueError, r"b should have shape \(4,\) or \(4, k\), got \(5,\)"),
        ({"b": np.ones(4) * 1j}, TypeError, "b should hold numbers like torch.float64, got complex128"),
        ({"b": np.array([1, 2, np.nan, 1])}, ValueError, "b is not finite"),
        ({"x0": np.ones((4, 2))}, ValueError, "x0 has 2 columns, b has 1"),
        ({"rtol": -1}, ValueError, "rtol should be a number ≥ 0, got -1"),
        ({"atol": None}, ValueError, "atol should be a number ≥ 0, got None"),
        ({"maxiter": -1}, ValueError, "maxiter should be ≥ 0"),
        ({"floor": 0.0}, ValueError, "floor should be a positive lower bound"),
        ({"M": Diagonal(torch.ones(3, dtype=F64))}, ValueError, "M should act on"),
        ({"A": Dense(torch.ones(4, 3, dtype=F64))}, ValueError, "expected a square operator"),
        ({"A": np.eye(4)}, TypeError, "wrap a matrix"),
    ],
)
def test_mistakes_are_told(change, error, message):
    arguments = {"A": symmetric(np.ones(4)), "b": np.ones(4)} | change
    with pytest.raises(error, match=message):
        cg(arguments.pop("A"), arguments.pop("b"), **arguments)
