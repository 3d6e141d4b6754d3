"""Condition numbers of operators with a prescribed spectrum."""

import json
import math
from functools import partial

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import precondlab as pl
from precondlab.errors import Breakdown, NotPositive, NotSymmetric
from precondlab.operator import Operator
from precondlab.operators import Dense, Diagonal, Gram, Identity, Kernel, VStack
from precondlab.preconditioners import jacobi, multiplicative, nystrom
from precondlab.spectrum import ConditionStatus
from precondlab.testing import Faulty
from precondlab.testing.gallery.factors import Reflections


def haar(n, seed=0):
    return torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q


def jacobian(eigenvalues, rows=0, seed=0):
    """A matrix J whose JᵀJ has the given eigenvalues."""
    sigma = torch.as_tensor(eigenvalues, dtype=torch.float64).sqrt()
    n = len(sigma)
    return Dense(haar(n + rows, seed)[:, :n] @ torch.diag(sigma) @ haar(n, seed + 1).T)


def positive(eigenvalues, seed=0):
    Q = haar(len(eigenvalues), seed)
    return Dense(Q @ torch.diag(torch.as_tensor(eigenvalues, dtype=torch.float64)) @ Q.T, positive=True)


@given(seed=st.integers(0, 2**31), n=st.integers(1, 40), decades=st.floats(0, 24), rows=st.integers(0, 20))
def test_dense_interval_holds_kappa_through_the_jacobian(seed, n, decades, rows):
    eigenvalues = np.logspace(3, 3 - decades, n) if n > 1 else np.array([7.0])
    truth = eigenvalues[0] / eigenvalues[-1]
    result = pl.condition(Gram(jacobian(eigenvalues, rows, seed)))
    assert result.status.ok and result.rank == n
    assert result.lower <= truth * (1 + 1e-12) and truth <= result.upper * (1 + 1e-12)
    assert result.upper <= result.lower * (1 + 1e-10 + 40 * (n + rows) * 2.3e-16 * truth**0.5)
    assert result.estimate == pytest.approx(truth, rel=1e-8 + 1e-14 * truth**0.5)


@given(seed=st.integers(0, 2**31), steps=st.integers(1, 30), decades=st.floats(1, 12))
def test_krylov_interval_holds_kappa(seed, steps, decades):
    eigenvalues = np.logspace(0, -decades, 31)
    generator = torch.Generator().manual_seed(seed)
    for A in (Gram(jacobian(eigenvalues, 5, seed)), positive(eigenvalues, seed)):
        result = pl.condition(A, num_matvecs=steps, generator=generator, confidence=1 - 1e-6)
        assert result.lower <= 10.0**decades <= result.upper
        assert result.num_matvecs <= steps
        assert result.status.ok == (result.upper < math.inf)


def test_what_few_products_cannot_know_is_infinite():
    result = pl.condition(Gram(jacobian(np.logspace(0, -12, 60))), num_matvecs=10)
    assert result.status is ConditionStatus.LOWER_BOUND and result.upper == math.inf
    assert "approximate_inverse" in result.status.advice


@given(seed=st.integers(0, 2**31), damping=st.floats(1e-6, 1))
def test_damping_is_a_floor_that_makes_every_interval_finite(seed, damping):
    eigenvalues = np.append(np.logspace(0, -9, 40), np.zeros(5))
    truth = (1 + damping) / damping
    generator = torch.Generator().manual_seed(seed)
    for steps in (6, None):
        result = pl.condition(
            Gram(jacobian(eigenvalues, 2, seed)),
            damping=damping,
            num_matvecs=steps,
            generator=generator,
            confidence=1 - 1e-6,
        )
        assert result.status.ok
        assert result.lower <= truth * (1 + 1e-9) and truth <= result.upper * (1 + 1e-9)


@given(seed=st.integers(0, 2**31), factored=st.booleans(), distortion=st.floats(0, 2))
def test_an_approximate_inverse_finds_the_small_end_in_few_products(seed, factored, distortion):
    size, kappa = 80, 1e10
    rng = np.random.default_rng(seed)
    eigenvalues = np.logspace(0, -10, size)
    Q = haar(size, seed)
    J = Dense(torch.diag(torch.as_tensor(eigenvalues).sqrt()) @ Q.T)
    near = torch.as_tensor(np.exp(distortion * rng.uniform(-0.5, 0.5, size)) / eigenvalues)
    M = Kernel(Dense(Q @ torch.diag(near.sqrt()))) if factored else Dense(Q @ torch.diag(near) @ Q.T, positive=True)
    generator = torch.Generator().manual_seed(seed)
    A = Gram(J)
    result = pl.condition(A, approximate_inverse=M, num_matvecs=3000, generator=generator, confidence=1 - 1e-6)
    assert result.method == "inverse"
    assert result.lower <= kappa * (1 + 1e-9) and kappa <= result.upper
    if factored:
        assert result.status.ok and result.upper < math.inf
        assert result.estimate == pytest.approx(kappa, rel=1e-5)


