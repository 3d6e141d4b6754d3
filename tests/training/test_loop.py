"""The training loop: every reason to stop, fresh points, validation."""

import pytest
import torch

import precondlab as pl
from precondlab.training import Outcome, train


def make(seed=0, width=12, interior=80):
    problem = pl.problems.poisson(dim=1)
    model = pl.models.mlp((1, width, 1), seed=seed)

    def sample(k):
        return problem.residual(model, interior=interior, weights={"interior": 1e-2}, rule="uniform", seed=k)

    return sample, pl.optim.LevenbergMarquardt(sample(1))


def quadratic(value=3.0):
    a = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    return a, pl.Map(lambda p: p["a"] - 1.0, {"a": a})


def test_the_goal_ends_it():
    sample, optimizer = make()
    done = train(optimizer, steps=60, goal=1e-4, sample=sample, patience=10)
    assert done.status is Outcome.OK
    assert done.history[-1].validation <= 1e-4
    assert [entry.step for entry in done.history] == list(range(1, len(done.history) + 1))
    assert all(entry.validation is None or entry.step % 2 == 0 for entry in done.history)


def test_budgets_end_it():
    _, optimizer = make()
    assert train(optimizer, steps=3).status is Outcome.STEPS
    done = train(optimizer, steps=100, seconds=1e-9)
    assert done.status is Outcome.SECONDS
    assert len(done.history) == 1


def test_a_callback_ends_it():
    seen = []
    _, optimizer = make()
    done = train(optimizer, steps=10, callbacks=[seen.append, lambda entry: entry.step == 4])
    assert done.status is Outcome.STOPPED
    assert seen == list(done.history)
    assert len(seen) == 4


def test_a_loss_that_no_longer_falls_is_named():
    a = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    r = pl.Map(lambda p: torch.stack([p["a"][0] - 2, 1 + 0 * p["a"][0]]), {"a": a})
    assert train(pl.optim.LevenbergMarquardt(r), steps=100, patience=5).status is Outcome.STALLED


def test_overfitting_to_few_points_is_named_and_fresh_points_avoid_it():
    sample, optimizer = make(width=30, interior=6)
    fixed = train(optimizer, steps=200, sample=sample, patience=10)
    assert fixed.status is Outcome.OVERFITTED
    sample, optimizer = make(width=30, interior=60)
    fresh = train(optimizer, steps=30, sample=sample, every=1, patience=10)
    assert fresh.history[-1].validation < 1e-2 * fixed.history[-1].validation


def test_fresh_points_come_in_turn():
    a, r = quadratic()
    drawn = []

    def sample(k):
        drawn.append(k)
        return pl.Map(lambda p: p["a"] - 1.0 + 0 * k, {"a": a})

    train(pl.optim.LevenbergMarquardt(r), steps=7, sample=sample, every=3, goal=-1.0)
    assert drawn == [0, 1, 2]


def test_a_breakdown_is_a_reason_and_leaves_the_parameters():
    a, r = quadratic()
    r = pl.Map(lambda p: p["a"].log(), {"a": a})
    optimizer = pl.optim.LevenbergMarquardt(r)
    with torch.no_grad():
        a.fill_(-1.0)
    assert train(optimizer, steps=5).status is Outcome.BREAKDOWN
    assert a.item() == -1.0


def test_bad_arguments_are_refused():
    _, optimizer = make()
    with pytest.raises(ValueError, match="steps ≥ 1"):
        train(optimizer, steps=0)
    with pytest.raises(ValueError, match="needs sample"):
        train(optimizer, steps=1, every=2)
