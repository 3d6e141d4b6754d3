"""LSQR against dense least squares and SciPy's LSQR: damping, preconditioning, rank deficiency."""

import numpy as np
import pytest
import scipy.sparse.linalg as sla
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

from precondlab.errors import Breakdown
from precondlab.krylov import SolverStatus, lsqr
from precondlab.operators import Dense, Diagonal

F64 = torch.float64
seeds = st.integers(0, 2**31)


def normal(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rectangular(m, n, values, seed=0, dtype=F64):
    values = torch.as_tensor(values, dtype=dtype)
    U, V = (torch.linalg.qr(normal(size, len(values), seed=seed + i, dtype=dtype)).Q for i, size in enumerate((m, n)))
    return Dense(U @ torch.diag(values) @ V.mH)


def minimizer(J, b, damp=0.0):
    n = J.shape[1]
    below = torch.cat([J.matrix, damp * torch.eye(n, dtype=J.matrix.dtype)])
    right = torch.cat([b, torch.zeros(n, *b.shape[1:], dtype=b.dtype)])
    return torch.linalg.pinv(below, rtol=1e-12) @ right


@given(
    seed=seeds,
    m=st.integers(1, 40),
    n=st.integers(1, 40),
    decades=st.floats(0, 3),
    damp=st.sampled_from([0.0, 0.1, 2.0]),
    k=st.integers(1, 3),
    preconditioned=st.booleans(),
)
def test_the_minimizer_is_that_of_dense_algebra(seed, m, n, decades, damp, k, preconditioned):
    J, b = rectangular(m, n, np.logspace(0, -decades, min(m, n)), seed), normal(m, k, seed=seed + 2)
    M = Diagonal(torch.linspace(1, 4, n, dtype=F64)) if preconditioned else None
    solution = lsqr(J, b, damp=damp, rtol=1e-11, M=M).check()
    exact = minimizer(J, b, damp)
    norms = torch.cat([b - J.matrix @ exact, damp * exact]).norm(dim=0)
    error = J.matrix @ (solution.x - exact)
    np.testing.assert_allclose(solution.residual_norm, norms, atol=1e-9 * b.norm())
    assert error.norm() <= 1e-6 * b.norm()
    if damp or (m >= n and not preconditioned):
        torch.testing.assert_close(solution.x, exact, rtol=0, atol=1e-9 * 100**decades * b.norm().item())


@pytest.mark.parametrize("damp", [0.0, 0.5])
def test_iterates_are_those_of_scipy(damp):
    J, b = rectangular(50, 40, np.linspace(0.1, 1, 40)), normal(50).numpy()
    ours = []
    lsqr(J, b, damp=damp, rtol=1e-14, maxiter=12, callback=ours.append)
    for steps in (1, 5, 12):
        theirs = sla.lsqr(J.matrix.numpy(), b, damp=damp, atol=0, btol=0, conlim=0, iter_lim=steps)[0]
        np.testing.assert_allclose(ours[steps - 1], theirs, rtol=1e-9, atol=1e-11)


def test_a_preconditioner_is_the_change_of_variables_by_its_factor():
    J, b = rectangular(50, 20, np.logspace(0, -3, 20)), normal(50)
    d = torch.linspace(1, 4, 20, dtype=F64)
    direct, factored = [], []
    lsqr(J, b, M=Diagonal(d), maxiter=8, rtol=1e-14, callback=direct.append)
    lsqr(Dense(J.matrix * d.sqrt()), b, maxiter=8, rtol=1e-14, callback=lambda y: factored.append(d.sqrt() * y))
    for x, y in zip(direct, factored, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-7, atol=1e-7)


def test_the_ideal_preconditioner_takes_one_step():
    J, b = rectangular(50, 20, np.logspace(0, -5, 20)), normal(50)
    M = torch.linalg.inv(J.matrix.T @ J.matrix + 1e-4 * torch.eye(20, dtype=F64))
    solution = lsqr(J, b, damp=1e-2, M=Dense((M + M.T) / 2, positive=True), rtol=1e-8).check()
    assert solution.steps <= 2
    torch.testing.assert_close(solution.x, minimizer(J, b, 1e-2), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.complex64, torch.complex128])
