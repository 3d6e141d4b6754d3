"""Predicted loss curves against training itself: loops on matrices, torch.optim, SciPy."""

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, cg

import precondlab as pl
from precondlab.dynamics import ConjugateGradients, GradientDescent, Momentum, departure
from precondlab.dynamics.measure import Measure
from precondlab.dynamics.methods import _Ranges
from precondlab.errors import NotPositive
from precondlab.operator import Operator
from precondlab.operators import Dense, Diagonal

F64 = torch.float64


class Rootless(Operator):
    """A symmetric matrix that offers no factor."""

    def __init__(self, matrix):
        super().__init__(pl.Space(len(matrix)), pl.Space(len(matrix)), symmetric=True)
        self.matrix = torch.from_numpy(matrix)

    def _apply(self, V):
        return self.matrix @ V


def problem(seed, m, n, decades=3):
    generator = np.random.default_rng(seed)
    J = generator.standard_normal((m, n)) * np.logspace(0, -decades, n)
    return J, generator.standard_normal(m)


def descend(J, r, step, steps):
    """Losses of θ ← θ + step(∇L, k), by numpy."""
    losses = [0.5 * r @ r]
    for k in range(steps):
        r = r + J @ step(J.T @ r, k)
        losses.append(0.5 * r @ r)
    return np.array(losses)


class HeavyBall:
    def __init__(self, rate, beta, nesterov=False, M=None):
        self.rate, self.beta, self.nesterov, self.b, self.M = rate, beta, nesterov, 0.0, M

    def __call__(self, gradient, k):
        self.b = self.beta * self.b + gradient
        step = gradient + self.beta * self.b if self.nesterov else self.b
        return -self.rate * (step if self.M is None else self.M @ step)


def best(J, r, M, steps):
    """Smallest losses over the Krylov spaces of MJᵀJ at MJᵀr, by dense least squares on orthonormal bases."""
    losses, basis = [0.5 * r @ r], np.zeros((J.shape[1], 0))
    v = M @ J.T @ r
    for _ in range(steps):
        for _ in range(2):
            v = v - basis @ (basis.T @ v)
        if np.linalg.norm(v) < 1e-12:
            return np.array(losses + losses[-1:] * (steps + 1 - len(losses)))
        basis = np.column_stack([basis, v / np.linalg.norm(v)])
        v = M @ J.T @ (J @ basis[:, -1])
        rest = r - J @ basis @ np.linalg.lstsq(J @ basis, r, rcond=None)[0]
        losses.append(0.5 * rest @ rest)
    return np.array(losses)


def curve(J, r, **options):
    J = torch.from_numpy(J) if isinstance(J, np.ndarray) else J
    return pl.predict_training(Dense(J), torch.from_numpy(r), **options)


def encloses(prediction, truth, rtol=1e-9):
    floor = 1e-14 * truth[0]
    assert np.all(prediction.lower <= truth * (1 + rtol) + floor)
    assert np.all(prediction.upper >= truth * (1 - rtol) - floor)


sizes = {"m": st.integers(2, 25), "n": st.integers(1, 25), "budget": st.integers(1, 12)}


@given(seed=st.integers(0, 2**31), rate=st.floats(0.1, 1.9), **sizes)
def test_gradient_descent_is_exact_first_and_bounded_after(seed, m, n, budget, rate):
    J, r = problem(seed, m, n)
    eta = rate / np.linalg.norm(J, 2) ** 2
    truth = descend(J, r, lambda g, k: -eta * g, 60)
    largest = np.linalg.norm(J, 2) ** 2
    prediction = curve(J, r, steps=60, learning_rate=eta, num_matvecs=budget, largest=largest)
    assert np.all(np.isfinite(prediction.upper))
    np.testing.assert_allclose(prediction.loss[: prediction.exact], truth[: prediction.exact], rtol=1e-10)
    encloses(prediction, truth)
    assert np.all(prediction.loss <= truth * (1 + 1e-9))


@given(
    seed=st.integers(0, 2**31),
    rate=st.floats(0.1, 0.99),
    beta=st.floats(0, 0.99),
    nesterov=st.booleans(),
    **sizes,
)
def test_momentum_is_exact_first_and_bounded_after(seed, m, n, budget, rate, beta, nesterov):
    J, r = problem(seed, m, n)
    edge = 2 * (1 + beta) / (1 + 2 * beta if nesterov else 1)
    eta = rate * edge / np.linalg.norm(J, 2) ** 2
    truth = descend(J, r, HeavyBall(eta, beta, nesterov), 60)
    method = Momentum(eta, beta, nesterov=nesterov)
    largest = np.linalg.norm(J, 2) ** 2
    prediction = curve(J, r, steps=60, method=method, num_matvecs=budget, largest=largest)
    assert nesterov or np.all(np.isfinite(prediction.upper))
    exact = slice(prediction.exact)
    np.testing.assert_allclose(prediction.loss[exact], truth[exact], rtol=1e-8, atol=1e-12 * truth.max())
    encloses(prediction, truth)
    whole = curve(J, r, steps=60, method=method, num_matvecs=50)
    np.testing.assert_allclose(whole.loss, truth, rtol=1e-8, atol=1e-12 * truth.max())


