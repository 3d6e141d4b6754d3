"""The design tries what applies, measures it, and ranks by what a solution costs."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import aslinearoperator, cg

import precondlab as pl
from precondlab.algebra import Product
from precondlab.operators import Dense, Diagonal, Gram, Identity
from precondlab.preconditioners import DesignStatus, Preconditioner, design
from precondlab.preconditioners.design import _library
from precondlab.preconditioners.trial import trial
from precondlab.testing import gallery


class _Counted(Dense):
    """A matrix that counts the columns it is applied to, however that comes about."""

    columns = 0

    def _apply(self, V):
        self.columns += V.shape[1]
        return super()._apply(V)

    def _apply_adjoint(self, U):
        self.columns += U.shape[1]
        return super()._apply_adjoint(U)

    def dense(self):
        self.columns += min(self.shape)
        return super().dense()


def _decades(count, seed):
    """A Gram operator of a J with singular values over so many decades, λ over twice as many."""
    Q = torch.linalg.qr(torch.randn(200, 200, generator=torch.Generator().manual_seed(seed)).double()).Q
    return Gram(Dense(torch.diag(torch.logspace(0, -count, 200, dtype=torch.float64)) @ Q.T))


@pytest.fixture(scope="module")
def poisson():
    problem, model = pl.problems.poisson(dim=1), pl.models.fourier(20)
    residual = problem.residual(model, interior=100, boundary=2, weights={"boundary": 0.01})
    return pl.Gram(pl.Jacobian(residual)), pl.preconditioners.symbol(problem, model, weights={"boundary": 0.01})


def test_the_symbol_wins_on_poisson_and_says_why(poisson):
    A, symbol = poisson
    found = design(A, budget=150, candidates={"symbol": symbol})
    assert found.best.name == "symbol" and found.preconditioner is symbol
    assert found.best.steps <= 6 and found.best.condition.upper < 1.2
    assert "symbol needs" in found.reason and "without a preconditioner" in found.reason
    assert {"none", "jacobi", "nystrom, rank 10"} <= {c.name for c in found.candidates}
    assert "symbol" in str(found).splitlines()[1]


def test_measured_steps_are_those_of_scipy(poisson):
    """SciPy's iterates, and the error in the norm of the dense A."""
    A, _ = poisson
    found = design(A, budget=150)
    seed = int(torch.randint(2**31, (), generator=torch.Generator().manual_seed(0)))
    x = A.domain.random(generator=torch.Generator().manual_seed(seed)).numpy()
    dense = A.dense().numpy()
    for candidate in found.candidates:
        if not candidate.status.ok:
            continue
        errors = [x @ dense @ x]
        cg(dense, dense @ x, M=candidate.preconditioner, rtol=0.0, atol=0.0, maxiter=int(candidate.steps) + 2,
           callback=lambda y, errors=errors: errors.append((x - y) @ dense @ (x - y)))  # fmt: skip
        expected = int(np.flatnonzero(np.array(errors) <= 1e-12 * errors[0])[0])
        assert abs(expected - candidate.steps) <= 1 + 0.05 * expected, candidate.name  # round-off delays either


@pytest.mark.parametrize("seed", [0, 1])
def test_a_small_residual_is_no_small_loss(seed):
    """The residual weights modes by λ², the loss by λ: an OK means that the loss has fallen, by either solver."""
    A = _decades(3, seed)
    x = A.domain.random(generator=torch.Generator().manual_seed(seed))
    by_residual = pl.krylov.cg(A, A @ x, rtol=1e-6)
    weak = (A.J @ (x - by_residual.x)).norm() / (A.J @ x).norm()
    assert by_residual.status.ok and weak > 1e-5  # what a residual would have called solved
    found = trial(A, x, rtol=1e-6, maxiter=5000)
    assert found.status.ok and found.steps > 1.2 * by_residual.steps
    solution = pl.krylov.cg(A, A @ x, rtol=0.0, maxiter=found.steps)
    assert (A.J @ (x - solution.x)).norm() <= 1e-6 * (A.J @ x).norm()
    before = pl.krylov.cg(A, A @ x, rtol=0.0, maxiter=found.steps - 1)
    assert (A.J @ (x - before.x)).norm() > 1e-6 * (A.J @ x).norm()


def test_hard_modes_are_not_called_solved():
    A = _decades(7, 0)
    (plain,) = [c for c in design(A, budget=500).candidates if c.name == "none"]
    x = A.domain.random()
    by_residual = pl.krylov.cg(A, A @ x, rtol=1e-6, maxiter=500)
    assert by_residual.status.ok and (x - by_residual.x).norm() > 0.5 * x.norm()
    assert plain.status is DesignStatus.UNFINISHED and plain.steps >= 1e6


