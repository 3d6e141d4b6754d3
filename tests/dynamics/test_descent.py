"""Steps of gradient descent: closed forms, and prediction against iteration."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precondlab.dynamics import descent, steps_bound
from precondlab.errors import Breakdown
from precondlab.operators import Diagonal


@given(seed=st.integers(0, 2**31), kappa=st.floats(1.5, 300), rule=st.sampled_from(["safe", "best"]))
def test_prediction_is_the_measurement_and_below_the_bound(seed, kappa, rule):
    A = Diagonal(torch.linspace(1, kappa, 7, dtype=torch.float64))
    start = torch.randn(7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    run = descent(A, start, rtol=1e-6, rule=rule)
    assert abs(run.predicted - run.measured) <= 1
    assert run.measured <= run.bound


def test_an_eigenvector_of_the_smallest_eigenvalue_attains_the_bound():
    A = Diagonal(torch.tensor([1.0, 50.0], dtype=torch.float64))
    run = descent(A, torch.tensor([1.0, 0.0], dtype=torch.float64), rtol=1e-8)
    assert run.measured == run.bound == math.ceil(math.log(1e-8) / math.log(1 - 1 / 50))


def test_bounds_have_their_closed_forms():
    assert steps_bound(1.0, rtol=1e-8) == 1
    assert steps_bound(3.0, rtol=0.25, rule="best") == 2


def test_a_singular_operator_and_too_few_steps_are_refused():
    with pytest.raises(Breakdown, match="not positive definite"):
        descent(Diagonal(torch.tensor([0.0, 1.0], dtype=torch.float64)), torch.ones(2, dtype=torch.float64))
    slow = Diagonal(torch.tensor([1e-6, 1.0], dtype=torch.float64))
    with pytest.raises(Breakdown, match="raise maxiter"):
        descent(slow, torch.ones(2, dtype=torch.float64), maxiter=1000)
    with pytest.raises(ValueError, match="rtol"):
        steps_bound(0.5, rtol=1e-3)
