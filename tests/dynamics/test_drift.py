"""Drift, alignment and remainder against dense kernels and the recursion they belong to."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import precondlab as pl
from precondlab.dynamics import departure, observe, predict_training, remainder
from precondlab.errors import Breakdown
from precondlab.operators import Dense

F64 = torch.float64


def fit(seed=0, width=8):
    """A small network through a sine, as a map."""
    model = pl.models.mlp((1, width, 1), seed=seed)
    x = torch.linspace(-2, 2, 15, dtype=F64)[:, None]
    return model, pl.Map.of_module(model, lambda: (model(x) - torch.sin(2 * x))[:, 0] / 15**0.5)


def train(model, r, rate, steps):
    """Points and losses of gradient descent."""
    points, losses = [], []
    for _ in range(steps):
        points.append(r.domain.ravel({name: p.detach().clone() for name, p in model.named_parameters()}))
        residual = r.value
        losses.append(0.5 * residual.square().sum().item())
        gradient = pl.Jacobian(r).H @ residual
        with torch.no_grad():
            for name, part in r.domain.unravel(rate * gradient).items():
                model.get_parameter(name).sub_(part)
    return points, losses


def test_the_remainder_is_what_the_linear_recursion_lacks():
    model, r = fit()
    start = pl.Jacobian(r)
    A, C, rate = pl.Gram(start).dense(), start.H @ start.value, 0.3
    points, losses = train(model, r, rate, 40)
    theta, linear = points[0], points[0]
    for k in range(39):
        epsilon = remainder(pl.Jacobian(r, at=points[k]), start)
        theta = theta - rate * (A @ theta) + rate * (A @ points[0] - C) - rate * epsilon
        linear = linear - rate * (A @ (linear - points[0]) + C)
    torch.testing.assert_close(theta, points[-1], rtol=1e-10, atol=1e-12)
    assert (linear - points[-1]).norm() > 1e-3 * points[-1].norm()
    prediction = predict_training(start, start.value, steps=39, learning_rate=rate)
    left = departure(prediction, losses)
    assert 0 < left.step < 39
    assert losses[left.step] != pytest.approx(prediction.loss[left.step], rel=0.009)


def test_the_remainder_is_second_order_and_vanishes_for_linear_models():
    model, r = fit()
    start = pl.Jacobian(r)
    direction = r.domain.random(generator=torch.Generator().manual_seed(1))
    theta = r.domain.ravel(start.at)
    small, smaller = (remainder(pl.Jacobian(r, at=theta + h * direction), start).norm().item() for h in (1e-3, 1e-4))
    # first order in θ − θ₀, since the residual does not vanish: ε ≈ Σ r_i ∇²r_i (θ − θ₀)
    assert small / smaller == pytest.approx(10, rel=0.1)
    x = torch.linspace(-2, 2, 15, dtype=F64)[:, None]
    hessian = pl.Hessian.of_module(model, lambda: (model(x) - torch.sin(2 * x)).square().sum() / 30).dense()
    expected = (hessian - pl.Gram(start).dense()) @ (1e-4 * direction)
    assert smaller == pytest.approx(expected.norm().item(), rel=1e-2)
    model = pl.models.fourier(4)
    line = pl.problems.poisson(dim=1).residual(model, interior=20)
    J = pl.Jacobian(line)
    away = pl.Jacobian(line, at=line.domain.ravel(J.at) + 1)
    assert remainder(away, J).norm() <= 1e-12 * (away.H @ away.value).norm()
    assert observe(away, away.value, reference=observe(J, J.value)).drift.value == 0


@given(seed=st.integers(0, 2**31))
def test_estimates_hold_within_their_errors(seed):
    generator = np.random.default_rng(seed)
    before, after = (torch.from_numpy(generator.standard_normal((30, 20))) for _ in range(2))
    after = before + 0.3 * after
    r = torch.from_numpy(generator.standard_normal(30))
    random = torch.Generator().manual_seed(seed)
    first = observe(Dense(before), r, num_probes=40, generator=random)
    now = observe(Dense(after), r, reference=first, num_matvecs=30)
    K0, K = before @ before.T, after @ after.T
    values = torch.linalg.eigvalsh(K)
    truths = {
        "trace": values.sum(),
        "effective_rank": values.sum() ** 2 / values.square().sum(),
        "drift": (K - K0).norm() / K0.norm(),
    }
    for name, truth in truths.items():
        found = getattr(now, name)
        assert abs(found.value - truth) <= 6 * found.stderr + 0.02 * truth, name
        assert 0 < found.stderr < 0.3 * truth
    assert now.lambda_max == pytest.approx(values[-1].item(), rel=1e-9)
    assert now.loss == pytest.approx(0.5 * (r @ r).item())
    vectors = torch.linalg.eigh(K).eigenvectors[:, -5:]
    assert now.alignment(5) == pytest.approx(((vectors.T @ r).square().sum() / (r @ r)).item(), rel=1e-8)
    assert now.remainder is None


def test_the_sharpness_is_seen_where_the_residual_does_not_look():
    J = Dense(torch.diag(torch.tensor([10.0, *[1.0] * 9], dtype=F64)))
    r = torch.tensor([0.0, *[1.0] * 9], dtype=F64)
    seen = observe(J, r, num_matvecs=2)
    assert 95 < seen.lambda_max <= 100 * (1 + 1e-12)
    assert seen.alignment(1) == pytest.approx(1.0)


def test_a_network_drifts_and_the_reference_costs_no_products():
    model, r = fit()
    J = pl.Jacobian(r)
    first = observe(J, J.value, num_probes=5, num_matvecs=4)
    assert (first.drift, first.remainder, first.num_matvecs) == (None, None, 9)
    assert J.num_matvecs == 2 * 9
    train(model, r, 0.3, 30)
    now = pl.Jacobian(r)
    second = observe(now, now.value, reference=first, num_matvecs=4)
    assert now.num_matvecs == 2 * 9 + 1
    assert J.num_matvecs == 2 * 9 + 2  # for the remainder
    dense = [K.dense() @ K.dense().T for K in (J, now)]
    truth = ((dense[1] - dense[0]).norm() / dense[0].norm()).item()
    assert abs(second.drift.value - truth) <= 6 * second.drift.stderr
    epsilon, gradient = remainder(now, J), now.H @ now.value
    assert second.remainder == pytest.approx((epsilon.norm() / gradient.norm()).item())
    assert second.loss < first.loss


def test_zero_operators_and_mistakes():
    zero, r = Dense(torch.zeros(3, 2, dtype=F64)), torch.ones(3, dtype=F64)
    seen = observe(zero, r)
    again = observe(zero, r, reference=seen)
    assert (seen.lambda_max, seen.effective_rank.value, again.drift.value) == (0.0, 0.0, 0.0)
    assert observe(zero, 0 * r).loss == 0.0
    assert observe(Dense(torch.ones(3, 2, dtype=F64)), r, reference=seen).drift.value == float("inf")
    with pytest.raises(ValueError, match="points of the residual fixed"):
        observe(Dense(torch.ones(4, 2, dtype=F64)), torch.ones(4, dtype=F64), reference=seen)
    with pytest.raises(ValueError, match="points of the residual fixed"):
        observe(zero, torch.ones(4, dtype=F64))
    with pytest.raises(ValueError, match="num_probes should be ≥ 2"):
        observe(zero, r, num_probes=1)
    with pytest.raises(TypeError, match="two Jacobians"):
        remainder(zero, zero)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e200])
def test_a_residual_that_is_not_finite_is_named(bad):
    J, r = Dense(torch.eye(3, dtype=F64)), torch.tensor([1.0, bad, 0.0], dtype=F64)
    with pytest.raises(ValueError, match="observe: the residual is not finite"):
        observe(J, r)
    with pytest.raises(ValueError, match="predict_training: the residual is not finite"):
        predict_training(J, r, steps=3, learning_rate=0.1)


@pytest.mark.parametrize("residual", [0.0, 1.0])
def test_a_jacobian_that_is_not_finite_is_named(residual):
    with pytest.raises(Breakdown, match="is not finite"):
        observe(Dense(torch.full((3, 3), float("nan"), dtype=F64)), torch.full((3,), residual, dtype=F64))


def test_intervals_hold_about_as_often_as_stated():
    before = torch.diag(1 / torch.arange(1, 31, dtype=F64))
    after = before + 0.1 * torch.outer(before[:, 0], before.diagonal()) + 0.1 * before
    K0, K = before @ before.T, after @ after.T
    truths = {"effective_rank": K.trace() ** 2 / K.square().sum(), "drift": (K - K0).norm() / K0.norm()}
    r, held = torch.zeros(30, dtype=F64), dict.fromkeys(truths, 0)
    for seed in range(300):
        first = observe(Dense(before), r, generator=torch.Generator().manual_seed(seed))
        now = observe(Dense(after), r, reference=first)
        for name, truth in truths.items():
            low, high = getattr(now, name).interval(0.95)
            held[name] += bool(low <= truth <= high)
    assert min(held.values()) > 0.85 * 300, held
