"""The measure seen from a residual: against dense eigenvectors, and against training."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

import precondlab as pl
from precondlab.errors import Breakdown, NotSymmetric
from precondlab.operators import Dense


def haar(n, seed):
    return torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q


def case(seed, values):
    """A matrix with prescribed eigenvalues, a vector, and the vector's mass on each eigenvalue."""
    Q = haar(len(values), seed)
    v = torch.randn(len(values), dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    masses = (Q.T @ v).square().numpy()
    matrix = Q @ torch.diag(torch.as_tensor(values, dtype=torch.float64)) @ Q.T
    return Dense((matrix + matrix.T) / 2, symmetric=True, positive=bool(np.min(values) >= 0)), v, masses


@given(seed=st.integers(0, 2**31), n=st.integers(1, 40), steps=st.integers(1, 12), negative=st.booleans())
def test_fractions_are_bounded_by_chebyshev_markov_stieltjes(seed, n, steps, negative):
    generator = np.random.default_rng(seed)
    values = np.sort(generator.choice([0.0, 1e-3, 0.1, 1.0], n) * (1 + 0.2 * generator.random(n)))
    A, v, masses = case(seed, values - (0.5 if negative else 0.0))
    values = values - (0.5 if negative else 0.0)
    m = pl.spectral_measure(A, start=v, num_matvecs=steps)
    assert m.mass == pytest.approx(masses.sum())
    assert m.weights.sum() == pytest.approx(m.mass)
    for a, b in [(-math.inf, 0.05), (-0.01, 0.01), (0.05, 0.5), (0.5, math.inf), (0.9, 1.3), (-math.inf, math.inf)]:
        share = m.fraction(a, b)
        exact = masses[(values >= a) & (values <= b)].sum() / masses.sum()
        assert share.lower - 1e-9 <= exact <= share.upper + 1e-9
        assert share.lower <= share.value <= share.upper <= 1
    for node, radius in zip(m.nodes, m.residuals, strict=True):
        assert np.abs(values - node).min() <= radius + 1e-13


def test_an_exhausted_space_is_exact():
    values = np.array([0.0, 1.0, 3.0, 9.0])
    A, v, masses = case(5, values)
    m = pl.spectral_measure(A, start=v, num_matvecs=10)
    np.testing.assert_allclose(m.nodes, values, atol=1e-13)
    np.testing.assert_allclose(m.weights, masses, atol=1e-12)
    share = m.fraction(0.5, 3.5)
    assert share.lower == share.upper == pytest.approx(masses[1:3].sum() / masses.sum())
    assert m.fraction(0.0, 0.0).value == pytest.approx(masses[0] / masses.sum())
    assert m.degree == math.inf


def test_multiple_eigenvalues_are_one_node():
    A, v, masses = case(2, np.repeat([1.0, 2.0], [10, 5]))
    m = pl.spectral_measure(A, start=v)
    np.testing.assert_allclose(m.nodes, [1, 2])
    np.testing.assert_allclose(m.weights, [masses[:10].sum(), masses[10:].sum()])


@given(seed=st.integers(0, 2**31), steps=st.integers(1, 12), k=st.integers(0, 60), rate=st.floats(0.1, 1.9))
def test_unlearned_is_the_loss_left_by_gradient_descent(seed, steps, k, rate):
    A, v, masses = case(seed, np.logspace(-4, 0, 30))
    m = pl.spectral_measure(A, start=v, num_matvecs=steps)
    exact = (masses * (1 - rate * np.logspace(-4, 0, 30)) ** (2 * k)).sum() / masses.sum()
    share = m.unlearned(steps=k, learning_rate=rate, largest=1.0)
    assert share.lower * (1 - 1e-9) <= exact <= share.upper * (1 + 1e-9)
    if k < steps:
        assert share.lower == share.upper == pytest.approx(exact, rel=1e-9)
    left = m.remaining(steps=k, learning_rate=rate)
    assert left.sum() / m.mass == pytest.approx(share.value)


def test_unlearned_agrees_with_predict_training():
    J = Dense(torch.randn(20, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    r = torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    rate = 1 / torch.linalg.matrix_norm(J.matrix, 2).item() ** 2
    curve = pl.predict_training(J, r, steps=40, learning_rate=rate, num_matvecs=6, largest=1 / rate)
    m = pl.spectral_measure(pl.Kernel(J), start=r, num_matvecs=6)
    for k in (0, 1, 5, 6, 20, 40):
        share = m.unlearned(steps=k, learning_rate=rate, largest=1 / rate)
        assert 0.5 * m.mass * share.value == pytest.approx(curve.loss[k], rel=1e-9)
        assert 0.5 * m.mass * share.upper == pytest.approx(curve.upper[k], rel=1e-6)


def test_real_training_leaves_what_the_measure_says():
    model = pl.models.fourier(5)
    with torch.no_grad():
        model.coefficients.normal_(generator=torch.Generator().manual_seed(3))
    r = pl.problems.poisson(dim=1).residual(model, interior=30, weights={"boundary": 2.0})
    optimizer = pl.optim.GradientDescent(r)
    rate = optimizer.param_groups[0]["lr"]
    J = pl.Jacobian(r)
    seen = pl.spectral_measure(pl.Kernel(J), start=r.value)
    gradient = pl.spectral_measure(pl.Gram(J), start=J.H @ r.value)
    same = pl.spectral_measure(pl.Gram(J), start=r.value)  # a residual, by its length
    start = optimizer.step().item()
    for _ in range(99):
        optimizer.step()
    end = optimizer.step().item()
    assert seen.unlearned(steps=100, learning_rate=rate).value == pytest.approx(end / start, rel=1e-9)
    assert (same.nodes == seen.nodes).all() and (same.weights == seen.weights).all()
    # the gradient's measure is λ times the residual's
    assert gradient.mass == pytest.approx(seen.weights @ seen.nodes, rel=1e-9)


def test_divergence_is_said():
    A, v, _ = case(1, np.linspace(0.1, 1, 20))
    share = pl.spectral_measure(A, start=v, num_matvecs=4).unlearned(steps=50, learning_rate=3.0)
    assert share.lower > 1e6
    assert share.upper == math.inf
    assert share.to_dict()["upper"] is None
    slow = pl.spectral_measure(A, start=v, num_matvecs=4)
    true = ((1 - 2.02 * np.linspace(0.1, 1, 20)) ** 600 * case(1, np.linspace(0.1, 1, 20))[2]).sum() / slow.mass
    assert slow.unlearned(steps=300, learning_rate=2.02).upper == math.inf
    known = slow.unlearned(steps=300, learning_rate=2.02, largest=1.0)
    assert known.lower <= true <= known.upper < math.inf
    with pytest.raises(ValueError, match="a node is"):
        slow.unlearned(steps=300, learning_rate=2.02, largest=0.5)
    with pytest.raises(TypeError, match="integer"):
        slow.unlearned(steps=2.5, learning_rate=1.0)  # pyright: ignore[reportArgumentType]


def test_single_precision_zero_and_scipy():
    A, v, _ = case(1, np.linspace(0, 1, 30))
    m = pl.spectral_measure(Dense(A.matrix.float(), positive=True), start=v.float(), num_matvecs=8)
    full = pl.spectral_measure(A, start=v, num_matvecs=8)
    np.testing.assert_allclose(m.nodes, full.nodes, atol=1e-4)
    assert m.fraction(0, 1).value == pytest.approx(1.0)
    zero = pl.spectral_measure(Dense(torch.zeros(3, 3), positive=True), start=torch.ones(3))
    assert zero.fraction(0.0, 0.0).value == 1.0
    one = pl.spectral_measure(aslinearoperator(np.array([[2.0]])), start=np.array([3.0]))
    assert (one.nodes[0], one.mass) == (pytest.approx(2.0), pytest.approx(9.0))


def test_mistakes_are_refused():
    J = Dense(torch.ones(2, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"pl.Kernel\(J\)"):
        pl.spectral_measure(pl.Gram(J), start=torch.ones(4))
    with pytest.raises(ValueError, match="num_matvecs should be ≥ 1"):
        pl.spectral_measure(pl.Gram(J), start=torch.ones(3), num_matvecs=0)
    with pytest.raises(Breakdown, match="zero"):
        pl.spectral_measure(pl.Gram(J), start=torch.zeros(3))
    with pytest.raises(NotSymmetric, match="spectral_measure: expected a symmetric"):
        pl.spectral_measure(J, start=torch.ones(2))
    with pytest.raises(NotSymmetric, match="not symmetric"):
        pl.spectral_measure(J @ J.H @ Dense(torch.triu(torch.ones(2, 2)).double()), start=torch.ones(2))
    m = pl.spectral_measure(pl.Gram(J), start=torch.ones(3))
    with pytest.raises(ValueError, match="a ≤ b"):
        m.fraction(1, 0)
    with pytest.raises(ValueError, match="η > 0"):
        m.unlearned(steps=1, learning_rate=0.0)


def test_the_result_is_json():
    A, v, _ = case(1, np.linspace(0, 1, 30))
    document = json.loads(json.dumps(pl.spectral_measure(A, start=v, num_matvecs=3).to_dict()))
    assert len(document["nodes"]) == len(document["weights"]) == 3
    assert document["degree"] == 5