def test_every_dtype(dtype):
    J, b = rectangular(30, 20, np.linspace(0.1, 1, 20), dtype=dtype), normal(30, dtype=dtype)
    solution = lsqr(J, b, rtol=1e-4).check()
    gradient = J.matrix.mH @ (b - J.matrix @ solution.x)
    assert gradient.norm() <= 2e-4 * b.norm()
    assert solution.gradient_norm == pytest.approx(gradient.norm().item(), rel=0.1)


def test_compatible_and_incompatible_right_hand_sides_are_told_apart():
    J = rectangular(30, 20, np.r_[np.linspace(0.1, 1, 15), np.zeros(5)])
    assert lsqr(J, J.matrix @ normal(20), rtol=1e-8).check().compatible
    solution = lsqr(J, normal(30), rtol=1e-8).check()
    assert not solution.compatible
    torch.testing.assert_close(solution.x, minimizer(J, normal(30)))  # of smallest norm: x0 is zero


def test_x0_moves_only_what_is_not_determined():
    J, b, x0 = rectangular(10, 20, np.linspace(0.1, 1, 10)), normal(10), normal(20)
    far = lsqr(J, b, x0=x0, rtol=1e-12).check().x
    torch.testing.assert_close(far, x0 + minimizer(J, b - J.matrix @ x0))
    damped = [lsqr(J, b, x0=start, damp=0.3, rtol=1e-12).check().x for start in (None, x0)]
    torch.testing.assert_close(*damped)


def test_the_bidiagonal_matrix_bounds_the_condition_from_below():
    J = rectangular(50, 40, np.logspace(0, -12, 40))
    solution = lsqr(J, normal(50), rtol=1e-15, maxiter=39)
    assert 1 < solution.condition <= 1e12 * (1 + 1e-3)
    assert lsqr(rectangular(50, 40, np.linspace(0.1, 1, 40)), normal(50), rtol=1e-12).condition == pytest.approx(10)


def test_zeros():
    J, b = rectangular(5, 3, [0.0, 0.0, 0.0]), torch.ones(5, dtype=F64)
    nothing = lsqr(J, b).check()
    assert (nothing.x == 0).all() and nothing.relative_residual == 1 and not nothing.compatible
    assert lsqr(J, 0 * b, x0=torch.ones(3, dtype=F64)).check().num_matvecs == 0


@pytest.mark.parametrize("number", [1, 2, 7])
def test_the_first_product_that_is_not_finite_stops(number):
    class Failing(Dense):
        def _apply(self, V):
            return self.matrix @ V * (float("nan") if self.num_matvecs >= number else 1)

        def _apply_adjoint(self, U):
            return self.matrix.T @ U * (float("nan") if self.num_matvecs >= number else 1)

    J = Failing(rectangular(50, 40, np.linspace(0.1, 1, 40)).matrix)
    with pytest.raises(Breakdown, match=rf"product {number} with Failing"):
        lsqr(J, normal(50))
    assert J.num_matvecs == number


def test_a_preconditioner_that_is_not_positive_has_its_own_status():
    J = rectangular(30, 20, np.linspace(0.1, 1, 20))
    solution = lsqr(J, normal(30), M=aslinearoperator(-np.eye(20)))
    assert solution.status is SolverStatus.M_NOT_POSITIVE
    assert solution.relative_residual == 1


def test_negative_damping_is_refused():
    with pytest.raises(ValueError, match="damp should be a number ≥ 0, got -1"):
        lsqr(rectangular(3, 2, [1.0, 2.0]), np.ones(3), damp=-1)
