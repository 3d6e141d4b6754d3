"""The benchmark of training: its clock, what it keeps, what it concludes, and that every way trains."""

import itertools
import json
import math

import pytest
import torch
from torch import nn

from precondlab import problems
from precondlab.bench import training, training_show
from precondlab.bench.training_cases import CASES, descend, select, slabwise
from precondlab.bench.training_trial import Trial
from precondlab.bench.ways.training import WAYS, Training
from precondlab.models import mlp


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Scaled(nn.Module):
    """A constant c times the solution, so that its relative error is ``|1 − c|``; evaluation takes a second."""

    def __init__(self, problem, constant, clock=None):
        super().__init__()
        self.constant, self.exact, self.clock = (
            nn.Parameter(torch.tensor(constant, dtype=torch.float64)),
            problem.exact,
            clock,
        )

    def forward(self, x):
        if self.clock is not None:
            self.clock.now += 1.0
        return self.constant * self.exact(x)


def test_a_trial_measures_off_the_clock_at_spaced_times():
    problem, clock = problems.heat_rod(), Clock()
    trial = Trial(problem, seed=0, seconds=100.0, clock=clock)
    for step in range(1, 2001):
        clock.now += 0.1
        if trial(Scaled(problem, 1 - 1 / step, clock), loss=step):
            break
    assert step == pytest.approx(1000, abs=1)
    assert trial.elapsed == pytest.approx(100.0, abs=0.11) and trial.off > 60.0
    assert 20 <= len(trial.curve["seconds"]) <= 30
    assert trial.curve["error"] == pytest.approx([1 / step for step in trial.curve["steps"]])
    assert trial.curve["largest"] == pytest.approx(trial.curve["error"])
    assert trial.curve["seconds"] == pytest.approx([0.1 * step for step in trial.curve["steps"]])


def test_a_model_that_is_no_number_is_recorded_as_such():
    problem = problems.heat_rod()
    trial = Trial(problem, seed=0, seconds=1.0)
    assert math.isnan(trial.measure(Scaled(problem, math.nan)))
    assert trial.curve["error"] == [None] and json.dumps(trial.curve, allow_nan=False)


def test_the_last_step_is_measured_once():
    problem = problems.heat_rod()
    trial = Trial(problem, seed=0, seconds=1e-9)
    trial(Scaled(problem, 0.5))
    trial.finish()
    assert len(trial.curve["error"]) == 1
    trial(Scaled(problem, 0.25))  # nothing is due any more
    trial.finish()
    assert trial.curve["error"] == pytest.approx([0.5, 0.75])


def test_a_trial_needs_a_solution():
    problem = problems.Problem("p", ((0.0, 1.0),), problems.poisson().equation, (), source=torch.sin)
    with pytest.raises(ValueError, match="no exact solution"):
        Trial(problem, seed=0, seconds=1.0)


class Ticking(Clock):
    """Passes by 0.01 whenever it is read, so that a number of steps is made on any machine."""

    def __call__(self):
        self.now += 0.01
        return self.now


@pytest.mark.parametrize("way", [way for way in WAYS if way != "random features"])
def test_every_way_trains(way):
    (case,) = select(["poisson-2d"])
    trial = Trial(case.problem(), seed=1, seconds=1.0 if way == "Adam" else 0.15, clock=Ticking())
    assert WAYS[way][1](case, trial) == "time used up"
    trial.finish()
    assert trial.steps >= 3 and trial.parameters == 257
    losses = [loss for loss in trial.curve["loss"] if loss is not None]
    assert len(losses) >= 3
    assert losses[-1] < losses[0] or way == "SPRING"  # which need not descend


