"""Densities against the eigenvalues of matrices with a prescribed spectrum."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

import precondlab as pl
from precondlab.errors import Breakdown, NotSymmetric
from precondlab.operators import Dense, Diagonal
from precondlab.spectrum.chebyshev import kernel_polynomial
from precondlab.spectrum.density import spectral_density


def haar(n, seed):
    return torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q


def symmetric(values, seed=0, dtype=torch.float64, **declared):
    Q = haar(len(values), seed)
    matrix = Q @ torch.diag(torch.as_tensor(np.asarray(values, dtype=float))) @ Q.T
    return Dense(matrix.to(dtype), symmetric=True, **declared)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def coverage(intervals, truth):
    return np.mean([low <= truth <= high for low, high in intervals])


MIXED = np.concatenate([np.linspace(-1, -0.1, 30), np.zeros(10), np.linspace(0.5, 3, 60)])


@given(seed=st.integers(0, 2**31), n=st.integers(1, 40), steps=st.integers(1, 12), probes=st.integers(1, 4))
def test_bracket_holds_the_average_of_the_probes(seed, n, steps, probes):
    """Chebyshev, Markov and Stieltjes: never violated, whatever the probes."""
    generator = np.random.default_rng(seed)
    values = np.sort(generator.choice([-1.0, 0.0, 0.25, 1.0, 2.0], n) * (1 + 0.1 * generator.random(n)))
    A = symmetric(values, seed)
    d = spectral_density(A, num_matvecs=steps, num_probes=probes, generator=seeded(seed))
    starts = A.domain.random(probes, generator=seeded(seed)).numpy()
    true_values, vectors = np.linalg.eigh(A.matrix.numpy())
    masses = ((vectors.T @ (starts / np.linalg.norm(starts, axis=0))) ** 2).mean(1) * n
    for a, b in [(-math.inf, 0.5), (0.1, 0.6), (-0.5, 0.5), (0.9, math.inf), (-math.inf, math.inf)]:
        count = d.count(a, b)
        exact = masses[(true_values >= a) & (true_values <= b)].sum()
        assert count.lower - 1e-9 * n <= exact <= count.upper + 1e-9 * n
        assert count.lower <= count.value <= count.upper
    points = np.linspace(-1.3, 2.5, 23)
    cumulative = d.cumulative(points)
    exact = (masses[:, None] * (true_values[:, None] <= points)).sum(0)
    assert np.all(cumulative.lower <= exact + 1e-9 * n) and np.all(exact <= cumulative.upper + 1e-9 * n)
    assert np.all(np.diff(cumulative.value) >= -1e-12 * n)
    assert d.num_matvecs <= steps * probes + 5  # two or five more where round-off looks like noise or asymmetry


def test_standard_errors_are_calibrated():
    """Intervals of nominally 95 %, over 200 seeds, for moments, counts and the smoothed density; one probe and ten."""
    A = symmetric(MIXED)
    for probes in (1, 10):
        counts, first, heights = [], [], []
        for seed in range(200):
            d = spectral_density(A, num_matvecs=20, num_probes=probes, generator=seeded(seed))
            counts.append(d.count(0.25, math.inf).interval())
            first.append(d.moments(1)[1].interval())
            curve = d.smooth(np.array([1.0]), width=0.5)
            heights.append((curve.density[0] - 1.96 * curve.stderr[0], curve.density[0] + 1.96 * curve.stderr[0]))
        assert coverage(counts, 60) >= 0.88
        assert coverage(first, MIXED.sum()) >= 0.88
        exact = np.exp(-0.5 * ((1 - MIXED) / 0.5) ** 2).mean() / (0.5 * math.sqrt(2 * math.pi))
        assert coverage(heights, exact) >= 0.88


@pytest.mark.parametrize("probes", [1, 10])
@pytest.mark.parametrize(
    "values", [np.r_[100.0, np.ones(59)], np.arange(1, 61) ** -2.0, np.r_[np.full(5, 50.0), np.full(55, 0.1)]]
)
def test_intervals_hold_where_few_eigenvalues_matter(values, probes):
    """The variance is then known from few numbers, however many products there are."""
    A = Diagonal(torch.from_numpy(values))
    found = [spectral_density(A, num_matvecs=8, num_probes=probes, generator=seeded(s)).moments(1)[1]
             for s in range(200)]  # fmt: skip
    assert coverage([m.interval() for m in found], values.sum()) >= 0.91
    radius = np.median([np.diff(m.interval())[0] / 2 for m in found])
    assert radius <= (2.5 if probes == 10 else 7) * np.std([m.value for m in found])  # Student's with one degree: 12.7


def test_degrees_of_freedom_count_the_eigenvalues_that_contribute():
    """In closed form n(Σg)²/(nΣg²) per probe: 1 for a spike, 10 of 100 for a cluster, all for two halves."""
    for count, degrees in ((1, 1.0), (10, 12.5), (50, 100.0)):
        values = np.r_[np.ones(count), np.zeros(100 - count)]
        g = (values - values.mean()) ** 2
        closed = g.sum() ** 2 / (g**2).sum()
        d = spectral_density(Diagonal(torch.from_numpy(values)), num_matvecs=5, num_probes=200)
        assert d.moments(1)[1].degrees / 200 == pytest.approx(closed, rel=0.2)
        assert closed == pytest.approx(degrees, rel=0.1)
        both = d.cumulative([0.5, 2.0])
        assert both.degrees[0] == pytest.approx(d.moments(1)[1].degrees)
        assert both.interval()[1].shape == (2,)


def test_standard_errors_are_not_too_large():
    A = symmetric(MIXED)
    results = [spectral_density(A, num_matvecs=20, num_probes=4, generator=seeded(seed)) for seed in range(200)]
    moments = [d.moments(2)[2] for d in results]
    assert np.mean([m.stderr for m in moments]) == pytest.approx(np.std([m.value for m in moments]), rel=0.3)
    assert np.mean([m.value for m in moments]) == pytest.approx(
        (MIXED**2).sum(), abs=5 * np.std([m.value for m in moments]) / 200**0.5
    )


def test_moments_are_those_of_the_probes_to_the_stated_degree():
    A = symmetric(MIXED, 3)
    d = spectral_density(A, num_matvecs=4, num_probes=3, generator=seeded(5))
    starts = A.domain.random(3, generator=seeded(5))
    starts = starts / starts.norm(dim=0)
    power = starts
    for moment in d.moments(7):
        assert moment.value == pytest.approx(100 * (starts * power).sum(0).mean().item(), rel=1e-9, abs=1e-9)
        power = A.matrix @ power
    assert d.degree == 7
    with pytest.raises(ValueError, match="between 0 and 7"):
        d.moments(8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_zeros_and_multiplicities_are_counted(dtype):
    values = np.repeat([0.0, 1.0, 5.0], [50, 30, 20])
    d = spectral_density(symmetric(values, dtype=dtype), num_matvecs=30, num_probes=30)
    for value, count in [(0.0, 50), (1.0, 30), (5.0, 20)]:
        estimate = d.count(value - 0.01, value + 0.01)
        assert abs(estimate.value - count) <= 5 * estimate.stderr
        assert estimate.upper - estimate.lower <= 1e-3
    assert d.count().value == pytest.approx(100)
    assert d.count(0.0, 0.0).value == pytest.approx(d.count(-0.5, 0.5).value)


def test_one_by_one_and_scipy_and_complex_operators():
    d = spectral_density(Diagonal(torch.tensor([3.0], dtype=torch.float64)))
    assert (d.count(2.9, 3.1).value, d.count(2.9, 3.1).stderr) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-15))
    assert d.smooth().density.max() > 0
    d = spectral_density(aslinearoperator(np.diag([1.0, 2.0])), num_probes=200)
    assert abs(d.count(1.5, 3).value - 1) <= 5 * d.count(1.5, 3).stderr
    Q = torch.linalg.qr(torch.randn(20, 20, dtype=torch.complex128, generator=seeded(0))).Q
    A = Dense(Q @ torch.diag(torch.arange(20.0).to(Q)) @ Q.mH, symmetric=True)
    results = [spectral_density(A, num_probes=1, generator=seeded(s)).moments(1)[1] for s in range(200)]
    assert np.mean([r.value for r in results]) == pytest.approx(190, rel=0.05)
    assert np.mean([r.stderr for r in results]) == pytest.approx(np.std([r.value for r in results]), rel=0.3)


@pytest.mark.parametrize("axis", ["linear", "log", "symlog"])
def test_smoothed_densities_integrate_to_what_is_shown(axis):
    values = np.concatenate([-np.logspace(-3, 0, 20), np.zeros(30), np.logspace(-4, 2, 50)])
    d = spectral_density(symmetric(values), num_matvecs=60, num_probes=5)
    curve = d.smooth(axis=axis, width=0.2 if axis == "linear" else 0.05, threshold=1e-6, num_points=3000)
    t = {"linear": curve.x, "log": np.log10(np.maximum(curve.x, 1e-300))}.get(
        axis, np.sign(curve.x) * np.log10(1 + np.abs(curve.x) / 1e-6)
    )
    assert np.trapezoid(curve.density, t) == pytest.approx(1 - curve.outside, abs=1e-3)
    assert curve.outside == pytest.approx(0 if axis != "log" else d.count(-math.inf, 1e-6).value / 100, abs=1e-9)


def test_smoothing_is_the_convolution_of_the_eigenvalues():
    values = np.linspace(0, 1, 50)
    A = symmetric(values)
    x = np.linspace(-0.5, 1.5, 30)
    exact = np.exp(-0.5 * ((x[:, None] - values) / 0.3) ** 2).mean(1) / (0.3 * math.sqrt(2 * math.pi))
    curve = spectral_density(A, num_matvecs=40, num_probes=40).smooth(x, width=0.3)
    assert np.all(np.abs(curve.density - exact) <= 5 * curve.stderr + 1e-6)


def test_kernel_polynomial_agrees_with_the_eigenvalues():
    values = np.concatenate([np.zeros(40), np.linspace(2, 3, 60)])
    A = symmetric(values, positive=True)
    d = kernel_polynomial(A, num_matvecs=60, num_probes=10)
    count = d.count(1.0, math.inf)
    assert abs(count.value - 60) <= 5 * count.stderr
    assert (count.lower, count.upper) == (0.0, 100.0)  # a smoothed density has no bracket
    assert d.count().value == pytest.approx(100)
    lanczos = spectral_density(A, num_matvecs=60, num_probes=10, generator=seeded(3)).cumulative([1.0, 2.5])
    kpm = d.cumulative([1.0, 2.5])
    assert np.all(np.abs(kpm.value - lanczos.value) <= 5 * (kpm.stderr + lanczos.stderr) + 1)
    with pytest.raises(Breakdown, match="outside"):
        kernel_polynomial(A, bounds=(0.0, 2.5))
    with pytest.raises(ValueError, match="low < high"):
        kernel_polynomial(A, bounds=(1.0, 1.0))


def test_kernel_polynomial_moments_are_the_damped_chebyshev_moments():
    values = np.cos(np.linspace(0.1, 3.0, 7))
    A = Diagonal(torch.from_numpy(values))
    d = kernel_polynomial(A, bounds=(-1.0, 1.0), num_matvecs=4, num_probes=1, generator=seeded(0))
    q = A.domain.random(1, generator=seeded(0))[:, 0].numpy()
    q = q / np.linalg.norm(q)
    N = 9
    for k in range(N):
        exact = (q**2 * np.cos(k * np.arccos(values))).sum()
        jackson = (
            (N - k + 1) * np.cos(np.pi * k / (N + 1)) + np.sin(np.pi * k / (N + 1)) / np.tan(np.pi / (N + 1))
        ) / (N + 1)
        assert d.weights @ np.cos(k * np.arccos(d.nodes)) == pytest.approx(jackson * exact, abs=1e-12)


def test_mistakes_are_refused():
    A = symmetric(MIXED)
    with pytest.raises(NotSymmetric, match="not symmetric"):
        spectral_density(aslinearoperator(np.triu(np.ones((4, 4)))))
    with pytest.raises(ValueError, match="num_probes should be ≥ 1"):
        spectral_density(A, num_probes=0)
    d = spectral_density(A, num_matvecs=5, num_probes=1)
    with pytest.raises(ValueError, match="a ≤ b"):
        d.count(1, 0)
    with pytest.raises(ValueError, match="width > 0"):
        d.smooth(width=0.0)
    with pytest.raises(ValueError, match=r"'symlog', got 'loglog'"):
        d.smooth(axis="loglog")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="log axis"):
        spectral_density(-1 * pl.operators.Identity(pl.Space(3))).smooth(axis="log")
    with pytest.raises(ValueError, match="level between 0 and 1"):
        d.count().interval(95)


def test_noise_widens_the_tolerance_and_asymmetry_is_refused():
    A = symmetric(MIXED)
    quiet = spectral_density(A, num_matvecs=20, num_probes=2)
    assert quiet.tolerance < 1e-12
    assert quiet.num_matvecs == 40
    for size in (1e-3, 1e-9):
        d = spectral_density(pl.testing.Faulty(A, noise=size), num_matvecs=20, num_probes=2)
        distances = np.abs(d.nodes[:, None] - quiet.nodes).min(1)
        assert 1e-2 * size < d.tolerance < 1e2 * size
        assert distances[np.argmax(d.nodes)] < d.tolerance
    triangle = Dense(torch.triu(torch.ones(30, 30, dtype=torch.float64)), symmetric=True)
    bounded = partial(kernel_polynomial, bounds=(-100.0, 100.0))
    assert 1e-4 < bounded(pl.testing.Faulty(A, noise=1e-3), num_matvecs=5).tolerance < 10
    for refused in (spectral_density, kernel_polynomial, bounded, lambda A: pl.spectral_measure(A, start=np.ones(30))):
        with pytest.raises(NotSymmetric, match="is not symmetric"):
            refused(triangle)


def test_nearly_exhausted_spaces_are_no_asymmetry():
    values = np.repeat([1.0, 2.0, 5.0], 20) + 1e-9 * np.random.default_rng(0).standard_normal(60)
    d = spectral_density(symmetric(values), num_matvecs=20, num_probes=3)
    assert d.tolerance < 1e-12
    assert d.count(4, 6).value == pytest.approx(20, abs=8)


def test_the_zero_operator_has_all_its_eigenvalues_at_zero():
    d = kernel_polynomial(Diagonal(torch.zeros(8, dtype=torch.float64)), num_probes=2)
    assert d.count(-0.01, 0.01).value == pytest.approx(8, rel=0.2)
    assert d.count(-1, 1).value == pytest.approx(8)


def test_results_are_json():
    d = spectral_density(symmetric(MIXED), num_matvecs=5, num_probes=2)
    assert len(json.loads(json.dumps(d.to_dict()))["nodes"]) == 2
    assert len(json.loads(json.dumps(d.smooth().to_dict()))["x"]) == 400
    assert json.loads(json.dumps(d.count(0, 1).to_dict()))["degrees"] >= 2
    assert len(json.loads(json.dumps(d.cumulative([0.0, 1.0]).to_dict()))["value"]) == 2