def test_momentum_is_bounded_where_it_overshoots():
    J, r = np.diag([0.1, 2.99]) ** 0.5, np.ones(2)  # one product sees 1.5; at 2.99 the residual triples first
    prediction = curve(J, r, steps=40, method=Momentum(1.0, 0.5), num_matvecs=1, largest=2.99)
    encloses(prediction, descend(J, r, HeavyBall(1.0, 0.5), 40))


@given(beta=st.floats(0, 0.99), ends=st.tuples(st.floats(0, 1), st.floats(0, 1)), k=st.integers(1, 60))
def test_the_range_of_the_heavy_ball_holds_on_every_interval(beta, ends, k):
    left, right = sorted(3 * (1 + beta) * end for end in ends)  # beyond 2(1 + β) it diverges
    x = np.linspace(left, right, 400)
    *_, p = Momentum(1.0, beta)._polynomials(x, k)
    smallest, largest = _Ranges(Momentum(1.0, beta), x[:1], x[-1:])(p[:1] ** 2, p[-1:] ** 2, k)
    assert smallest[0] <= (p**2).min() + 1e-12
    assert largest[0] >= (p**2).max() * (1 - 1e-12) - 1e-12


@given(seed=st.integers(0, 2**31), factored=st.booleans(), **sizes)
def test_conjugate_gradients_take_the_best_polynomial(seed, m, n, budget, factored):
    J, r = problem(seed, m, n, decades=1)
    root = np.random.default_rng(seed + 1).standard_normal((n, n)) + 3 * np.eye(n)
    M = root @ root.T
    given = pl.operators.LowRank(torch.from_numpy(root), torch.ones(n, dtype=F64)) if factored else Rootless(M)
    truth = best(J, r, M, 20)
    prediction = curve(J, r, steps=20, method=ConjugateGradients(), preconditioner=given, num_matvecs=budget)
    exact = slice(prediction.exact)
    np.testing.assert_allclose(prediction.loss[exact], truth[exact], rtol=1e-8, atol=1e-10 * truth[0])
    assert np.all(prediction.lower <= truth * (1 + 1e-8) + 1e-10 * truth[0])
    assert np.all(prediction.upper >= truth * (1 - 1e-8) - 1e-10 * truth[0])


def test_conjugate_gradients_are_those_of_scipy():
    J, r = problem(5, 30, 12, decades=1)
    M = np.diag(1 / (J**2).sum(0))
    iterates = [np.zeros(12)]
    cg(
        J.T @ J,
        -J.T @ r,
        M=LinearOperator((12, 12), lambda v: M @ v),
        rtol=1e-13,
        callback=lambda x: iterates.append(x.copy()),
    )
    measured = [0.5 * np.sum((r + J @ x) ** 2) for x in iterates]
    prediction = curve(
        J,
        r,
        steps=len(iterates) - 1,
        method=ConjugateGradients(),
        preconditioner=Diagonal(torch.from_numpy(np.diag(M).copy())),
    )
    np.testing.assert_allclose(prediction.loss, measured, rtol=1e-10)


@pytest.mark.parametrize("factored", [True, False])
@pytest.mark.parametrize("method", ["descent", "heavy ball", "nesterov"])
def test_preconditioned_methods_follow_the_loop(method, factored):
    J, r = problem(3, 20, 12)
    entries = 1 / (J**2).sum(0)
    M = Diagonal(torch.from_numpy(entries)) if factored else Rootless(np.diag(entries))
    eta = 1 / np.linalg.norm(J @ np.diag(entries) @ J.T, 2)
    beta = {"descent": 0.0, "heavy ball": 0.8, "nesterov": 0.8}[method]
    truth = descend(J, r, HeavyBall(eta, beta, method == "nesterov", np.diag(entries)), 300)
    chosen = GradientDescent(eta) if method == "descent" else Momentum(eta, beta, nesterov=method == "nesterov")
    prediction = curve(J, r, steps=300, method=chosen, preconditioner=M, num_matvecs=20)
    np.testing.assert_allclose(prediction.loss, truth, rtol=1e-10)
    short = curve(J, r, steps=300, method=chosen, preconditioner=M, num_matvecs=6, largest=1 / eta)
    assert short.exact == 6
    encloses(short, truth)


