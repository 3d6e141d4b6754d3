"""The matrices and condition numbers of the theory, from residual maps and dense singular values."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from precondlab import models, problems
from precondlab.operators import Gram, Jacobian

PI = math.pi


def blocks(problem, model, interior, boundary=1, P=1.0):
    """Dense √w-weighted rows of the interior and of all conditions, times a diagonal P from the right."""
    J = Jacobian(problem.residual(model, interior=interior, boundary=boundary))
    split = J.map.codomain.slices["interior"].stop
    rows = J.dense().numpy() * P
    return rows[:split], rows[split:]


def kappa(interior, conditions, weight):
    s = np.linalg.svd(np.vstack([interior, weight**0.5 * conditions]), compute_uv=False)
    return (s[0] / s[-1]) ** 2


def best_kappa(interior, conditions, lower=1e-3, upper=1e7):
    def of(t):
        return kappa(interior, conditions, np.exp(t))

    grid = np.linspace(np.log(lower), np.log(upper), 40)
    values = [of(t) for t in grid]
    i = int(np.argmin(values))
    bounds = grid[max(i - 1, 0)], grid[min(i + 1, len(grid) - 1)]
    found = minimize_scalar(of, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    return min(found.fun, values[i]), np.exp(found.x)


def poisson_preconditioner(K, gamma):
    return np.r_[gamma, np.tile(1 / np.arange(1.0, K + 1) ** 2, 2)]


# Poisson ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("K", "weight"), [(3, 1.0), (8, 40.0)])
def test_poisson_gram_matrix(K, weight):
    r = problems.poisson().residual(models.fourier(K), interior=200, boundary=400, weights={"boundary": weight})
    k = np.r_[0, np.arange(1, K + 1), np.arange(1, K + 1)]
    v = np.r_[1 / math.sqrt(2 * PI), (-1.0) ** np.arange(1, K + 1) / math.sqrt(PI), np.zeros(K)]
    A = Gram(Jacobian(r)).dense().numpy()
    np.testing.assert_allclose(A, np.diag(k**4.0) + 2 * weight * np.outer(v, v), atol=1e-10 * K**4)
    assert r.codomain.shapes["boundary"].numel() == 2


@pytest.mark.parametrize(
    ("K", "expected", "weight"),
    [(2, 70.2588, 7.31), (5, 2057.42, 46.5), (10, 31566, 193.7), (20, 499865, 799)],
)
def test_poisson_best_weight(K, expected, weight):
    value, best = best_kappa(*blocks(problems.poisson(), models.fourier(K), 2 * K + 1))
    assert value == pytest.approx(expected, rel=3e-6)
    assert 2 * best == pytest.approx(weight, rel=5e-3)  # both end points are summed
    assert value >= K**4


@pytest.mark.parametrize(
    ("gamma", "expected"),
    [(1, 15.2787), (2, 4.2206), (5, 1.7975), (10, 1.34177), (20, 1.158463), (100, 1.029862)],
)
def test_poisson_preconditioned(gamma, expected):
    parts = blocks(problems.poisson(), models.fourier(40), 90, P=poisson_preconditioner(40, gamma))
    assert kappa(*parts, PI / gamma**2) == pytest.approx(expected, rel=2e-5)


def test_features_scaled_by_the_preconditioner_are_the_preconditioned_problem():
    P = poisson_preconditioner(10, 5.0)
    scaled = blocks(problems.poisson(), models.fourier(10, scale=P), 30)
    plain = blocks(problems.poisson(), models.fourier(10), 30, P=P)
    for a, b in zip(scaled, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize(
    ("weight", "plain", "preconditioned"),
    [(1e-2, 4.13e7, 1.60), (1, 5.71e5, 64.4), (10, 2.34e5, 643), (1e3, 2.05e5, 6.4e4)],
)
def test_poisson_weight_sweep(weight, plain, preconditioned):
    parts = blocks(problems.poisson(), models.fourier(16), 40)
    P = poisson_preconditioner(16, 20)
    assert kappa(*parts, weight / 2) == pytest.approx(plain, rel=5e-3)
    assert kappa(parts[0] * P, parts[1] * P, weight / 2) == pytest.approx(preconditioned, rel=6e-3)


# Helmholtz, advection -------------------------------------------------------------------------


def test_helmholtz_gram_matrix():
    K, omega = 6, 2.5
    model = models.fourier(K)
    r = problems.helmholtz(omega).residual(model, interior=40, weights={"boundary": 3.0})
    k = model.wavevectors[:, 0].numpy()
    value = np.r_[1 / math.sqrt(2 * PI), np.full(K, 1 / math.sqrt(PI)), np.zeros(K)]
    slope = np.r_[0, np.zeros(K), np.arange(1, K + 1) / math.sqrt(PI)]
    expected = np.diag((omega**2 - k**2) ** 2) + 3 * (np.outer(value, value) + np.outer(slope, slope))
    np.testing.assert_allclose(Gram(Jacobian(r)).dense().numpy(), expected, atol=1e-10)


@pytest.mark.parametrize(("K", "expected"), [(5, 85.6), (10, 1264), (20, 1.69e4), (40, 2.27e5)])
def test_helmholtz_best_weight(K, expected):
    omega = 4
    k = np.arange(1.0, K + 1)
    with np.errstate(divide="ignore"):
        cos = np.where(k == omega, 20, 1 / np.abs(k**2 - omega**2))
        sin = np.where(k == omega, 20 / omega, 1 / np.abs(k**2 - omega**2))
    parts = blocks(problems.helmholtz(omega), models.fourier(K), 2 * K + 3)
    assert best_kappa(*parts)[0] == pytest.approx(expected, rel=5e-3)
    P = np.r_[1 / omega**2, cos, sin]
    value, _ = best_kappa(parts[0] * P, parts[1] * P, 1e-5, 1e2)
    assert 1.075 < value < 1.105


@pytest.mark.parametrize(("beta", "expected"), [(6 * PI, 8254), (60 * PI, 1.289e5), (20.0, None)])
def test_advection_condition_numbers(beta, expected):
    problem = problems.advection(beta)
    model = models.fourier((5, 30), domain=problem.domain)
    assert model.coefficients.numel() == 671
    interior, initial = blocks(problem, model, (12, 64), (12, 1))
    A, B = interior.T @ interior, initial.T @ initial

    def of(weight, P):  # far below 1/eps, so eigenvalues of the Gram matrix are good enough, and fast
        e = np.linalg.eigvalsh((A + weight * B) * P * P[:, None])
        return e[-1] / e[0]

    def best(P, lower, upper):
        return minimize_scalar(
            lambda t: of(np.exp(t), P),
            bounds=np.log([lower, upper]),
            method="bounded",
            options={"xatol": 1e-3},
        ).fun

    symbol = np.abs(model.wavevectors.numpy() @ [beta, 1.0])
    P = np.where(symbol < 1e-4, 1.0, 1 / np.maximum(symbol, 1e-4))
    if expected is not None:
        assert best(np.ones(671), 10, 1e5) == pytest.approx(expected, rel=2e-3)
        assert of(0.925, P) == pytest.approx(1.7578, rel=1e-4)
    else:  # the kernel mode is missed where β is no multiple of 2π
        assert best(P, 1e-2, 1e2) == pytest.approx(5.80, rel=2e-3)


# Higher orders, hard boundary conditions ------------------------------------------------------


@pytest.mark.parametrize(("name", "order"), [("kdv", 3), ("biharmonic", 4)])
def test_condition_grows_like_the_square_of_the_symbol(name, order):
    problem = getattr(problems, name)()
    sizes = np.array([5, 10, 20, 40])
    values = [best_kappa(*blocks(problem, models.fourier(int(K)), 2 * int(K) + 3), 1e-3, 1e12)[0] for K in sizes]
    slopes = np.diff(np.log(values)) / np.diff(np.log(sizes))
    np.testing.assert_allclose(slopes, 2 * order, atol=0.35)
    assert (values >= sizes ** (2.0 * order)).all()


@pytest.mark.parametrize(("name", "order"), [("kdv", 3), ("biharmonic", 4)])
def test_interior_gram_matrix_of_higher_order(name, order):
    model = models.fourier(4)
    J = Jacobian(getattr(problems, name)().residual(model, interior=20))
    k = model.wavevectors[:, 0].numpy()
    np.testing.assert_allclose(Gram(J).block("interior").dense().numpy(), np.diag(k ** (2 * order)), atol=1e-8)


@pytest.mark.parametrize("K", [5, 20])
def test_the_hard_boundary_basis_has_condition_k4_and_1(K):
    interior, conditions = blocks(problems.poisson(), models.fourier(K, boundary="zero"), 2 * K + 1)
    np.testing.assert_allclose(conditions, 0, atol=1e-13)
    assert kappa(interior, conditions, 0.0) == pytest.approx(K**4, rel=1e-9)
    P = np.tile(1 / np.arange(1.0, K + 1) ** 2, 2)
    assert kappa(interior * P, conditions, 0.0) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize(("K", "ratio", "preconditioned"), [(5, 17.1, 40.7), (10, 18.6, 42.1), (20, 20.6, 86.2)])
def test_the_boundary_mask_is_a_worse_hard_condition(K, ratio, preconditioned):
    problem = problems.poisson()
    model = models.masked(models.fourier(K), models.box_mask(problem.domain))
    J = Jacobian(problem.residual(model, interior=4 * K + 20, rule="gauss")).dense().numpy()
    none = np.zeros((1, J.shape[1]))
    assert kappa(J, none, 0.0) == pytest.approx(ratio * K**4, rel=5e-3)
    assert kappa(J * poisson_preconditioner(K, 1.0), none, 0.0) == pytest.approx(preconditioned, rel=5e-3)


def test_a_network_is_numerically_singular():
    for seed in range(3):
        r = problems.poisson().residual(models.mlp((1, 12, 5, 1), seed=seed), interior=1000, weights={"boundary": 10})
        s = torch.linalg.svdvals(Jacobian(r).dense()).square()
        relative = s / s[0]
        assert (relative < 1e-9).double().mean().item() == pytest.approx(0.84, abs=0.03)
        assert (relative > 1e-3).double().mean().item() == pytest.approx(0.045, abs=0.03)


@pytest.mark.parametrize(("gamma", "small", "large", "top"), [(None, 0.24, 0.32, 3.1e3), (0.1, 0.64, 0.18, 2.3)])
def test_preconditioned_features_tame_the_large_end_of_a_network(gamma, small, large, top):
    scale = None if gamma is None else poisson_preconditioner(12, gamma)
    for seed in range(3):
        model = models.fourier_mlp(12, (5,), activation="gelu", scale=scale, seed=seed)
        r = problems.poisson().residual(model, interior=1000)
        s = torch.linalg.svdvals(Jacobian(r).dense()).square()
        relative = s / s[0]
        assert (relative < 1e-9).double().mean().item() == pytest.approx(small, abs=0.05)
        assert (relative > 1e-3).double().mean().item() == pytest.approx(large, abs=0.05)
        assert s[0].item() == pytest.approx(top, rel=0.3)
