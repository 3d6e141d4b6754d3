"""Predicted loss curves against gradient descent on matrices."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import precondlab as pl
from precondlab.operators import Dense


def iterate(J, r, rate, steps):
    """Losses of r ← r − ηJJᵀr, by numpy."""
    losses = [0.5 * r @ r]
    for _ in range(steps):
        r = r - rate * J @ (J.T @ r)
        losses.append(0.5 * r @ r)
    return np.array(losses)


@given(
    seed=st.integers(0, 2**31),
    m=st.integers(2, 25),
    n=st.integers(1, 25),
    budget=st.integers(1, 12),
    rate=st.floats(0.1, 1.9),
)
def test_exact_first_and_bounded_after(seed, m, n, budget, rate):
    generator = np.random.default_rng(seed)
    J = generator.standard_normal((m, n)) * np.logspace(0, -3, n)
    r = generator.standard_normal(m)
    eta = rate / np.linalg.norm(J, 2) ** 2
    truth = iterate(J, r, eta, 60)
    curve = pl.predict_training(
        Dense(torch.from_numpy(J)), torch.from_numpy(r), steps=60, learning_rate=eta, num_matvecs=budget
    )
    exact = min(curve.num_matvecs, 61)
    np.testing.assert_allclose(curve.loss[:exact], truth[:exact], rtol=1e-10)
    assert np.all(curve.lower <= truth * (1 + 1e-9))
    assert np.all(curve.upper >= truth * (1 - 1e-9))


def test_real_training_of_a_linear_model_follows_the_prediction():
    model = pl.models.fourier(6)
    with torch.no_grad():
        model.coefficients.normal_(generator=torch.Generator().manual_seed(3))
    r = pl.problems.poisson(dim=1).residual(model, interior=40, weights={"boundary": 2.0})
    optimizer = pl.optim.GradientDescent(r)
    rate = optimizer.param_groups[0]["lr"]
    curve = pl.predict_training(pl.Jacobian(r), r.value, steps=200, learning_rate=rate)
    measured = [optimizer.step().item() for _ in range(201)]
    np.testing.assert_allclose(curve.loss, measured, rtol=1e-10)


def test_divergence_is_predicted():
    J = np.diag([1.0, 0.5, 0.3, 0.2])
    truth = iterate(J, np.ones(4), 2.5, 10)
    curve = pl.predict_training(
        Dense(torch.from_numpy(J)), torch.ones(4, dtype=torch.float64), steps=10, learning_rate=2.5, num_matvecs=2
    )
    np.testing.assert_allclose(curve.loss[:2], truth[:2], rtol=1e-12)
    assert np.all(curve.lower <= truth * (1 + 1e-12))
    assert np.all(np.isinf(curve.upper[2:]))


def test_a_zero_residual_stays_zero_and_mistakes_are_refused():
    J = Dense(torch.eye(2, dtype=torch.float64))
    zero = torch.zeros(2, dtype=torch.float64)
    assert pl.predict_training(J, zero, steps=3, learning_rate=1.0).loss.tolist() == [0.0] * 4
    with pytest.raises(ValueError, match="η > 0"):
        pl.predict_training(J, zero + 1, steps=3, learning_rate=0.0)
    with pytest.raises(ValueError, match="steps"):
        pl.predict_training(J, zero + 1, steps=-1, learning_rate=1.0)