@pytest.mark.parametrize("nesterov", [False, True])
def test_torch_trains_a_linear_model_as_predicted(nesterov):
    model = pl.models.fourier(6)
    with torch.no_grad():
        model.coefficients.normal_(generator=torch.Generator().manual_seed(3))
    r = pl.problems.poisson(dim=1).residual(model, interior=40, weights={"boundary": 2.0})
    J = pl.Jacobian(r)
    eta = 1 / torch.linalg.matrix_norm(J.dense(), 2).item() ** 2
    prediction = pl.predict_training(J, r.value, steps=200, method=Momentum(eta, 0.9, nesterov=nesterov))
    optimizer = torch.optim.SGD(model.parameters(), lr=eta, momentum=0.9, nesterov=nesterov)
    start, matrix, residual = model.coefficients.detach().clone(), J.dense(), r.value
    measured = []
    for _ in range(201):
        optimizer.zero_grad()
        loss = 0.5 * (residual + matrix @ (model.coefficients - start)).square().sum()
        loss.backward()
        measured.append(0.5 * r.value.square().sum().item())
        optimizer.step()
    np.testing.assert_allclose(prediction.loss, measured, rtol=1e-10)


def test_real_training_of_a_linear_model_follows_the_prediction():
    model = pl.models.fourier(6)
    with torch.no_grad():
        model.coefficients.normal_(generator=torch.Generator().manual_seed(3))
    r = pl.problems.poisson(dim=1).residual(model, interior=40, weights={"boundary": 2.0})
    optimizer = pl.optim.GradientDescent(r)
    rate = optimizer.param_groups[0]["lr"]
    prediction = pl.predict_training(pl.Jacobian(r), r.value, steps=200, learning_rate=rate)
    measured = [optimizer.step().item() for _ in range(201)]
    np.testing.assert_allclose(prediction.loss, measured, rtol=1e-10)


def test_divergence_is_predicted():
    J = np.diag([1.0, 0.5, 0.3, 0.2])
    for rate, beta in ((2.5, 0.0), (4.1, 0.9)):
        truth = descend(J, np.ones(4), HeavyBall(rate, beta), 10)
        method = Momentum(rate, beta) if beta else GradientDescent(rate)
        prediction = curve(J, np.ones(4), steps=10, method=method, num_matvecs=2)
        np.testing.assert_allclose(prediction.loss[:2], truth[:2], rtol=1e-12)
        encloses(prediction, truth, rtol=1e-12)
        assert np.all(np.isinf(prediction.upper[2:]))
        known = curve(J, np.ones(4), steps=10, method=method, num_matvecs=2, largest=1.0)
        encloses(known, truth, rtol=1e-12)
        assert np.all(np.isfinite(known.upper))
        far = curve(J, np.ones(4), steps=20_000, method=method)
        assert far.loss[-1] == np.inf
        assert not np.isnan(far.loss).any()


def test_a_divergence_that_the_residual_has_not_shown_is_not_excluded():
    values = np.linspace(0.1, 1, 200)
    r = np.random.default_rng(0).standard_normal(200)
    for method in (GradientDescent(2.02), Momentum(2.9, 0.4)):
        step = HeavyBall(method.learning_rate, getattr(method, "momentum", 0.0))
        truth = descend(np.diag(values), r, step, 600)
        assert truth[-1] > 1e3 * truth[0]
        prediction = curve(np.diag(values), r, steps=600, method=method, num_matvecs=5)
        encloses(prediction, truth)
        assert prediction.exact == 5
        encloses(curve(np.diag(values), r, steps=600, method=method, num_matvecs=5, largest=1.0), truth)
    with pytest.raises(ValueError, match="Ritz value"):
        curve(np.diag(values), r, steps=6, learning_rate=1.0, largest=0.5)


def cgls(J, r, steps):
    """Losses of textbook CGLS in the arithmetic of the entries."""
    s = J.T @ r
    p, losses = s, [0.5 * r @ r]
    for _ in range(steps):
        q, gamma = J @ p, s @ s
        if q @ q == 0:
            return losses + losses[-1:] * (steps + 1 - len(losses))
        r = r - gamma / (q @ q) * q
        s = J.T @ r
        p = s + (s @ s) / gamma * p
        losses.append(0.5 * r @ r)
    return losses


