"""The design tries what applies, measures it, and ranks by what a solution costs."""

import json
import math

import pytest
import torch

import precondlab as pl
from precondlab.operators import Dense, Diagonal
from precondlab.preconditioners import DesignStatus, design
from precondlab.testing import gallery


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
    A, symbol = poisson
    best = design(A, budget=150, candidates={"symbol": symbol}).best
    b = (A @ A.domain.random(1, generator=torch.Generator().manual_seed(3)))[:, 0].numpy()
    from scipy.sparse.linalg import cg

    steps = []
    cg(A, b, M=best.preconditioner, rtol=1e-6, callback=lambda x: steps.append(1))
    assert abs(len(steps) - best.steps) <= 1


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
    ],
)
def test_bad_arguments_are_refused(A, options, message):
    with pytest.raises(ValueError, match=message):
        design(A, **options)