def test_random_features_solve_by_growing_width():
    found = Training(None, case="poisson-2d", way="random features", seed=1, processor=0.2).outcome()
    assert found["status"] == "done" and found["processor_seconds"] >= 0.2
    assert found["curve"]["error"][-1] < 1e-8 and "width 250" in found["reason"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_can_be_built(case):
    problem, model = case.problem(), case.network(0)
    residual = problem.residual(model, **case.sampling)
    assert residual.codomain.size > residual.domain.size
    assert problem.error(model, points=50) > 0.01  # there is something to train
    assert case.targets and all(error > 0 and seconds > 0 for error, seconds in case.targets)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_our_recipe_trains(case):
    """On a clock that ticks by the look, about ten steps."""
    trial = Trial(case.problem(), seed=0, seconds=100.0, clock=itertools.count(step=3.0).__next__)
    assert isinstance(case.ours(case, trial), str)
    trial.finish()
    losses = [loss for loss in trial.curve["loss"] if loss is not None]
    assert min(losses) < 0.5 * losses[0]


def test_descent_ends_where_nothing_moves():
    problem = problems.heat_rod()
    trial, model = Trial(problem, seed=0, seconds=60.0), mlp((2, 1), seed=0)  # linear: solved by some steps
    assert descend(trial, model, interior=50, boundary=20) == "nothing reduces the loss"
    assert trial.left > 0


def test_slabs_are_shown_as_one_model():
    shapes = []
    case = select(["convection"])[0]

    class Watched(Trial):
        def __call__(self, model, loss=None):
            shapes.append((len(model.models), model.edges))
            return super().__call__(model, loss)

    trial = Watched(case.problem(), seed=0, seconds=0.01)
    slabwise(case, trial, slabs=2, network=lambda seed: mlp((2, 4, 1), seed=seed), interior=20, boundary=20)
    assert shapes[0] == (1, (0.0, 0.5)) and shapes[-1] == (2, (0.0, 0.5, 1.0))
    assert trial.curve["error"][-1] is not None


def campaign(path, **options):
    lines = []
    options = {"cases": select(["poisson-2d"]), "ways": ("Adam", "L-BFGS"), "seeds": 1, "seconds": 0.2} | options
    return training.run(path=path, report=lines.append, **options), lines


def test_a_run_in_a_process_of_its_own(tmp_path):
    document, lines = campaign(tmp_path / "training.json", ways=("L-BFGS",))
    (found,) = document["runs"]
    assert found["status"] == "done" and found["processor_seconds"] >= 0.2 and document["ok"]
    assert {"case", "way", "seed", "budget", "curve", "reason", "wall_seconds"} <= found.keys()
    assert lines[0].startswith("1 runs of 1") and "L-BFGS, seed 0: error" in lines[1]


@pytest.fixture
def fake(monkeypatch):
    """Runs that take no time; the second one of a campaign may end the process."""
    made = []

    class Absent:
        def __init__(self, *arguments, **options):
            self.timeout = None

        def close(self):
            pass

    def ask(worker, row):
        if worker.timeout is None:  # the warm-up
            return {}
        made.append((row["case"], row["way"], row["seed"]))
        if row["way"] == "SPRING":
            raise training.Failed("the process ended with exit code -9")
        curve = {"seconds": [0.1, 0.2], "error": [0.5, 0.25], "steps": [1, 2], "loss": [None, 1.0]}
        return {"status": "done", "reason": "", "steps": 2, "processor_seconds": 0.2, "curve": curve}

    monkeypatch.setattr(training, "Worker", Absent)
    monkeypatch.setattr(training, "_ask", ask)
    return made


def test_a_campaign_goes_on_where_it_was_interrupted(tmp_path, fake):
    path = tmp_path / "training.json"
    document, _ = campaign(path)
    assert json.loads(path.read_text()) == document and len(fake) == 2

    document, lines = campaign(path, seeds=2, ways=("Adam",))
    assert lines[0].startswith("1 runs of 2") and fake[2:] == [("poisson-2d", "Adam", 1)]
    assert len(document["runs"]) == 3

    document, _ = campaign(path, again=True, ways=("L-BFGS",))
    assert fake[3:] == [("poisson-2d", "L-BFGS", 0)] and len(document["runs"]) == 3

    document, _ = campaign(path, seconds=9.0, ways=("Adam",))  # another budget is another run
    assert len(fake) == 5 and len(document["runs"]) == 3
    assert training_show.draw(document, tmp_path).stat().st_size > 10_000
    (table,) = training_show.tables(document)
    assert table.row_count == 2


def test_two_campaigns_can_share_a_file(tmp_path, fake):
    path = tmp_path / "training.json"
    inner = []

    def report(line):
        if line.startswith("1/2") and not inner:
            inner.append(campaign(path, ways=("SPRING",)))

    options = {"cases": select(["poisson-2d"]), "ways": ("Adam", "L-BFGS"), "seeds": 1, "seconds": 0.2}
    training.run(path=path, report=report, **options)
    assert {found["way"] for found in json.loads(path.read_text())["runs"]} == {"Adam", "L-BFGS", "SPRING"}


def test_a_run_that_fails_is_told_and_does_not_end_the_campaign(tmp_path, fake):
    document, lines = campaign(tmp_path / "training.json", ways=("SPRING", "Adam"))
    assert sorted(found["status"] for found in document["runs"]) == ["done", "failed"]
    assert "exit code -9" in " ".join(lines) and not document["ok"]
    failed = next(found for found in document["summary"] if found["way"] == "SPRING")
    assert failed["error"] is None and failed["failed"] == 1
    assert training_show.tables(document)[0].row_count == 2
    assert training_show.draw(document, tmp_path).exists()


def row(seed, seconds, errors, *, way="SPRING", status="done"):
    curve = {"seconds": seconds, "error": errors}
    return {"case": "poisson-2d", "way": way, "seed": seed, "budget": 200.0, "status": status, "curve": curve}


def test_the_summary_takes_medians_and_times_to_targets():
    runs = [
        row(0, [10.0, 20.0, 40.0], [1e-3, 5e-7, 2e-7]),
        row(1, [10.0, 25.0, 190.0], [1e-3, 9e-7, 1e-8]),
        row(2, [10.0, 30.0, 60.0], [1e-3, None, None]),
    ]
    (found,) = training.summary(runs)
    assert found["error"] == 2e-7 and found["largest"] is None and found["least"] == 1e-8
    assert found["best"] == 2e-7
    first, second = found["targets"]
    assert first == {"error": 1e-6, "limit": 30, "seconds": 25.0, "reached": 2, "met": True}
    assert second == {"error": 1e-7, "limit": 180, "seconds": None, "reached": 1, "met": False}
    (late,) = training.summary([row(0, [31.0], [1e-8])])
    assert [target["met"] for target in late["targets"]] == [False, True]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: select(["nowhere"]), "expected names of cases among poisson-2d, .* got nowhere"),
        (lambda: training.select_ways(["magic"]), "expected names of ways among Levenberg–Marquardt, .* got magic"),
        (lambda: training.run(seeds=0), "expected seeds and jobs ≥ 1 and seconds > 0"),
        (lambda: training.run(seconds=-1.0), "expected seeds and jobs ≥ 1 and seconds > 0"),
        (lambda: training.run(jobs=10_000), "10000 jobs need as many cores"),
    ],
)
def test_mistakes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_file_of_something_else_is_not_overwritten(tmp_path):
    path = tmp_path / "training.json"
    path.write_text('{"benchmark": "spectra"}')
    with pytest.raises(ValueError, match="is no document of this benchmark"):
        campaign(path)
    assert path.read_text() == '{"benchmark": "spectra"}'