@pytest.mark.parametrize(
    ("K", "truth", "rtol", "products"),
    [(200, 9.1687494e9, 1e-6, 60), (1000, 5.7304684e12, 1e-6, 60), (10_000, 5.7304684e16, 1e-3, 200)],
)
def test_fourier_poisson_in_a_rotated_basis(K, truth, rtol, products):
    """Both ends of the interval, λ = 1: κ ≈ K⁴ / 0.1745058, of which forward products see nothing."""
    k = torch.arange(1.0, K + 1, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    end = torch.cat([zero + (2 * torch.pi) ** -0.5, (-1.0) ** k / torch.pi**0.5, 0 * k])
    J = VStack(Diagonal(torch.cat([zero, k, k]) ** 2), Dense(2**0.5 * end[None]))
    R = Reflections(torch.randn(2 * K + 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(K)))
    M = R.H @ Diagonal(torch.cat([zero + 400, k**-4, k**-4])) @ R
    result = pl.condition(Gram(J @ R), approximate_inverse=M).check()
    assert result.estimate == pytest.approx(truth, rel=rtol)
    assert result.lower <= truth * (1 + rtol) and truth <= result.upper <= 1.1 * truth
    assert result.num_matvecs <= products


def test_the_top_of_a_misordered_approximate_inverse_is_not_taken_for_that_of_A():
    """The largest eigenvalue of M⁻¹ belongs to an exact eigenvector of A that is not its largest."""
    eigenvalues = torch.linspace(1, 100, 60, dtype=torch.float64)
    near = eigenvalues.clone()
    near[30] = 1000.0
    A = Gram(Diagonal(eigenvalues.sqrt()))
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        result = pl.condition(A, approximate_inverse=Diagonal(1 / near), generator=generator, confidence=1 - 1e-6)
        assert result.lower <= 100 * (1 + 1e-9) and result.upper >= 100 * (1 - 1e-9)
        assert result.estimate == pytest.approx(100, rel=1e-6)


def test_round_off_of_a_strong_preconditioner_without_a_factor_is_not_taken_for_an_indefinite_operator():
    """A is singular and M as large as 1/μ on its kernel: Ritz values of M A are negative in the tenth digit."""
    model = pl.models.mlp((1, 10, 10, 1), seed=0)
    J = pl.Jacobian(pl.problems.poisson(1).residual(model, interior=40))
    A, mu = pl.Gram(J), 1e-6 * pl.condition(pl.Gram(J)).largest
    damped = pl.Gram(VStack(J, mu**0.5 * Identity(J.domain)))
    parts = (make(A, damping=mu) for make in (jacobi, partial(nystrom, rank=20)))
    M = multiplicative(damped, *((1 / pl.condition(damped, preconditioner=P).largest) * P for P in parts))
    result = pl.condition(A, preconditioner=M)
    assert result.status is ConditionStatus.SINGULAR and result.largest == pytest.approx(1, rel=1e-5)


def symmetrized(Q, values):
    matrix = (Q * torch.as_tensor(values)) @ Q.T
    return (matrix + matrix.T) / 2


@given(
    seed=st.integers(0, 2**31), decades=st.floats(0, 11), near=st.booleans(), steps=st.sampled_from([None, 1, 4, 12])
)
def test_round_off_that_a_preconditioner_amplifies_is_allowed_for(seed, decades, near, steps):
    """An exactly symmetric A and an M ≈ A⁻¹ without a factor against 50 digits."""
    n, Q = 8, haar(8, seed)
    eigenvalues = np.logspace(0, -decades, n)
    distortion = 10 ** np.random.default_rng(seed).uniform(0, 1e-8 if near else 1, n)
    A, M = symmetrized(Q, eigenvalues), symmetrized(Q, distortion / eigenvalues)
    with mpmath.workdps(50):
        L = mpmath.cholesky(mpmath.matrix(M.tolist()))
        found = sorted(mpmath.eigsy(L.T * mpmath.matrix(A.tolist()) * L, eigvals_only=True))
        truth = float(found[-1] / found[0])
    result = pl.condition(Dense(A, positive=True), preconditioner=Dense(M, positive=True), num_matvecs=steps)
    assert result.lower <= truth <= result.upper
    if steps is None:
        assert result.upper <= truth * (1 + 1e-13 * 10**decades + 1e-12)


def test_an_exactly_symmetric_operator_is_not_refused_for_what_its_preconditioner_amplifies():
    Q, eigenvalues = haar(50), np.logspace(0, -11, 50)
    A, M = (Dense(symmetrized(Q, values), positive=True) for values in (eigenvalues, 1 / eigenvalues))
    for steps in (None, 10, 60):
        result = pl.condition(A, preconditioner=M, num_matvecs=steps)
        assert result.lower <= 1 + 1e-3 and result.upper >= 1
    through = pl.condition(A, approximate_inverse=M).check()
    assert through.lower <= 1e11 * (1 + 1e-3) and through.upper >= 1e11 * (1 - 1e-3)


class Counted(Operator):
    """A positive matrix that counts."""

    def __init__(self, matrix):
        parent = Dense(matrix)
        super().__init__(parent.domain, parent.domain, positive=True)
        self.matrix = matrix

    def _apply(self, V):
        return self.matrix @ V


@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 40),
    decades=st.floats(0, 9),
    budget=st.none() | st.integers(1, 80),
    kind=st.sampled_from(["identity", "near", "factored", "far"]),
    faulty=st.booleans(),
)
def test_an_approximate_inverse_of_any_quality_keeps_to_the_budget_and_the_truth(
    seed, n, decades, budget, kind, faulty
):
    """However badly the solves go the interval holds κ, and what is not resolved is not called singular."""
    eigenvalues = np.logspace(0, -decades, n) if n > 1 else np.ones(1)
    Q, rng = haar(n, seed), np.random.default_rng(seed)
    A: Operator = Counted(symmetrized(Q, eigenvalues))
    A = Faulty(A, noise=1e-6) if faulty else A
    near = 10 ** rng.uniform(-1, 1, n) / (eigenvalues if kind != "far" else eigenvalues[::-1].copy())
    M = {
        "identity": Identity(A.domain),
        "near": Dense(symmetrized(Q, near), positive=True),
        "factored": Kernel(Dense(Q * torch.as_tensor(near).sqrt())),
        "far": Dense(symmetrized(Q, near), positive=True),
    }[kind]
    generator = torch.Generator().manual_seed(seed + 1)  # that of Q would start from eigenvectors
    options = {} if budget is None else {"num_matvecs": budget}
    result = pl.condition(A, approximate_inverse=M, generator=generator, confidence=1 - 1e-6, **options)
    assert A.num_matvecs == result.num_matvecs <= (budget or 200)
    truth, allowed = eigenvalues[0] / eigenvalues[-1], 1e-13 * 10**decades + 1e-12
    assert result.lower <= truth * (1 + allowed) and truth <= result.upper * (1 + allowed)
    if not faulty:
        assert result.status in (ConditionStatus.OK, ConditionStatus.LOWER_BOUND)


