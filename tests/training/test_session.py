"""A training run in several sittings is the run in one, bit for bit."""

import math
from functools import partial

import pytest
import torch

import precondlab as pl
from precondlab.checkpoint import Autosave, load
from precondlab.errors import CheckpointError
from precondlab.models import mlp
from precondlab.preconditioners import nystrom
from precondlab.problems import heat_rod, poisson_sines
from precondlab.training import Outcome, Session
from precondlab.training.optimizers import LBFGS, LevenbergMarquardt, NewtonCG, Preconditioned


def session(every=0, *, make=LevenbergMarquardt, seed=0, problem=None, single=0, **points):
    problem, model = problem or heat_rod(), mlp((2, 6, 1), seed=seed)
    return Session(
        model,
        make,
        lambda number: problem.residual(model, **{"interior": 40, "boundary": 16, "seed": number} | points),
        error=lambda: problem.error(model, 400),
        every=every,
        single=single,
    )


def parameters(session):
    return torch.cat([p.detach().reshape(-1) for p in session.model.parameters()])


def preconditioned(residual, *, drift=None):
    """M is made in the first step and outlives the points it was made on."""
    base = torch.optim.Adam(residual.params.values(), lr=1e-2)
    return Preconditioned(residual, base, make=partial(nystrom, rank=9, damping=1e-3), every=None, drift=drift)


MAKES = [LevenbergMarquardt, LBFGS, NewtonCG, preconditioned, partial(preconditioned, drift=1e3)]


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize(("every", "single"), [(0, 0), (3, 0), (0, 7), (3, 5)])
def test_two_sittings_are_one(every, single, make, tmp_path):
    whole = session(every, make=make, single=single)
    assert whole.run(steps=11) is Outcome.STEPS

    first = session(every, make=make, single=single)
    save = Autosave(tmp_path, every=0)
    save(first)
    assert first.run(steps=7, callbacks=[save]) is Outcome.STEPS
    second = session(every, make=make, single=single)
    Autosave(tmp_path)(second)
    assert second.steps == 7
    second.run(steps=11)
    assert torch.equal(parameters(second), parameters(whole))
    assert second.optimizer.diagnostics == whole.optimizer.diagnostics
    assert [row["loss"] for row in second.history] == [row["loss"] for row in whole.history]
    assert [row["step"] for row in second.history] == list(range(1, 12))


def test_fresh_points_are_fresh_and_validation_is_apart():
    asked = []
    running = session(every=2)
    sample = running.sample
    running.sample = lambda number: asked.append(number) or sample(number)
    running.run(steps=5)
    assert asked == [0, 2, 3]


def test_the_history_has_the_error_and_ends_with_it():
    running = session()
    running.run(steps=5)
    assert running.history[0]["error"] is not None
    assert running.history[-1]["error"] == pytest.approx(heat_rod().error(running.model, 400))
    assert running.history[-1]["validation"] > 0


def test_used_up_budgets_take_no_step():
    running = session()
    running.run(steps=2)
    before = parameters(running)
    assert running.run(steps=2) is Outcome.STEPS
    assert running.run(steps=9, seconds=running.seconds) is Outcome.SECONDS
    assert torch.equal(parameters(running), before)


def test_a_callback_ends_the_sitting():
    running = session()
    assert running.run(steps=9, callbacks=[lambda session: session.steps == 3]) is Outcome.STOPPED
    assert running.steps == 3


def test_the_state_of_another_network_is_refused(tmp_path):
    other = Session(
        model := mlp((2, 5, 1), seed=0),
        LevenbergMarquardt,
        lambda number: heat_rod().residual(model, interior=40, boundary=16, seed=number),
        error=lambda: 1.0,
    )
    running = session()
    before = parameters(running)
    with pytest.raises(ValueError, match="another training"):
        running.load_state_dict(other.state_dict())
    assert torch.equal(parameters(running), before)
    Autosave(tmp_path, every=0)(other)
    assert load(tmp_path)["history"].shape == (0, 5)


