"""Extreme eigenvalues and singular values against dense decompositions of matrices with prescribed spectra."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

from precondlab.errors import Breakdown, NotSymmetric
from precondlab.krylov import ShiftedInverse
from precondlab.operators import Dense, Diagonal
from precondlab.spectrum import ExtremesStatus, eigsh, lobpcg, svds
from precondlab.testing import Faulty
from precondlab.testing.gallery import rank_deficient

WHICH = {
    "LA": lambda e, k: e[len(e) - k :],
    "SA": lambda e, k: e[:k],
    "LM": lambda e, k: np.sort(e[np.argsort(-abs(e), kind="stable")[:k]]),
    "BE": lambda e, k: np.r_[e[: k // 2], e[len(e) - (k - k // 2) :]],
}


def haar(n, seed=0, dtype=torch.float64):
    return torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=dtype)).Q


def symmetric(values, seed=0, dtype=torch.float64):
    Q = haar(len(values), seed, dtype)
    matrix = Q @ torch.diag(torch.as_tensor(values)).to(dtype) @ Q.mH
    return Dense((matrix + matrix.mH) / 2, symmetric=True)


SPECTRA = {
    "power": np.arange(1, 61.0) ** -2,
    "signs": np.linspace(-1, 1, 60) ** 3,
    "multiple": np.r_[np.linspace(0, 0.5, 54), 1, 1, 1, 2, 2, 3],
    "pei": np.r_[np.ones(59), 61.0],
    "low rank": np.r_[np.zeros(50), np.arange(1, 11.0)],
    "zero": np.zeros(60),
    "pairs": np.r_[np.linspace(0, 0.5, 58), 1 - 1e-12, 1],
}
spectra = st.sampled_from(sorted(SPECTRA))


@pytest.mark.parametrize("which", WHICH)
@given(name=spectra, k=st.integers(1, 6), block=st.integers(1, 3), seed=st.integers(0, 2**31))
def test_eigsh_agrees_with_a_dense_decomposition_for_any_seed(which, name, k, block, seed):
    values = SPECTRA[name]
    A = symmetric(values, seed)
    if which in ("SA", "BE") and name == "power":  # the small end of a decaying spectrum: the next test
        return
    generator = torch.Generator().manual_seed(seed)
    found = eigsh(A, k, which=which, v0=A.domain.random(block, generator=generator), generator=generator).check()
    exact = np.linalg.eigvalsh(A.dense().numpy())
    scale = max(abs(exact).max(), 1.0)
    wanted = WHICH[which](exact, k)
    if which == "LM":  # λ and −λ are equally good
        np.testing.assert_allclose(np.sort(abs(found.values)), np.sort(abs(wanted)), atol=2000 * 2.2e-16 * scale)
    else:
        np.testing.assert_allclose(found.values, wanted, atol=2000 * 2.2e-16 * scale)
    orthogonality = found.vectors.T @ found.vectors - torch.eye(k, dtype=torch.float64)
    assert orthogonality.abs().max() <= 10 * 2.2e-16 * 60
    residual = A @ found.vectors - found.vectors * torch.as_tensor(found.values)
    assert residual.norm(dim=0).max() <= 1e-12 * scale


def test_eigsh_in_float32_and_complex():
    for dtype, tolerance in ((torch.float32, 3000 * 1.2e-7), (torch.complex128, 2000 * 2.2e-16)):
        A = symmetric(np.arange(1, 41.0) ** -1, dtype=dtype)
        found = eigsh(A, 3, which="LA").check()
        np.testing.assert_allclose(found.values, [1 / 3, 1 / 2, 1], atol=tolerance)


def test_unresolved_values_say_so():
    found = eigsh(symmetric(np.logspace(0, -8, 60)), 3, which="SA", num_matvecs=40)
    assert (
        found.status is ExtremesStatus.NOT_CONVERGED and found.num_matvecs <= 41
    )  # the last one checks the recurrence
    with pytest.raises(ArithmeticError, match="num_matvecs"):
        found.check()


def test_warm_start_takes_fewer_products():
    values = np.arange(1, 201.0)
    A = symmetric(values)
    cold = eigsh(A, 1, which="LA", tol=1e-6).check()
    nearby = Dense(A.matrix + 1e-6 * symmetric(values, seed=5).matrix, symmetric=True)
    warm = eigsh(nearby, 1, which="LA", tol=1e-6, v0=cold.vectors).check()
    assert warm.num_matvecs < 0.5 * cold.num_matvecs


@given(seed=st.integers(0, 2**31), sigma=st.floats(-0.9, 0.9))
def test_interior_eigenvalues_by_shift(seed, sigma):
    values = np.linspace(-1, 1, 41)
    A = symmetric(values, seed)
    if np.abs(values - sigma).min() < 1e-3:
        return
    found = eigsh(A, 2, sigma=sigma).check()
    nearest = np.sort(values[np.argsort(np.abs(values - sigma))[:2]])
    np.testing.assert_allclose(found.values, nearest, atol=1e-9)
    assert found.residuals.max() < 1e-8


SHIFTS = {
    "five zeros": (np.r_[np.zeros(5), np.linspace(1, 2, 95)], 0.0, 6),
    "an eigenvalue": (np.arange(1, 101.0), 50.0, 3),
    "nearly an eigenvalue": (np.arange(1, 101.0), 50 + 1e-9, 3),
    "near an eigenvalue": (np.arange(1, 101.0), 50 + 1e-4, 1),
    "a decaying end": (np.r_[np.zeros(3), np.logspace(0, -3, 60)], 0.0, 4),
    "both sides": (np.r_[np.linspace(-1, -0.5, 30), 0.0, 0.2, np.linspace(0.5, 1, 30)], 0.0, 2),
}


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_on_or_near_an_eigenvalue_finds_the_nearest_ones(name):
    values, sigma, k = SHIFTS[name]
    A = symmetric(values)
    found = eigsh(A, k, sigma=sigma).check()
    scale = np.abs(values).max()
    np.testing.assert_allclose(np.sort(abs(found.values - sigma)), np.sort(abs(values - sigma))[:k], atol=1e-11 * scale)
    assert_residuals_are_true(A, found)


@pytest.mark.parametrize("sigma", [50.0, 50.3])
def test_shifts_in_single_precision(sigma):
    found = eigsh(Diagonal(torch.arange(1.0, 101.0)), 3, sigma=sigma).check()
    np.testing.assert_allclose(found.values, [49, 50, 51], rtol=1e-5)


def assert_residuals_are_true(A, found):
    true = (A @ found.vectors - found.vectors * torch.as_tensor(found.values)).norm(dim=0).numpy()
    np.testing.assert_allclose(found.residuals, true, rtol=1e-3, atol=1e-13 * abs(A.dense()).max().item())


def test_a_wrong_inverse_is_not_called_right():
    A = symmetric(np.arange(1, 41.0))
    off = torch.linalg.inv(A.dense() - 20.4 * torch.eye(40, dtype=torch.float64))
    assert eigsh(A, 2, sigma=20.4, OPinv=Dense(off, symmetric=True)).check().values == pytest.approx([20, 21])
    wrong = Dense(off + 1e-3 * symmetric(np.arange(40.0) / 40, seed=3).matrix, symmetric=True)
    found = eigsh(A, 2, sigma=20.4, OPinv=wrong)
    assert found.status is ExtremesStatus.INACCURATE
    assert_residuals_are_true(A, found)


def test_an_inverse_at_an_eigenvalue_is_refused():
    A = Diagonal(torch.arange(1.0, 31.0, dtype=torch.float64))
    for sigma in (7.0, 7 + 1e-9):
        with pytest.raises(Breakdown, match="move σ"):
            ShiftedInverse(A, sigma).forward(A.domain.random(1))
    with pytest.raises(Breakdown, match="move σ"):
        eigsh(A, 2, sigma=7.0, which="LA")  # what is above a shift on an eigenvalue is not defined


@pytest.mark.parametrize("solve", [eigsh, svds, lambda A, k: lobpcg(A, A.domain.random(k))])
def test_residuals_of_noisy_products_are_no_smaller_than_the_noise(solve):
    exact = Diagonal(torch.arange(1.0, 101.0, dtype=torch.float64))
    assert not solve(Faulty(exact, drift=1e-6), 3).status.ok
    found = solve(Faulty(exact, noise=1e-6), 3)
    assert not found.status.ok and found.num_matvecs < 1000
    V = found.vectors if hasattr(found, "vectors") else found.right
    true = (exact @ V - V * torch.as_tensor(found.values)).norm(dim=0).numpy()
    assert (found.residuals >= 0.5 * true).all() and found.residuals.max() <= 1e-3


def test_an_asymmetric_operator_declared_symmetric_is_not_called_right():
    exact = symmetric(np.arange(1, 61.0))
    A = Faulty(exact, asymmetry=1e-6)
    found = eigsh(A, 3)
    assert found.status is ExtremesStatus.INACCURATE
    assert_residuals_are_true(A, found)
    assert eigsh(A, 3, tol=1e-4).status.ok


@pytest.mark.parametrize(
    "solve", [eigsh, lambda A, k: lobpcg(A, A.domain.random(k)), lambda A, k: eigsh(A, k, sigma=7)]
)
def test_every_product_is_counted(solve):
    A = symmetric(np.arange(1, 61.0))
    assert solve(A, 3).check().num_matvecs == A.num_matvecs


def test_smallest_singular_values_of_rank_deficient_operators_are_found_densely():
    known = rank_deficient()
    found = svds(known.operator, 3, which="SM").check()
    assert found.num_matvecs <= 2 * 80 + 3
    np.testing.assert_allclose(found.values, 0, atol=1e-14)
    J = known.operator
    wide = svds(J.H, 32, which="SM").check()
    np.testing.assert_allclose(wide.values, known.singular_values[-32:], atol=1e-14)
    assert (J.H @ wide.right - wide.left * torch.as_tensor(wide.values)).norm() <= 1e-13
    assert (J @ wide.left - wide.right * torch.as_tensor(wide.values)).norm() <= 1e-13
    few = svds(known.operator, 3, which="SM", num_matvecs=70)
    assert few.status is ExtremesStatus.NOT_CONVERGED and few.num_matvecs <= 71


def test_a_memory_budget_restarts_earlier_and_says_what_it_needs():
    A = symmetric(np.arange(1, 201.0) ** 2)
    budget = 10 * 200 * 8
    sizes = []
    found = eigsh(A, 2, which="LA", memory_budget=budget, callback=lambda K: sizes.append(K.basis.size)).check()
    assert max(sizes) * 200 * 8 <= budget
    np.testing.assert_allclose(found.values, [199**2, 200**2], rtol=1e-12)
    with pytest.raises(ValueError, match="memory_budget"):
        eigsh(A, 9, memory_budget=budget)


def test_run_interrupted_and_resumed_is_the_same_bit_for_bit():
    from precondlab.krylov import KrylovSchur

    A = symmetric(np.arange(1, 51.0))

    def run(K, steps):
        for _ in range(steps):
            if K.basis.room < 1:
                K.restart(K.ritz()[1][:, -4:])
            K.step()
        return K

    start = A.domain.random(1)
    straight = run(KrylovSchur(A, start, capacity=10), 30)
    first = run(KrylovSchur(A, start, capacity=10), 17)
    second = KrylovSchur(A, start, capacity=10)
    second.load_state_dict(first.state_dict())
    run(second, 13)
    assert np.array_equal(straight.T, second.T) and straight.num_matvecs == second.num_matvecs


@given(m=st.integers(5, 40), n=st.integers(5, 40), seed=st.integers(0, 2**31), k=st.integers(1, 4))
def test_svds_agrees_with_a_dense_decomposition(m, n, seed, k):
    rank = min(m, n)
    sigma = torch.logspace(0, -6, rank, dtype=torch.float64)
    J = Dense(haar(m, seed)[:, :rank] @ torch.diag(sigma) @ haar(n, seed + 1)[:, :rank].T)
    for which, exact in (("LM", sigma[:k]), ("SM", sigma[-k:])):
        found = svds(J, k, which=which, ncv=rank, generator=torch.Generator().manual_seed(seed))
        assert found.check().values == pytest.approx(exact.numpy(), abs=1e-13)
        assert (J @ found.right - found.left * torch.as_tensor(found.values)).norm() <= 1e-12
        assert (J.H @ found.left - found.right * torch.as_tensor(found.values)).norm() <= 1e-12


@given(m=st.integers(4, 20), n=st.integers(4, 20), data=st.data(), seed=st.integers(0, 2**31))
def test_every_copy_of_a_multiple_singular_value_is_found_and_left_vectors_are_orthonormal(m, n, data, seed):
    """Zero included: where J has lost rank, its left null vectors come with it."""
    size = min(m, n)
    sigma = torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=size, max_size=size)))
    sigma = sigma.double().sort(descending=True).values
    J = Dense(haar(m, seed)[:, :size] @ torch.diag(sigma) @ haar(n, seed + 1)[:, :size].T)
    k = data.draw(st.integers(1, size))
    for which, exact in (("LM", sigma[:k]), ("SM", sigma[-k:])):
        found = svds(J, k, which=which, generator=torch.Generator().manual_seed(seed)).check()
        assert found.values == pytest.approx(exact.numpy(), abs=1e-13)
        for basis in (found.left, found.right):
            torch.testing.assert_close(basis.T @ basis, torch.eye(k, dtype=torch.float64), rtol=0, atol=1e-12)
        assert (J.H @ found.left - found.right * torch.as_tensor(found.values)).norm() <= 1e-12


def test_small_singular_values_are_not_those_of_the_square():
    sigma = torch.tensor([1.0, 0.5, 1e-9], dtype=torch.float64)
    J = Dense(haar(6)[:, :3] @ torch.diag(sigma) @ haar(3, 1).T)
    assert svds(J, 1, which="SM").check().values[0] == pytest.approx(1e-9, rel=1e-6)


def test_scipy_operators_are_probed_for_symmetry():
    matrix = np.diag(np.arange(1.0, 31.0))
    assert eigsh(aslinearoperator(matrix), 1).check().values[0] == pytest.approx(30)
    matrix[0, 1] = 5.0
    with pytest.raises(NotSymmetric, match="svds"):
        eigsh(aslinearoperator(matrix), 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda A: eigsh(A, 0), "k should be"),
        (lambda A: eigsh(A, 11), "k should be"),
        (lambda A: eigsh(A, 2, which="XX"), "which"),
        (lambda A: eigsh(A, 3, ncv=3), "ncv"),
        (lambda A: eigsh(A, 2, v0=torch.ones(3, dtype=torch.float64)), "v0"),
        (lambda A: eigsh(A, 2, num_matvecs=0), "num_matvecs"),
        (lambda A: svds(A, 2, which="LA"), "which"),
        (lambda A: eigsh(Dense(torch.ones(3, 2)), 1), "svds"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(Diagonal(torch.arange(1.0, 11.0, dtype=torch.float64)))


@pytest.mark.parametrize("options", [{"k": 3.0}, {"ncv": 20.0}, {"num_matvecs": 1e3}, {"memory_budget": 1e9}])
@pytest.mark.parametrize("solve", [eigsh, svds])
def test_numbers_that_are_no_integers_are_refused(solve, options):
    A = Diagonal(torch.arange(1.0, 31.0, dtype=torch.float64))
    with pytest.raises(TypeError, match=f"{next(iter(options))} should be an integer"):
        solve(A, **options)
    assert solve(A, np.int64(2)).check().values.max() == pytest.approx(30)


def test_a_product_that_is_not_finite_is_named():
    with pytest.raises(Breakdown, match="product 1"):
        eigsh(Diagonal(torch.tensor([1.0, float("nan"), 2.0])), 1)