def test_bounds_that_contradict_what_was_found_are_dropped(monkeypatch):
    """Start vectors are trusted to have more of an eigenvector than they have: bounds are false, and some show it."""
    monkeypatch.setattr("precondlab.spectrum.through_inverse._component", lambda A, failure: 0.9)
    v = torch.tensor([1e-5, 1.0, 10.0], dtype=torch.float64)
    M = Diagonal(torch.tensor([1.0, 0.5, 0.9], dtype=torch.float64) / v)
    for seed in range(20):
        result = pl.condition(Diagonal(v), approximate_inverse=M, generator=torch.Generator().manual_seed(seed))
        assert result.lower <= result.upper


def test_a_singular_operator_has_an_approximate_inverse_too():
    zero = pl.condition(Diagonal(torch.zeros(3, dtype=torch.float64)), approximate_inverse=Identity(pl.Space(3)))
    assert zero.status is ConditionStatus.ZERO
    one = symmetrized(haar(60), np.append(np.logspace(0, -3, 59), 0.0))
    result = pl.condition(Dense(one, positive=True), approximate_inverse=Identity(pl.Space(60)))
    assert result.upper == math.inf and not result.status.ok and result.lower > 1e3


def test_damping_is_a_floor_of_an_approximate_inverse():
    A = Diagonal(torch.cat([torch.logspace(0, -6, 100), torch.zeros(5)]).double())
    result = pl.condition(A, approximate_inverse=Identity(A.domain), damping=1e-3, num_matvecs=60).check()
    assert result.lower <= 1001 <= result.upper <= 1100