def test_no_candidate_knows_the_start():
    """Ten eigenvalues, each eight times: the Krylov space of the default start vector would hold the solution."""
    A = Dense(torch.diag(torch.arange(1.0, 11.0, dtype=torch.float64).repeat(8)), positive=True)

    def coarse(A):
        powers = [A.domain.random(1)]
        for _ in range(9):
            powers.append(torch.linalg.qr(A.forward(powers[-1])).Q)
        basis = torch.linalg.qr(torch.cat(powers, dim=1)).Q
        return pl.preconditioners.two_level(A, Identity(A.domain), basis)

    for generator in (None, torch.Generator().manual_seed(0)):
        found = design(A, budget=200, candidates={"mine": coarse}, generator=generator)
        (mine,) = [c for c in found.candidates if c.name == "mine"]
        assert mine.status.ok and mine.steps >= 8


def test_ranking_is_by_products_and_repeats_exactly():
    A = gallery.power(80, exponent=3, generator=torch.Generator().manual_seed(0)).operator
    first, second = design(A, budget=100), design(A, budget=100)
    assert [c.name for c in first.candidates] == [c.name for c in second.candidates]
    finished = [c.num_matvecs for c in first.candidates if c.status.ok]
    assert finished == sorted(finished)
    unfinished = [c for c in first.candidates if c.status is DesignStatus.UNFINISHED]
    assert all(c.steps >= c.predicted >= 0.5 * math.sqrt(c.condition.lower) * math.log(2e6) for c in unfinished)
    assert all(c.steps <= c.predicted + 1 for c in first.candidates if c.status.ok and c.condition.upper < math.inf)


def test_products_inside_a_preconditioner_are_counted():
    A = gallery.power(60, exponent=2, generator=torch.Generator().manual_seed(0)).operator

    def polynomial(A):
        return pl.preconditioners.lanczos_polynomial(A, degree=3)

    found = design(A, budget=200, candidates={"polynomial": polynomial})
    (mine,) = [c for c in found.candidates if c.name == "polynomial"]
    assert mine.step_matvecs == 7 and mine.num_matvecs == mine.setup_matvecs + 7 * mine.steps
    assert all(c.step_matvecs == 1 for c in found.candidates if c is not mine)


def test_what_cannot_be_built_is_listed_with_its_reason():
    def fails(A):
        raise ValueError("not for this operator")

    found = design(Diagonal(torch.arange(1.0, 31.0, dtype=torch.float64)), budget=60, candidates={"mine": fails})
    (mine,) = [c for c in found.candidates if c.name == "mine"]
    assert mine.status is DesignStatus.REFUSED and "not for this operator" in mine.reason
    assert found.candidates[-1] is mine and "not for this operator" in str(found)


def test_a_construction_pays_for_the_eigenvectors_it_computes():
    A = gallery.power(60, exponent=2, generator=torch.Generator().manual_seed(0)).operator
    taken = []

    def deflated(A):
        before = A.num_matvecs
        pairs = pl.spectrum.eigsh(A, 5, which="LA", tol=1e-3)
        taken.append(A.num_matvecs - before)
        return pl.preconditioners.deflation(pairs.values, pairs.vectors)

    def known(A):
        return Preconditioner(Identity(A.domain), "Known", setup_matvecs=7)

    found = {c.name: c for c in design(A, budget=300, candidates={"mine": deflated, "known": known}).candidates}
    assert found["mine"].preconditioner.setup_matvecs == 0 and found["mine"].setup_matvecs == taken[0] > 5
    assert found["known"].setup_matvecs == 7


@pytest.mark.parametrize("make", [lambda J: Gram(J), lambda J: Product(J.H, J)])
def test_no_candidate_exceeds_the_budget(make):
    """Products are counted at J itself, whatever a construction goes through: A, its factor, J, or a dense copy."""
    n, budget = 400, 50
    J = _Counted(torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    spent, library = [], dict(_library(make(J), budget, 0.0, torch.Generator()))

    def each(maker, A):
        before = J.columns
        try:
            return maker(A)
        finally:
            spent.append((J.columns - before) / 2)

    def through_J(A):
        return pl.preconditioners.sketch(A.J if isinstance(A, Gram) else A.factors[1])

    wrapped = {f"my {name}": partial(each, maker) for name, maker in library.items()} | {
        "dense": partial(each, lambda A: Dense(A.dense(), positive=True)),
        "root": partial(each, lambda A: A.sqrt @ A.sqrt.H @ Dense(A.sqrt.dense() @ A.sqrt.dense().T, positive=True)),
    }
    if make(J).__class__ is Gram:
        wrapped["through J"] = partial(each, through_J)
    found = design(make(J), budget=budget, candidates=wrapped)
    assert len(spent) == len(wrapped) and max(spent) <= budget
    refused = {c.name: c.reason for c in found.candidates if c.status is DesignStatus.REFUSED}
    assert {"my block_jacobi", "dense", "root"} <= refused.keys()
    assert "more than the budget of 50 products" in refused["my block_jacobi"]
    begun = J.columns
    design(make(J), budget=budget)
    assert (J.columns - begun) / 2 <= (len(library) + 1) * (3 * budget + 20)


def test_the_winner_may_be_used_beyond_the_budget():
    A = gallery.power(60, exponent=2, generator=torch.Generator().manual_seed(0)).operator
    found = design(A, budget=200, candidates={"mine": lambda A: pl.preconditioners.lanczos_polynomial(A, degree=3)})
    (mine,) = [c for c in found.candidates if c.name == "mine"]
    expected = pl.preconditioners.lanczos_polynomial(A, degree=3)
    before = A.num_matvecs
    V = A.domain.random(100)
    torch.testing.assert_close(mine.preconditioner @ V, expected @ V)
    assert A.num_matvecs - before == 2 * 6 * 100
    assert mine.preconditioner.state_dict().keys() == expected.state_dict().keys()


def test_layers_are_seen_through_the_counting():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1)).double()
    A = pl.Gram(pl.Jacobian(pl.problems.poisson(dim=1).residual(model, interior=40)))
    found = {c.name: c for c in design(A, budget=60, damping=1e-3).candidates}
    assert found["kfac"].preconditioner is not None and found["kfac"].setup_matvecs == 1
    assert found["block_jacobi"].preconditioner is not None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "OutOfMemoryError: CUDA out of memory"),
        (MemoryError("no room"), "MemoryError: no room"),
        (ArithmeticError("not converged"), "ArithmeticError: not converged"),
    ],
)
def test_a_candidate_that_fails_does_not_end_the_table(error, message):
    def fails(A):
        raise error

    A = Diagonal(torch.arange(1.0, 31.0, dtype=torch.float64))
    found = design(A, budget=60, candidates={"mine": fails})
    (mine,) = [c for c in found.candidates if c.name == "mine"]
    assert mine.status is DesignStatus.REFUSED and mine.reason == message and found.best.status.ok