@pytest.mark.parametrize(
    "other",
    [
        {"problem": poisson_sines()},
        {"interior": 50},
        {"boundary": 18},
        {"weights": {"interior": 0.5}},
        {"every": 2},
        {"single": 3},
    ],
)
def test_the_state_of_another_training_is_refused(other, tmp_path):
    first, second = session(), session(**other)
    first.run(steps=2)
    before = parameters(second)
    with pytest.raises(ValueError, match="another training"):
        second.load_state_dict(first.state_dict())
    assert torch.equal(parameters(second), before)
    save = Autosave(tmp_path, every=0)
    save(session())
    with pytest.raises(CheckpointError, match="belongs to something else"):
        Autosave(tmp_path)(second)


def test_steps_in_single_precision_come_first_and_constants_stay_exact():
    seen = []
    problem, model = heat_rod(), mlp((2, 6, 1), seed=0)
    model.register_buffer("constant", torch.tensor(math.pi, dtype=torch.float64))
    frozen = next(model.parameters()).requires_grad_(False)
    before = frozen.clone()
    running = Session(
        model,
        LevenbergMarquardt,
        lambda number: problem.residual(model, interior=40, boundary=16, seed=number),
        error=lambda: problem.error(model, 400),
        single=3,
    )
    running.run(steps=5, callbacks=[lambda session: seen.append(session.optimizer.residual.domain.dtype)])
    assert seen == [torch.float32] * 3 + [torch.float64] * 2
    assert model.constant.item() == math.pi and torch.equal(frozen, before)
    losses = [row["loss"] for row in running.history]
    assert losses[3] == pytest.approx(losses[2], rel=1) and losses[4] < losses[0]


def test_single_precision_that_has_nothing_more_to_give_ends_early():
    model = torch.nn.Linear(1, 1, bias=False).double()

    def sample(number):
        like = model.weight
        return pl.Map(lambda p: like.new_tensor([[1.0], [0.0]]) * p["weight"] - like.new_tensor([[0.1], [1.0]]),
                      dict(model.named_parameters()))  # fmt: skip

    running = Session(model, LevenbergMarquardt, sample, error=lambda: abs(model.weight.item() - 0.1), single=1000)
    assert running.run(steps=1000) is Outcome.STALLED
    assert running.steps < 200
    assert model.weight.item() == pytest.approx(0.1, rel=1e-15)


def test_what_has_stalled_takes_no_further_step():
    model = torch.nn.Linear(1, 1, bias=False).double()
    r = pl.Map(lambda p: torch.cat([p["weight"] - 2.0, p["weight"] + 1.0]), dict(model.named_parameters()))
    running = Session(model, LevenbergMarquardt, lambda number: r, error=lambda: 1.0)
    assert running.run(steps=500) is Outcome.STALLED
    steps = running.steps
    again = Session(model, LevenbergMarquardt, lambda number: r, error=lambda: 1.0)
    again.record = running.record  # the model is no longer at the start
    again.load_state_dict(running.state_dict())
    assert again.run(steps=1000) is Outcome.STALLED and again.steps == steps


@pytest.mark.parametrize("wrong", [{"every": -1}, {"single": -1}])
def test_negative_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="every ≥ 0 and single ≥ 0"):
        session(**wrong)


def test_single_precision_needs_a_model_and_a_residual_that_follow():
    model = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="make the model in it"):
        Session(model, LevenbergMarquardt, lambda number: None, error=lambda: 1.0, single=3)
    model.double()
    r = pl.Map(lambda p: p["weight"] - 2.0, {"weight": model.weight.detach().clone().requires_grad_()})
    with pytest.raises(ValueError, match="dtype of the model"):
        Session(model, LevenbergMarquardt, lambda number: r, error=lambda: 1.0, single=3)