class Disturbed(Operator):
    """A symmetric operator plus noise, or plus a skew part."""

    def __init__(self, parent, noise=0.0, skew=0.0):
        super().__init__(parent.domain, parent.domain, positive=True)
        self.parent, self.noise, self.skew = parent, noise, skew
        self.generator = torch.Generator().manual_seed(0)

    def _apply(self, V):
        noise = self.noise * torch.randn(V.shape, dtype=V.dtype, generator=self.generator) / len(V) ** 0.5
        return self.parent.forward(V) + noise * V.norm(dim=0) + self.skew * (V.roll(1, 0) - V.roll(-1, 0))


@pytest.mark.parametrize("num_matvecs", [None, 25])
def test_noise_in_the_products_widens_the_interval(num_matvecs):
    truth = 50.0
    result = pl.condition(Disturbed(positive(np.linspace(1, truth, 60)), noise=1e-4), num_matvecs=num_matvecs)
    assert result.noise_floor > 1e-5
    assert result.lower <= truth <= result.upper
    assert pl.condition(positive(np.linspace(1, truth, 60))).noise_floor < 1e-11


@given(seed=st.integers(0, 2**31), n=st.integers(2, 24), declared=st.booleans(), decades=st.floats(0, 12))
def test_noise_is_seen_at_every_size(seed, n, declared, decades):
    """Products that do not repeat certify nothing beyond their noise, and are not taken for asymmetry."""
    generator = torch.Generator().manual_seed(seed)
    matrix = positive(np.logspace(0, -decades, n), seed).matrix
    A = Faulty(Dense((matrix + matrix.T) / 2, positive=declared), noise=1e-6, generator=generator)
    result = pl.condition(A)
    truth = 10.0**decades
    assert result.confidence < 1 and result.noise_floor > 1e-8
    assert result.lower <= truth <= result.upper


@pytest.mark.parametrize("num_matvecs", [None, 25])
def test_an_operator_wrongly_declared_symmetric_is_refused(num_matvecs):
    with pytest.raises(NotSymmetric, match="declared symmetric"):
        pl.condition(Disturbed(positive(np.linspace(1, 2, 60)), skew=0.1), num_matvecs=num_matvecs)


@pytest.mark.parametrize("method", ["dense", "golub-kahan"])
def test_a_singular_operator_has_infinite_kappa_and_a_rank(method):
    J = jacobian([4.0, 2.0, 1.0, 0.0, 0.0], rows=3)
    result = pl.condition(Gram(J), num_matvecs=None if method == "dense" else 4)
    assert result.method == method
    assert result.estimate == result.upper == math.inf
    assert result.status is ConditionStatus.SINGULAR and not result.status.ok
    assert result.resolved == pytest.approx(4.0)
    assert result.rank == 3
    assert "rank" in result.status.advice
    with pytest.raises(ArithmeticError, match="singular"):
        result.check()


def test_fewer_rows_than_parameters_is_singular():
    result = pl.condition(Gram(jacobian([1.0, 2.0, 3.0]).H @ Dense(haar(5)[:3])))
    assert result.status is ConditionStatus.SINGULAR
    assert (result.rank, result.size) == (3, 5)


def test_zero_operator_is_named():
    result = pl.condition(Dense(torch.zeros(3, 3, dtype=torch.float64), positive=True))
    assert result.status is ConditionStatus.ZERO and result.rank == 0
    assert not math.isnan(result.estimate)


def test_a_positive_square_root_is_still_a_square_root():
    """``A^½`` of a diagonal A is positive itself: M enters once, from one side."""
    A, M = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([1.0, 0.25, 0.2]).double()
    for P in (Diagonal(M), Dense(torch.diag(M), positive=True)):
        assert pl.condition(Diagonal(A), preconditioner=P).check().estimate == pytest.approx(2.0)


@pytest.mark.parametrize("num_matvecs", [None, 11])
@pytest.mark.parametrize("factored", [(True, True), (True, False), (False, True), (False, False)])
def test_preconditioned_condition_is_that_of_MA(num_matvecs, factored):
    eigenvalues = np.logspace(0, -8, 12)
    Q = haar(12)
    J = Dense(torch.diag(torch.as_tensor(eigenvalues).sqrt()) @ Q.T)
    root = Dense(Q @ torch.diag(torch.as_tensor((1 + 0.3 * np.cos(np.arange(12))) / eigenvalues).sqrt()))
    A = Gram(J) if factored[0] else Dense(J.dense().T @ J.dense(), positive=True)
    M = Kernel(root) if factored[1] else Dense(root.dense() @ root.dense().T, positive=True)
    truth = np.max(1 + 0.3 * np.cos(np.arange(12))) / np.min(1 + 0.3 * np.cos(np.arange(12)))
    result = pl.condition(A, preconditioner=M, num_matvecs=num_matvecs)
    assert result.lower <= truth * (1 + 1e-6)
    if num_matvecs is None:
        assert result.estimate == pytest.approx(truth, rel=1e-6)