@pytest.mark.parametrize("entry", [-1.0, math.nan, -1e-3])
def test_an_operator_that_is_not_positive_is_refused_with_its_reason(entry):
    entries = torch.arange(1.0, 31.0, dtype=torch.float64)
    entries[3] = entry
    found = design(Dense(torch.diag(entries), positive=True), budget=200)
    assert found.preconditioner is None and found.best.status is DesignStatus.REFUSED
    assert ("not finite" if math.isnan(entry) else "NotPositive") in found.reason and "inf" not in found.reason
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["reason"] == found.reason in str(found)


def test_a_preconditioner_that_is_not_positive_is_refused():
    A = Diagonal(torch.arange(1.0, 31.0, dtype=torch.float64))
    wrong = Dense(torch.diag(torch.cat([-torch.ones(3), torch.ones(27)]).double()), positive=True)
    found = design(A, budget=60, candidates={"wrong": wrong, "scipy": aslinearoperator(np.eye(30))})
    refused = {c.name: c.reason for c in found.candidates if c.status is DesignStatus.REFUSED}
    assert "not positive" in refused["wrong"] and "positive" in refused["scipy"]


def test_an_operator_of_scipy_is_declared_where_it_is_wrapped():
    A = aslinearoperator(np.diag(np.arange(1.0, 31.0)))
    with pytest.raises(ValueError, match=r"pl\.as_operator\(A, positive=True\)"):
        design(A)
    found = design(pl.as_operator(A, positive=True), budget=60)
    plain = next(c for c in found.candidates if c.name == "none")
    assert found.best.status.ok and plain.condition.upper == pytest.approx(30.0)


def test_the_table_shows_the_spectrum_and_what_the_construction_took(poisson):
    A, symbol = poisson
    found = design(A, budget=150, candidates={"symbol": symbol})
    values = torch.linalg.eigvalsh(A.dense())
    (plain,) = [c for c in found.candidates if c.name == "none"]
    assert plain.condition.smallest == pytest.approx(values[0].item(), rel=1e-6)
    assert plain.condition.largest == pytest.approx(values[-1].item(), rel=1e-6)
    (line,) = [line for line in str(found).splitlines() if line.startswith("none")]
    assert f"{plain.condition.smallest:.3g} … {plain.condition.largest:.3g}" in line
    assert {"κ", "spectrum", "set-up", "seconds", "predicted", "steps", "products"} <= set(str(found).split())


def test_damping_serves_a_singular_operator():
    A = gallery.singular(60, rank=20, generator=torch.Generator().manual_seed(0)).operator
    found = design(A, budget=80, damping=1e-3)
    assert found.best.status.ok
    assert found.best.condition.upper < math.inf


def test_the_result_is_json(poisson):
    A, symbol = poisson
    document = json.loads(json.dumps(design(A, budget=60, candidates={"symbol": symbol}).to_dict()))
    assert document["best"] == "symbol" and len(document["candidates"]) >= 5


@pytest.mark.parametrize(
    ("A", "options", "message"),
    [
        (Dense(torch.eye(3, dtype=torch.float64)), {}, "positive"),
        (Dense(torch.ones(2, 3, dtype=torch.float64)), {}, "square"),
        (Diagonal(torch.ones(3, dtype=torch.float64)), {"budget": 1}, "budget"),
        (Diagonal(torch.ones(3, dtype=torch.float64)), {"damping": -1.0}, "damping"),
        (Diagonal(torch.ones(3, dtype=torch.float64)), {"rtol": 0.0}, "rtol"),
    ],
)
def test_bad_arguments_are_refused(A, options, message):
    with pytest.raises(ValueError, match=message):
        design(A, **options)
