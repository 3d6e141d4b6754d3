"""A training run in several sittings is the run in one, bit for bit."""

from functools import partial

import pytest
import torch

from precondlab.checkpoint import Autosave, load
from precondlab.models import mlp
from precondlab.preconditioners import nystrom
from precondlab.problems import heat_rod
from precondlab.training import Outcome, Session
from precondlab.training.optimizers import LBFGS, LevenbergMarquardt, NewtonCG, Preconditioned


def session(every=0, *, make=LevenbergMarquardt, seed=0):
    problem, model = heat_rod(), mlp((2, 6, 1), seed=seed)
    return Session(
        model,
        make,
        lambda number: problem.residual(model, interior=40, boundary=16, seed=number),
        error=lambda: problem.error(model, 400),
        every=every,
    )


def parameters(session):
    return torch.cat([p.detach().reshape(-1) for p in session.model.parameters()])


def preconditioned(residual, *, drift=None):
    """M is made in the first step and outlives the points it was made on."""
    base = torch.optim.Adam(residual.params.values(), lr=1e-2)
    return Preconditioned(residual, base, make=partial(nystrom, rank=9, damping=1e-3), every=None, drift=drift)


MAKES = [LevenbergMarquardt, LBFGS, NewtonCG, preconditioned, partial(preconditioned, drift=1e3)]


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("every", [0, 3])
def test_two_sittings_are_one(every, make, tmp_path):
    whole = session(every, make=make)
    assert whole.run(steps=11) is Outcome.STEPS

    first = session(every, make=make)
    save = Autosave(tmp_path, every=0)
    save(first)
    assert first.run(steps=7, callbacks=[save]) is Outcome.STEPS
    second = session(every, make=make)
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
    assert asked == [1, 0, 2, 3]


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
    with pytest.raises(ValueError, match="other parameters"):
        running.load_state_dict(other.state_dict())
    assert torch.equal(parameters(running), before)
    Autosave(tmp_path, every=0)(other)
    assert load(tmp_path)["history"].shape == (0, 5)