def test_a_non_symmetric_operator_gets_the_ratio_of_its_singular_values():
    J = jacobian([9.0, 4.0, 1.0], rows=4)
    assert pl.condition(J).estimate == pytest.approx(3.0)
    assert pl.condition(J, num_matvecs=2).lower <= 3.0


@given(
    seed=st.integers(0, 2**31), rows=st.integers(1, 8), columns=st.integers(1, 8), steps=st.none() | st.integers(1, 8)
)
def test_the_number_of_a_rectangular_operator_is_numpys(seed, rows, columns, steps):
    """κ of a wide J of full rank is finite, and so is that of the smaller Gram operator; the larger one is singular."""
    generator = torch.Generator().manual_seed(seed)
    J = Dense(torch.randn(rows, columns, dtype=torch.float64, generator=generator))
    truth = np.linalg.cond(J.matrix.numpy())
    result = pl.condition(J, num_matvecs=steps, generator=generator, confidence=1 - 1e-6)
    assert result.size == min(rows, columns)
    assert result.lower <= truth * (1 + 1e-9) and truth <= result.upper * (1 + 1e-9)
    if steps is None:
        assert result.check().estimate == pytest.approx(truth, rel=1e-9)
        for square, of in ((Gram(J), columns), (Kernel(J), rows)):
            found = pl.condition(square)
            if of > min(rows, columns):
                assert found.status is ConditionStatus.SINGULAR and found.rank == min(rows, columns)
            else:
                assert found.check().estimate == pytest.approx(truth**2, rel=1e-8)


def test_scipy_operators_are_taken():
    from scipy.sparse.linalg import aslinearoperator

    assert pl.condition(aslinearoperator(np.diag([1.0, 2.0]))).estimate == pytest.approx(2.0)
    A = Diagonal(torch.tensor([1.0, 2.0], dtype=torch.float64))
    for M in (np.diag([1.0, 0.25]), aslinearoperator(np.diag([1.0, 0.25]))):
        assert pl.condition(A, preconditioner=M).check().estimate == pytest.approx(2.0)
        assert pl.condition(A, approximate_inverse=M).check().estimate == pytest.approx(2.0)


def test_an_operator_wrongly_declared_positive_is_refused():
    with pytest.raises(NotPositive, match="declared positive"):
        pl.condition(positive([1.0, 0.5, -0.25]))


def test_products_that_are_not_finite_name_the_product():
    with pytest.raises(Breakdown, match="product 3"):
        pl.condition(Dense(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, float("nan")]]).cumsum(1)))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"preconditioner": Diagonal(torch.ones(3, dtype=torch.float64))}, "shape"),
        ({"preconditioner": Diagonal(-torch.ones(2, dtype=torch.float64))}, "positive"),
        ({"num_matvecs": 0}, "num_matvecs"),
        ({"confidence": 1.0}, "confidence"),
        ({"damping": -1.0}, "damping"),
        ({"approximate_inverse": Diagonal(-torch.ones(2, dtype=torch.float64))}, "positive"),
        ({"preconditioner": Diagonal(torch.ones(2))}, "float32"),
        ({"preconditioner": np.ones((2, 3))}, "square"),
    ],
)
def test_bad_arguments_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        pl.condition(Diagonal(torch.tensor([1.0, 2.0], dtype=torch.float64)), **bad)


@pytest.mark.parametrize(
    "bad", [{"num_matvecs": 2.0}, {"num_matvecs": True}, {"confidence": "high"}, {"damping": None}]
)
def test_arguments_of_a_wrong_type_are_refused(bad):
    with pytest.raises(TypeError, match=next(iter(bad))):
        pl.condition(Diagonal(torch.tensor([1.0, 2.0], dtype=torch.float64)), **bad)


@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (0, 3)])
def test_an_operator_without_rows_or_columns_is_refused(shape):
    with pytest.raises(ValueError, match="rows and columns"):
        pl.condition(Dense(torch.zeros(shape, dtype=torch.float64)))


def test_the_result_is_json():
    document = pl.condition(Gram(jacobian([1.0, 0.0]))).to_dict()
    assert json.loads(json.dumps(document))["upper"] is None