@pytest.mark.parametrize("decades", [1, 2, 4, 6, 8, 10])
@pytest.mark.parametrize(("m", "n", "consistent"), [(18, 12, False), (18, 12, True), (12, 12, False)])
def test_conjugate_gradients_say_where_round_off_parts_them(decades, m, n, consistent):
    generator = np.random.default_rng(10 * decades + m)
    U, V = (np.linalg.qr(generator.standard_normal((size, n)))[0] for size in (m, n))
    J = U * np.logspace(0, -decades, n) @ V.T
    r = J @ generator.standard_normal(n) if consistent else generator.standard_normal(m)
    prediction = curve(J, r, steps=2 * n, method=ConjugateGradients())
    run, floor = np.array(cgls(J, r, 2 * n)), np.finfo(float).eps * 0.5 * r @ r
    with mpmath.workdps(100):
        J, r = (np.vectorize(mpmath.mpf, otypes=[object])(x) for x in (J, r))
        ideal = np.array(cgls(J, r, n) + [0.0] * n, dtype=float)
    exact = slice(prediction.exact)
    for truth in (run, ideal[: n + 1]):
        np.testing.assert_allclose(prediction.loss[exact][: len(truth)], truth[exact], rtol=1e-9, atol=floor)
        assert np.all(prediction.lower[: len(truth)] <= truth * (1 + 1e-9) + floor)
        assert np.all(prediction.upper[: len(truth)] >= truth * (1 - 1e-9) - floor)
    assert prediction.exact >= 3
    assert departure(prediction, run).status.ok


@given(seed=st.integers(0, 2**31), rank=st.integers(0, 4))
def test_what_is_out_of_range_does_not_move(seed, rank):
    generator = np.random.default_rng(seed)
    J = generator.standard_normal((12, rank)) @ generator.standard_normal((rank, 9))
    r = generator.standard_normal(12)
    floor = 0.5 * np.linalg.norm(r - J @ np.linalg.pinv(J) @ r) ** 2
    prediction = curve(J, r, steps=40, method=ConjugateGradients())
    assert prediction.exact == 41
    assert prediction.loss[-1] == pytest.approx(floor, rel=1e-9)
    assert prediction.lower[-1] == prediction.upper[-1]


def test_a_departure_is_dated():
    J, r = problem(0, 10, 10)
    prediction = curve(J, r, steps=30, learning_rate=1 / np.linalg.norm(J, 2) ** 2)
    assert departure(prediction, prediction.loss).status.ok
    moved = prediction.loss.copy()
    moved[17:] *= 1.02
    late = departure(prediction, moved)
    assert (late.step, late.status.ok) == (17, False)
    assert late.gap[17] == pytest.approx(0.02)
    moved[4] = np.nan
    assert departure(prediction, moved).step == 4
    with pytest.raises(ValueError, match="predict more steps"):
        departure(prediction, np.ones(32))


def test_a_zero_residual_stays_zero_and_mistakes_are_refused():
    J = Dense(torch.eye(2, dtype=F64))
    zero = torch.zeros(2, dtype=F64)
    assert pl.predict_training(J, zero, steps=3, learning_rate=1.0).loss.tolist() == [0.0] * 4
    with pytest.raises(ValueError, match="η > 0"):
        pl.predict_training(J, zero + 1, steps=3, learning_rate=0.0)
    with pytest.raises(ValueError, match="steps"):
        pl.predict_training(J, zero + 1, steps=-1, learning_rate=1.0)
    with pytest.raises(ValueError, match="both or neither"):
        pl.predict_training(J, zero + 1, steps=1)
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        pl.predict_training(J, torch.ones(3, dtype=F64), steps=1, learning_rate=1.0)
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        pl.predict_training(J, zero + 1, steps=1, learning_rate=1.0, preconditioner=Dense(torch.ones(3, 3, dtype=F64)))
    with pytest.raises(ValueError, match="β < 1"):
        Momentum(0.1, 1.0)
    for wrong in ("cg", ConjugateGradients):
        with pytest.raises(TypeError, match="ConjugateGradients"):
            curve(np.eye(2), np.ones(2), steps=1, method=wrong)
    for counts in ({"steps": 2.5}, {"steps": 2, "num_matvecs": 3.0}, {"steps": True}):
        with pytest.raises(TypeError, match="integer"):
            curve(np.eye(2), np.ones(2), learning_rate=1.0, **counts)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not finite"):
            pl.predict_training(J, zero + bad, steps=1, learning_rate=1.0)
    assert pl.predict_training(J, np.ones(2), steps=1, learning_rate=1.0).loss == pytest.approx([1.0, 0.0])
    negative = Rootless(np.diag([1.0, -1.0]))
    with pytest.raises(NotPositive, match="not positive"):
        pl.predict_training(J, zero + 1, steps=1, learning_rate=1.0, preconditioner=negative)


def test_conjugate_gradients_that_are_done_stay_done():
    """Products of ``(α/β)²`` overflow once the Krylov space is nearly invariant; the last α is zero."""
    alpha, beta = np.r_[np.ones(9), 0.0], np.r_[np.full(9, 1e-20), 0.0]
    loss, lower, upper = ConjugateGradients().predict(Measure(alpha, beta, True, 1.0), 12, largest=np.inf, eps=2e-16)
    np.testing.assert_allclose(loss[:4], 1e-40 ** np.arange(4), rtol=1e-12)
    assert not loss[9:].any() and not lower[9:].any() and np.all(upper >= loss)
