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
    _, r = quadratic()
    with pytest.raises(TypeError, match=r"got Adam; .*pl.optim.Preconditioned"):
        train(torch.optim.Adam(list(r.params.values())), steps=1)


def test_validation_on_a_plateau_far_above_the_loss_is_overfitting():
    problem, model = pl.problems.poisson(dim=1), pl.models.mlp((1, 20, 1), seed=5)

    def sample(k):
        return problem.residual(model, interior=5, weights={"interior": 1e-2}, rule="uniform", seed=k + 500)

    done = train(pl.optim.LevenbergMarquardt(sample(1)), steps=300, sample=sample, patience=10)
    assert done.status is Outcome.OVERFITTED and not done.status.ok
    assert done.history[-1].loss < 1e-12


class Scripted:
    """Losses as given; the residual tells their validation apart by its number."""

    def __init__(self, losses):
        self.losses = iter(losses)
        self.a, self.residual = quadratic()

    def step(self):
        return torch.tensor(next(self.losses))


@pytest.mark.parametrize(
    ("losses", "validations", "expected"),
    [
        ([1.0] * 9, [5.0] * 9, Outcome.STALLED),  # about equal
        ([1.0] * 9, [500.0] * 9, Outcome.OVERFITTED),  # flat, far above
        ([2.0**-k for k in range(9)], [500.0 * (1 + 1e-15 * k) for k in range(9)], Outcome.OVERFITTED),
        ([2.0**-k for k in range(9)], [500.0 * 0.9**k * (1 + k % 2) for k in range(9)], Outcome.STEPS),  # it falls
        ([2.0**-k for k in range(9)], [5e-3] * 9, Outcome.STEPS),  # below or equal
        ([1.0, *[11.0] * 8], [1e9] * 9, Outcome.DIVERGED),
        ([1.0, *[9.0] * 8], [9.0] * 9, Outcome.STALLED),
    ],
)
def test_the_reason_follows_from_loss_and_validation(losses, validations, expected, monkeypatch):
    values = iter(validations)
    monkeypatch.setattr("precondlab.training.loop._loss", lambda residual: next(values))
    optimizer = Scripted(losses)
    done = train(optimizer, steps=9, sample=lambda k: optimizer.residual, patience=5)
    assert done.status is expected


def test_a_step_that_is_too_long_is_divergence_and_no_success():
    a, r = quadratic()
    done = train(pl.optim.GradientDescent(r, lr=10.0), steps=60)
    assert done.status is Outcome.DIVERGED and not done.status.ok and "lr" in done.status.advice
    with torch.no_grad():
        a.fill_(3.0)
    assert train(pl.optim.GradientDescent(r, lr=1e30), steps=60).status is Outcome.DIVERGED  # it overflows


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_a_loss_at_round_off_is_as_good_as_it_gets(dtype, scale):
    problem, model = pl.problems.poisson(dim=1), pl.models.mlp((1, 12, 1), seed=0, dtype=dtype)
    r = problem.residual(model, interior=5, weights={"interior": scale, "boundary": scale})
    done = train(pl.optim.SelfScaledBroyden(r), steps=400, patience=20)
    assert done.status is Outcome.ROUNDOFF and done.status.ok
    coarse = train(
        pl.optim.GradientDescent(problem.residual(model, interior=40, seed=1), lr=1e-12), steps=30, patience=5
    )
    assert coarse.status is Outcome.STALLED


def test_a_history_is_gone_on_with():
    _, optimizer = make()
    first = train(optimizer, steps=4)
    both = train(optimizer, steps=6, history=first.history)
    assert both.history[:4] == first.history
    assert [entry.step for entry in both.history] == [1, 2, 3, 4, 5, 6]
    assert both.history[4].seconds > both.history[3].seconds
    assert train(optimizer, steps=6, history=both.history).history == both.history
