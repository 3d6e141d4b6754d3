"""Modes of the kernel against dense eigenvectors, and linear models, where none moves."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import precondlab as pl
from precondlab.dynamics import ConjugateGradients, GradientDescent, ModesStatus, Momentum, modes
from precondlab.errors import Breakdown
from precondlab.operators import Dense, Diagonal

F64 = torch.float64


def kernel(values, seed, rows=14):
    """A wide Jacobian with prescribed eigenvalues of JJᵀ, and a residual."""
    generator = np.random.default_rng(seed)
    left = np.linalg.qr(generator.standard_normal((rows, rows)))[0]
    right = np.linalg.qr(generator.standard_normal((rows + 5, rows)))[0]
    J = torch.from_numpy(left * np.asarray(values) ** 0.5 @ right.T)
    return J, torch.from_numpy(generator.standard_normal(rows)), left


def momentum(K, r, method, steps):
    """Heavy ball and Nesterov on the residual of a linear model, as torch.optim.SGD has them."""
    b = torch.zeros_like(r)
    for _ in range(steps):
        b = method.momentum * b + r
        r = r - method.learning_rate * K @ (r + method.momentum * b if method.nesterov else b)
    return r


def network(width=12):
    model = pl.models.mlp((1, width, 1), seed=0)
    x = torch.linspace(-2, 2, 15, dtype=F64)[:, None]
    return model, pl.Map.of_module(model, lambda: (model(x) - torch.sin(2 * x))[:, 0] / 15**0.5)


def descend(model, r, rate, steps):
    for _ in range(steps):
        gradient = pl.Jacobian(r).H @ r.value
        with torch.no_grad():
            for name, part in r.domain.unravel(rate * gradient).items():
                model.get_parameter(name).sub_(part)


@given(seed=st.integers(0, 2**31))
def test_no_mode_of_a_linear_model_moves(seed):
    values = 0.5 ** np.arange(14)
    J, r0, left = kernel(values, seed)
    K, now = J @ J.T, r0
    for _ in range(60):
        now = now - 0.9 * K @ now
    found = modes(Dense(J), now, Dense(J), r0, k=6, steps=60, learning_rate=0.9)
    assert found.status is ModesStatus.OK and not len(found.beyond) and not len(found.short)
    np.testing.assert_allclose(found.values, values[:6], rtol=1e-12)
    np.testing.assert_allclose(found.start, np.abs(left[:, :6].T @ r0.numpy()), atol=1e-12)
    np.testing.assert_allclose(found.now, found.predicted, atol=1e-11)
    np.testing.assert_allclose(found.growth, 1, rtol=1e-12)
    np.testing.assert_allclose(found.cosines, 1, atol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 25])
def test_momentum_has_its_own_polynomial(nesterov, steps):
    J, r0, _ = kernel(0.7 ** np.arange(14), 1)
    method = Momentum(0.3, 0.8, nesterov=nesterov)
    now = momentum(J @ J.T, r0, method, steps)
    found = modes(Dense(J), now, Dense(J), r0, k=8, steps=steps, method=method)
    np.testing.assert_allclose(found.now, found.predicted, atol=1e-12)
    assert found.status.ok


def test_a_network_against_the_dense_kernels():
    model, r = network()
    start, r0 = pl.Jacobian(r), r.value
    before = start.dense()
    rate = 0.8 / torch.linalg.matrix_norm(before, 2).item() ** 2
    descend(model, r, rate, 100)
    now = pl.Jacobian(r)
    after, k = now.dense(), 5
    found = modes(now, now.value, start, r0, k=k, steps=100, learning_rate=rate)
    K0, K = (J @ J.T for J in (before, after))
    values, vectors = torch.linalg.eigh(K0)
    values, U = values.flip(0)[:k], vectors.flip(1)[:, :k]
    linear = torch.linalg.matrix_power(torch.eye(15, dtype=F64) - rate * K0, 100) @ r0
    U = U * torch.sign(U.T @ r0)
    close = {"rtol": 1e-7, "atol": 1e-10}
    np.testing.assert_allclose(found.values, values, **close)
    np.testing.assert_allclose(found.start, U.T @ r0, **close)
    np.testing.assert_allclose(found.now, U.T @ now.value, **close)
    np.testing.assert_allclose(found.predicted, U.T @ linear, **close)
    np.testing.assert_allclose(found.growth, (U.T @ K @ U).diagonal() / values, **close)
    Q = torch.linalg.qr(K @ U)[0]
    np.testing.assert_allclose(found.cosines, torch.linalg.svdvals(Q.T @ U), rtol=1e-7)
    shares = [((U.T @ x).square().sum() / x.square().sum()).item() for x in (r0, now.value)]
    assert found.captured == pytest.approx(shares)
    moved = (U.T @ (now.value - linear)).abs() > 0.01 * now.value.norm()
    smaller = (U.T @ now.value).abs() < (U.T @ linear).abs()
    assert found.status is ModesStatus.MOVED
    assert found.beyond.tolist() == torch.nonzero(moved & smaller)[:, 0].tolist()
    assert found.short.tolist() == torch.nonzero(moved & ~smaller)[:, 0].tolist()
    assert len(found.beyond) and len(found.short)
    given = modes(now, now.value, start, r0, k=k, predicted=linear)
    np.testing.assert_allclose(given.predicted, found.predicted, **close)


def test_what_it_says_in_words():
    first, r = torch.tensor([1.0, 0.5, 0.25, 0.125], dtype=F64), torch.ones(4, dtype=F64)
    K = torch.tensor([0.25, 1.0, 3.0, 1.0], dtype=F64) ** 0.5
    now = torch.tensor([0.5, 0.75, 0.1, 0.984375], dtype=F64)  # predicted 0, 0.75, 0.9375, 0.984375
    found = modes(Diagonal(K * first), now, Diagonal(first), r, steps=1, learning_rate=1.0)
    assert str(found).splitlines() == [
        "4 modes: 100 % of ‖r‖² at the start, 100 % now",
        "beyond the prediction: 2; the kernel there grew (×3)",
        "short of the prediction: 0; the kernel there shrank (×0.25)",
        "as predicted: 1, 3; the kernel there is as it was (×1 … ×1)",
        "cosines between the modes and their image: 1.000 … 1.000",
    ]
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (plain["beyond"], plain["short"], plain["status"]) == ([2], [0], "MOVED")
    still = modes(Diagonal(first), now, Diagonal(first), r)
    assert still.status is ModesStatus.UNPREDICTED and still.predicted is None
    assert "no prediction" in str(still) and not len(still.beyond) + len(still.short)
    assert json.loads(json.dumps(still.to_dict()))["predicted"] is None


def test_a_turned_kernel_shows_in_the_cosines():
    angle = 0.3
    turn = torch.eye(4, dtype=F64)
    turn[0, 0] = turn[3, 3] = np.cos(angle)
    turn[3, 0], turn[0, 3] = np.sin(angle), -np.sin(angle)
    J = Dense(torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=F64)))  # u = e₀, e₁; K has e₁ and the turned e₀
    r = torch.ones(4, dtype=F64)
    found = modes(Dense(turn @ J.dense()), r, J, r, k=2)
    np.testing.assert_allclose(found.cosines, [1, np.cos(angle)], rtol=1e-12)
    gone = modes(Dense(torch.zeros(4, 4, dtype=F64)), r, J, r, k=2)
    assert gone.cosines.tolist() == gone.growth.tolist() == [0, 0]


def test_later_calls_cost_k_products_and_round_off_is_left_out():
    J, r, _ = kernel([*(0.5 ** np.arange(5)), *[0.0] * 9], 3)
    start, now = Dense(J), Dense(2 * J)
    first = modes(start, r, start, r, k=8)
    assert len(first.values) == len(first.cosines) == 5
    before = start.num_matvecs
    again = modes(now, r, start, r, pairs=first.pairs)
    assert (start.num_matvecs, now.num_matvecs, again.num_matvecs) == (before, 2 * 5, 5)
    np.testing.assert_allclose(again.growth, 4, rtol=1e-12)
    single = modes(Dense(2 * J.float()), r, Dense(J.float()), r, k=8)
    np.testing.assert_allclose(single.values, first.values, rtol=1e-5)


def test_mistakes_are_named():
    J, r = Diagonal(torch.tensor([1.0, 0.5], dtype=F64)), torch.ones(2, dtype=F64)
    bad, three = torch.tensor([1.0, float("nan")], dtype=F64), torch.ones(3, dtype=F64)
    for now, first in ((bad, r), (r, bad), (r, three)):
        with pytest.raises(ValueError, match=r"modes: (the residual is not finite|expected a residual)"):
            modes(J, now, J, first)
    with pytest.raises(ValueError, match="differ in rows"):
        modes(Diagonal(three), three, J, r)
    wrong = [
        {"steps": 3},
        {"learning_rate": 1.0},
        {"steps": -1, "learning_rate": 1.0},
        {"steps": 3, "learning_rate": 1.0, "method": GradientDescent(1.0)},
        {"steps": 3, "learning_rate": 1.0, "predicted": r},
        {"steps": 3, "predicted": r},
    ]
    for options in wrong:
        with pytest.raises(ValueError, match="or a predicted residual"):
            modes(J, r, J, r, **options)
    with pytest.raises(ValueError, match="no polynomial"):
        modes(J, r, J, r, steps=3, method=ConjugateGradients())
    with pytest.raises(ValueError, match="k ≥ 1"):
        modes(J, r, J, r, k=0)
    with pytest.raises(ValueError, match="expected pairs"):
        modes(Diagonal(three), three, Diagonal(three), three, pairs=modes(J, r, J, r).pairs)
    with pytest.raises(Breakdown, match="kernel at the start is zero"):
        modes(J, r, Diagonal(0 * r), r, k=1)
    with pytest.raises(Breakdown, match="not finite"):
        modes(Diagonal(bad), r, J, r)
