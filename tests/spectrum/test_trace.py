"""Traces, diagonals, determinants and norms against dense linear algebra, and the coverage of their intervals."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

import precondlab as pl
from precondlab.errors import Breakdown, NotPositive
from precondlab.operators import Dense, Diagonal, LowRank
from precondlab.spectrum.trace import hutchinson, hutchpp, left_out, xtrace

TRACES = (hutchinson, hutchpp, xtrace)


def haar(n, seed):
    return torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q


def symmetric(values, seed=0, **declared):
    Q = haar(len(values), seed)
    return Dense(Q @ torch.diag(torch.as_tensor(np.asarray(values, dtype=float))) @ Q.T, symmetric=True, **declared)


def general(values, seed=0):
    """Nonsymmetric, with prescribed singular values."""
    return Dense(haar(len(values), seed) @ torch.diag(torch.as_tensor(values)) @ haar(len(values), seed + 1).T)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def over_seeds(estimate, truth, runs=200):
    """Return the coverage of 95 % intervals, the bias in its own standard errors, and the ratio of stderr to spread."""
    results = [estimate(seeded(seed)) for seed in range(runs)]
    covered = np.mean([low <= truth <= high for low, high in (r.interval(0.95) for r in results)])
    values = np.array([r.value for r in results])
    stderr = np.mean([r.stderr**2 for r in results]) ** 0.5
    return covered, (values.mean() - truth) / (values.std() / runs**0.5), stderr / values.std()


FLAT = np.linspace(1, 2, 60)
DECAY = np.arange(1, 61) ** -2.0
MIXED = np.concatenate([np.linspace(-1, 0, 30), np.linspace(0.5, 3, 30)])


SPECTRA = [
    np.linspace(1, 2, 60),
    np.arange(1, 61) ** -2.0,
    np.r_[100.0, np.ones(59)],
    np.r_[np.full(5, 50.0), np.full(55, 0.1)],
]


@pytest.mark.parametrize("method", TRACES)
@pytest.mark.parametrize("values", SPECTRA, ids=["flat", "decay", "spike", "low rank and flat"])
def test_traces_are_unbiased_and_intervals_hold(method, values):
    for budget in (8, 24):
        covered, bias, ratio = over_seeds(lambda g, b=budget: method(symmetric(values), num_matvecs=b, generator=g),
                                          values.sum())  # fmt: skip
        assert abs(bias) <= 5
        assert covered >= 0.91
        assert 0.85 <= ratio <= 1.7  # 1.41 for xtrace, where probes are independent


@pytest.mark.parametrize("method", TRACES)
def test_intervals_of_operators_that_are_not_symmetric_hold_and_are_wider(method):
    A = general(MIXED, 7)
    covered, bias, ratio = over_seeds(lambda g: method(A, num_matvecs=24, generator=g), A.matrix.trace().item())
    assert abs(bias) <= 5
    assert covered >= 0.95
    assert 1.2 <= ratio <= 2.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("method", [hutchinson, hutchpp])
def test_variance_is_that_of_spheres_in_closed_form(method, dtype):
    """2n/(n+2) · (‖B‖² − tr(B)²/n) over the number of samples, half as much for complex ones; B = A beside Q."""
    matrix = general(MIXED, 3).matrix.to(dtype)
    A = Dense(matrix + matrix.mH + 1j * (matrix - matrix.mH) if dtype.is_complex else matrix + matrix.mH)
    found, closed = [], []
    for seed in range(100):
        found.append(method(A, num_matvecs=12, generator=seeded(seed)).stderr ** 2)
        B, n, count = A.matrix, 60, 12
        if method is hutchpp:
            n, count = 56, 4
            Q = torch.linalg.qr(A.matrix @ A.domain.random(8, generator=seeded(seed))[:, :4]).Q
            P = torch.eye(60) - Q @ Q.mH
            B = P @ B @ P
        deviation = (B.norm() ** 2 - B.trace().abs() ** 2 / n).item()
        closed.append((deviation / (n + 1) if dtype.is_complex else 2 * deviation / (n + 2)) * n / count)
    assert np.mean(found) == pytest.approx(np.mean(closed), rel=0.03)


@pytest.mark.parametrize("method", ["xtrace", "hutch++"])
@given(seed=st.integers(0, 2**31), rank=st.integers(0, 6), n=st.integers(40, 70))
def test_traces_of_low_rank_operators_are_exact(method, seed, rank, n):
    U = torch.randn(n, rank, dtype=torch.float64, generator=seeded(seed))
    V = torch.randn(n, rank, dtype=torch.float64, generator=seeded(seed + 1))
    A = LowRank(U, torch.ones(rank, dtype=torch.float64), V)
    estimate = pl.trace(A, num_matvecs=21, method=method, generator=seeded(seed))
    scale = (U.norm() * V.norm()).item() + 1
    assert estimate.value == pytest.approx((U * V).sum().item(), abs=1e-11 * scale)
    assert estimate.stderr <= 1e-11 * scale


@pytest.mark.parametrize("method", TRACES)
def test_zero_has_trace_zero(method):
    estimate = method(Dense(torch.zeros(40, 40)), num_matvecs=8)
    assert (estimate.value, estimate.stderr) == (0.0, 0.0)


def test_better_methods_are_better_where_the_spectrum_decays():
    A = symmetric(10.0 ** (-np.arange(80) / 4))
    errors = [np.median([abs(m(A, num_matvecs=30, generator=seeded(s)).value - A.matrix.trace()) for s in range(20)])
              for m in TRACES]  # fmt: skip
    assert errors[2] < errors[1] / 3 < errors[0] / 30


@pytest.mark.parametrize("method", TRACES)
def test_products_are_counted_and_large_budgets_are_exact(method):
    A = general(MIXED)
    assert method(A, num_matvecs=20).num_matvecs == A.num_matvecs == 20
    exact = method(A, num_matvecs=60)
    assert exact.value == pytest.approx(A.matrix.trace().item(), rel=1e-12)
    assert (exact.stderr, exact.num_matvecs) == (0.0, 60)


def test_left_out_projects_on_the_other_columns():
    Y = torch.randn(20, 5, dtype=torch.float64, generator=seeded(1)).numpy()
    Q, R = np.linalg.qr(Y)
    S, d = left_out(R)
    for i in range(5):
        others = np.linalg.qr(np.delete(Y, i, axis=1))[0]
        s = S[:, i : i + 1]
        np.testing.assert_allclose(Q @ (np.eye(5) - s @ s.T) @ Q.T, others @ others.T, atol=1e-12)
        assert d[i] == pytest.approx((s.T @ R[:, i])[0])


@pytest.mark.parametrize("method", ["xdiag", "hutchinson"])
@pytest.mark.parametrize("A", [symmetric(DECAY), general(MIXED, 7)])
def test_diagonals_are_unbiased_with_error_bars(method, A):
    truth = A.matrix.diagonal()
    results = [pl.diagonal(A, num_matvecs=24, method=method, generator=seeded(seed)) for seed in range(150)]
    values = torch.stack([r.value for r in results])
    bias = (values.mean(0) - truth) / (values.std(0) / 150**0.5)
    assert bias.abs().max() <= 6
    assert bias.square().mean() <= 2
    inside = [((low <= truth) & (truth <= high)).double().mean() for low, high in (r.interval() for r in results)]
    assert np.mean(inside) >= 0.92
    ratio = torch.stack([r.stderr for r in results]).square().mean().sqrt() / values.std(0).square().mean().sqrt()
    assert 0.9 <= ratio <= 1.5


@given(seed=st.integers(0, 2**31), rank=st.integers(0, 6), n=st.integers(40, 70))
def test_xdiag_of_low_rank_operators_is_exact(seed, rank, n):
    U = torch.randn(n, rank, dtype=torch.float64, generator=seeded(seed))
    V = torch.randn(n, rank, dtype=torch.float64, generator=seeded(seed + 1))
    A = LowRank(U, torch.ones(rank, dtype=torch.float64), V)
    estimate = pl.diagonal(A, num_matvecs=20, generator=seeded(seed))
    np.testing.assert_allclose(estimate.value, (U * V).sum(1), atol=1e-11 * (1 + (U.norm() * V.norm()).item()))
    assert estimate.num_matvecs == A.num_matvecs <= 20


def test_hutchinson_of_a_diagonal_matrix_is_exact_and_blocks_agree_with_one():
    A = Diagonal(torch.arange(100.0, dtype=torch.float64))
    estimate = pl.diagonal(A, num_matvecs=70, method="hutchinson")
    np.testing.assert_allclose(estimate.value, A.entries)
    np.testing.assert_allclose(estimate.stderr, 0, atol=1e-12)
    B = general(np.linspace(0, 1, 100))
    estimate = pl.diagonal(B, num_matvecs=70, method="hutchinson", generator=seeded(3))
    generator = seeded(3)
    signs = torch.cat([B.domain.random(k, generator=generator) for k in (32, 32, 6)], 1).sign()
    samples = signs * (B.matrix @ signs)
    np.testing.assert_allclose(estimate.value, samples.mean(1), atol=1e-13)
    np.testing.assert_allclose(estimate.stderr, samples.std(1) / 70**0.5, atol=1e-13)


def test_frobenius_norm():
    A = Dense(torch.randn(90, 50, dtype=torch.float64, generator=seeded(0)))
    truth = A.matrix.norm().item()
    covered, bias, ratio = over_seeds(lambda g: pl.frobenius_norm(A, num_matvecs=20, generator=g), truth)
    assert covered >= 0.92 and abs(bias) <= 6 and 0.9 <= ratio <= 1.2
    products = 40  # in two blocks
    gram, n = A.matrix.T @ A.matrix, 50
    closed = 2 * n / (n + 2) * (gram.norm().item() ** 2 - truth**4 / n) / (4 * truth**2) / products
    found = [pl.frobenius_norm(A, num_matvecs=products, generator=seeded(seed)).stderr ** 2 for seed in range(100)]
    assert np.mean(found) == pytest.approx(closed, rel=0.05)
    assert pl.frobenius_norm(A, num_matvecs=50).value == pytest.approx(truth)
    assert pl.frobenius_norm(Dense(torch.zeros(40, 40)), num_matvecs=4).interval() == (0.0, 0.0)


POSITIVE = np.logspace(-3, 1, 80)


def test_logdet_is_bracketed_and_calibrated():
    A = symmetric(POSITIVE, positive=True)
    truth = np.log(POSITIVE).sum()
    covered, bias, ratio = over_seeds(
        lambda g: pl.logdet(A, floor=5e-4, num_matvecs=60, num_probes=4, generator=g), truth, 100
    )
    assert covered >= 0.85 and abs(bias) <= 5 and 0.7 <= ratio <= 1.4


@given(seed=st.integers(0, 2**31), steps=st.integers(1, 15), damping=st.floats(1e-4, 10.0))
def test_quadrature_bounds_hold_for_the_probes_drawn(seed, steps, damping):
    """Gauss above, Gauss–Radau below: the dense value of qᵀf(A)q for the same q lies between, always."""
    A = symmetric(POSITIVE, seed, positive=True)
    values, vectors = np.linalg.eigh(A.matrix.numpy())
    starts = A.domain.random(2, generator=seeded(seed)).numpy()
    masses = 80 * ((vectors.T @ (starts / np.linalg.norm(starts, axis=0))) ** 2).mean(1)
    options = {"num_matvecs": steps, "num_probes": 2}
    for estimate, exact in [
        (pl.logdet(A, floor=9e-4, generator=seeded(seed), **options), masses @ np.log(values)),
        (
            pl.effective_dimension(A, damping=damping, generator=seeded(seed), **options),
            masses @ (values / (values + damping)),
        ),
    ]:
        assert estimate.lower - 1e-9 * abs(exact) <= exact <= estimate.upper + 1e-9 * abs(exact)
        assert estimate.lower <= estimate.value <= estimate.upper
    open_ended = pl.logdet(A, generator=seeded(seed), **options)
    assert open_ended.lower == -math.inf
    assert open_ended.interval()[0] == -math.inf
    assert open_ended.value == pytest.approx(pl.logdet(A, floor=9e-4, generator=seeded(seed), **options).upper)


def test_effective_dimension_counts_eigenvalues_above_the_damping():
    A = symmetric(np.repeat([0.0, 1.0], [70, 30]), positive=True)
    estimate = pl.effective_dimension(A, damping=1e-3, num_probes=20)
    assert estimate.upper - estimate.lower <= 1e-6
    assert abs(estimate.value - 30 / 1.001) <= 5 * estimate.stderr
    full = pl.effective_dimension(symmetric(POSITIVE), damping=0.1, num_probes=50)
    assert abs(full.value - (POSITIVE / (POSITIVE + 0.1)).sum()) <= 5 * full.stderr


def test_single_precision_and_scipy_operators_are_taken():
    matrix = symmetric(POSITIVE).matrix
    for method in TRACES:
        estimate = method(Dense(matrix.float()), num_matvecs=30)
        assert abs(estimate.value - POSITIVE.sum()) <= 6 * estimate.stderr
    assert pl.trace(aslinearoperator(np.diag([1.0, 2.0, 4.0]))).value == pytest.approx(7)
    assert pl.logdet(aslinearoperator(np.diag([1.0, 2.0, 4.0])), num_probes=300).value == pytest.approx(
        math.log(8), abs=0.5
    )


def test_complex_traces():
    Q = torch.linalg.qr(torch.randn(60, 60, dtype=torch.complex128, generator=seeded(0))).Q
    A = Dense(Q @ torch.diag(torch.from_numpy(MIXED).to(Q)) @ Q.mH, symmetric=True)
    for method in TRACES:
        covered, bias, _ = over_seeds(lambda g, m=method: m(A, num_matvecs=24, generator=g), MIXED.sum(), 100)
        assert covered >= 0.92 and abs(bias) <= 5
    estimate = pl.diagonal(A, num_matvecs=24)
    assert (estimate.value - A.matrix.diagonal()).abs().max() <= 12 * estimate.stderr.max()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: pl.trace(Dense(torch.ones(2, 3))), ValueError, "square"),
        (lambda: pl.trace(symmetric(FLAT), num_matvecs=3), ValueError, "num_matvecs should be ≥ 4"),
        (lambda: pl.trace(symmetric(FLAT), num_matvecs=12.0), TypeError, "num_matvecs should be an integer"),
        (lambda: pl.frobenius_norm(symmetric(FLAT), num_matvecs=12.0), TypeError, "num_matvecs should be an integer"),
        (lambda: pl.trace(symmetric(FLAT), method="xdiag"), ValueError, "hutch\\+\\+"),
        (lambda: pl.diagonal(symmetric(FLAT), method="xtrace"), ValueError, "xdiag"),
        (lambda: pl.frobenius_norm(symmetric(FLAT), num_matvecs=1), ValueError, "≥ 2"),
        (lambda: pl.logdet(symmetric(MIXED)), NotPositive, "Ritz value -"),
        (lambda: pl.logdet(symmetric(np.arange(60.0)), num_matvecs=60), NotPositive, "Add damping"),
        (lambda: pl.logdet(symmetric(FLAT), floor=1.5), ValueError, "lies below the floor"),
        (lambda: pl.logdet(symmetric(FLAT), floor=0.0), ValueError, "floor > 0"),
        (lambda: pl.effective_dimension(symmetric(MIXED), damping=1.0), NotPositive, "negative Ritz value"),
        (lambda: pl.effective_dimension(symmetric(FLAT), damping=0.0), ValueError, "damping > 0"),
        (lambda: pl.trace(Diagonal(torch.full((100,), float("nan")))), Breakdown, "not finite"),
        (lambda: hutchinson(Diagonal(torch.full((100,), float("nan")))), Breakdown, "not finite"),
        (lambda: pl.diagonal(Diagonal(torch.full((100,), float("inf")))), Breakdown, "not finite"),
    ],
)
def test_mistakes_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_results_are_json():
    assert json.loads(json.dumps(pl.logdet(symmetric(POSITIVE)).to_dict()))["lower"] is None
    assert len(json.loads(json.dumps(pl.diagonal(symmetric(FLAT), num_matvecs=8).to_dict()))["stderr"]) == 60
