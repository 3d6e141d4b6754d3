"""Loss weights by the condition number."""

import numpy as np
import pytest
import torch

import precondlab as pl
from precondlab.operators import Dense, Gram, Jacobian


@pytest.fixture
def A():
    residual = pl.problems.poisson(dim=1).residual(pl.models.fourier(5), interior=40, weights={"boundary": 3.0})
    return Gram(Jacobian(residual))


def test_the_weight_found_is_the_minimum_over_a_fine_grid(A):
    found = pl.preconditioners.balance(A, "boundary", bounds=(0.1, 1e4))
    k = np.r_[0.0, np.tile(np.arange(1.0, 6.0), 2)]
    v = np.r_[1 / np.sqrt(2 * np.pi), (-1.0) ** np.arange(1, 6) / np.sqrt(np.pi), np.zeros(5)]
    kappas = [np.linalg.cond(np.diag(k**4) + 2 * w * np.outer(v, v)) for w in np.geomspace(20, 27, 141)]
    assert found.condition.estimate <= min(kappas) * (1 + 1e-9)
    assert found.condition.estimate == pytest.approx(min(kappas), rel=1e-4)
    assert found.weight == pytest.approx(np.geomspace(20, 27, 141)[np.argmin(kappas)], rel=5e-3)


def test_the_present_weight_is_irrelevant(A):
    first = pl.preconditioners.balance(A, "boundary", bounds=(0.1, 1e4))
    again = pl.preconditioners.balance(A.reweighted({"boundary": 50.0}), "boundary", bounds=(0.1, 1e4))
    assert again.weight == pytest.approx(first.weight, rel=1e-5)


def test_a_preconditioner_may_depend_on_the_weight(A):
    problem, model = pl.problems.poisson(dim=1), pl.models.fourier(5)
    fixed = pl.preconditioners.symbol(problem, model, kernel=20.0)
    one = pl.preconditioners.balance(A, "boundary", preconditioner=fixed, bounds=(1e-5, 1.0))
    two = pl.preconditioners.balance(A, "boundary", preconditioner=lambda weight: fixed, bounds=(1e-5, 1.0))
    assert one == two
    assert one.weight == pytest.approx(np.pi / 400, rel=0.05)  # λ = 2π/γ², both ends


def test_a_minimum_at_a_bound_and_an_unknown_block_are_refused(A):
    with pytest.raises(ValueError, match="upper bound"):
        pl.preconditioners.balance(A, "boundary", bounds=(1e-3, 1.0))
    with pytest.raises(ValueError, match="unknown blocks"):
        pl.preconditioners.balance(A, "bondary")
    with pytest.raises(TypeError, match="named blocks"):
        pl.preconditioners.balance(Gram(Dense(torch.eye(2))), "boundary")
