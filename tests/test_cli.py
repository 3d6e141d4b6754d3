"""The command line, as a user types it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from precondlab import demo
from precondlab.cli import app
from precondlab.report import Row, Table

PROBLEM = '''
import torch
import precondlab as pl

def residual():
    """Well conditioned: r = D a, D = diag(1, 2, 3)."""
    a = torch.ones(3, dtype=torch.float64)
    return pl.Map(lambda p: p["a"] * torch.arange(1.0, 4.0, dtype=torch.float64), {"a": a})

def classic():
    """A model and a closure with torch.autograd.grad: numerically singular."""
    model = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    x = torch.linspace(-1, 1, 30, dtype=torch.float64).reshape(-1, 1).requires_grad_()
    def closure():
        (du,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return du - x
    return model, closure

def dropout():
    return torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout()), lambda: None

def number():
    return 3

def unlucky():
    return pl.Map(lambda p: p["a"].log(), {"a": -torch.ones(1)})
'''


@pytest.fixture
def problem(tmp_path):
    path = tmp_path / "problem.py"
    path.write_text(PROBLEM)
    return path


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_condition_of_a_users_residual(problem):
    result = run("condition", f"{problem}:residual")
    assert result.exit_code == 0
    assert "Gram(Jacobian[3×3, graph])" in result.stdout
    assert "9" in result.stdout


def test_json_is_one_document_on_stdout(problem):
    command = [sys.executable, "-m", "precondlab", "condition", f"{problem}:residual", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    document = json.loads(done.stdout)
    assert done.returncode == 0
    assert document["ok"] is True
    assert document["lower"] <= 9 <= document["upper"]
    assert document["environment"]["threads"] == 1


def test_a_singular_operator_exits_with_1_and_still_draws(problem, tmp_path):
    result = run("condition", f"{problem}:classic", "--json", "--out", tmp_path / "pictures", "--steps", 50)
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert document["ok"] is False
    assert document["upper"] is None
    assert document["rank"] < document["size"]
    for path in document["pictures"]:
        with open(path, "rb") as picture:
            assert picture.read(8) == b"\x89PNG\r\n\x1a\n"
    assert len(document["pictures"]) == 2


def test_spectrum_counts_eigenvalues_and_weighs_the_loss(problem, tmp_path):
    result = run("spectrum", f"{problem}:residual", "--out", tmp_path / "pictures")
    assert result.exit_code == 0
    assert "Seen from the residual" in result.stdout
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [
        "count.png",
        "density.png",
        "measure.png",
    ]
    document = json.loads(run("spectrum", f"{problem}:residual", "--json", "--num-probes", 50).stdout)
    assert document["largest"] == pytest.approx(9)
    assert document["counts"]["above 0.1 λmax"]["value"] == pytest.approx(3)  # 1, 4 and 9
    assert abs(document["trace"]["value"] - 14) <= 5 * document["trace"]["stderr"]
    np.testing.assert_allclose(document["measure"]["nodes"], [1, 4, 9])
    np.testing.assert_allclose(document["measure"]["weights"], [1, 4, 9])


def test_spectrum_of_a_singular_operator_leaves_counts_open(problem):
    document = json.loads(run("spectrum", f"{problem}:classic", "--json", "--num-matvecs", 8).stdout)
    count = document["counts"]["above 1e-09 λmax"]
    assert 0 < count["lower"] < count["upper"] <= document["size"] == 25


@pytest.mark.parametrize("command", ["condition", "spectrum"])
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("{}:absent", "has no function 'absent'; it defines residual, classic"),
        ("{}", "expected FILE.py:FACTORY"),
        ("nowhere.py:residual", "there is no Python file 'nowhere.py'"),
        ("{}:number", "should return a pl.Map or a pair"),
        ("{}:dropout", "call model.eval() first"),
        ("{}:unlucky", "not finite"),
    ],
)
def test_mistakes_end_in_one_line_and_exit_2(problem, command, target, message):
    result = run(command, target.format(problem))
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_a_file_that_does_not_import_says_why(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("import surely_not_installed")
    result = run("condition", f"{path}:make")
    assert result.exit_code == 2
    assert "surely_not_installed" in result.stderr


@pytest.mark.parametrize("name", ["burgers", "variable_diffusion"])
def test_precondition_offers_what_the_equation_gives(name):
    document = json.loads(run("precondition", name, "--frequencies", 3, "--budget", 30, "--json").stdout)
    tried = {c["name"]: c for c in document["candidates"]}
    for each in ("frozen", "symbol", "mass_stiffness"):
        assert tried[each]["condition"] is not None and tried[each]["setup_seconds"] > 0
    assert document["pictures"] == []


def test_precondition_draws_where_it_is_told(problem, tmp_path):
    result = run("precondition", f"{problem}:residual", "--budget", 20, "--out", tmp_path / "pictures")
    assert result.exit_code == 0 and "no preconditioner pays" in result.stdout
    assert (tmp_path / "pictures" / "precondition.png").stat().st_size > 5000


@pytest.fixture
def small_demo(monkeypatch):
    def set_tables(measured):
        tables = (lambda: Table("sums", [Row("1 + 1", "2.00", np.float64(measured))]),)
        monkeypatch.setattr(demo, "TABLES", tables)

    return set_tables


def test_demo_prints_tables_and_writes_pictures(small_demo, tmp_path):
    small_demo(2.0)
    result = run("demo", "--out", tmp_path)
    assert result.exit_code == 0
    assert "every number agrees with theory" in result.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "demo.json",
        "scaling.png",
        "spectrum.png",
        "training.png",
    ]
    assert json.loads((tmp_path / "demo.json").read_text())["ok"] is True


def test_demo_fails_where_a_number_disagrees(small_demo, tmp_path):
    small_demo(2.1)
    result = run("demo", "--out", tmp_path, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["tables"][0]["rows"][0]["agrees"] is False


def test_doctor_names_versions_and_missing_extras(monkeypatch):
    monkeypatch.setattr("precondlab.cli.doctor.find_spec", lambda name: None)
    assert "pip install 'precondlab[plot]'" in run("doctor").stdout
    document = json.loads(run("doctor", "--json").stdout)
    assert document["optional"]["deepxde"] is False
    assert document["torch"].startswith("2.")


SMALL = ("--width", 4, "--depth", 1, "--points", 32, "--steps", 6)


def test_train_says_how_far_it_got_and_goes_on(tmp_path):
    document = json.loads(run("train", "heat_rod", *SMALL, "--out", tmp_path, "--json").stdout)
    assert document["ok"] and document["status"] == "steps" and document["steps"] == 6
    assert document["error"] < 1 and document["parameters"] == 17
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "training.json", "training.png"]
    result = run("train", "heat_rod", *SMALL[:-1], 8, "--out", tmp_path)
    assert result.exit_code == 0 and "raise steps" in result.stdout
    history = json.loads((tmp_path / "training.json").read_text())["history"]
    assert [row["step"] for row in history] == list(range(1, 9))


def test_train_refuses_the_checkpoint_of_another_problem(tmp_path):
    assert run("train", "heat_rod", *SMALL, "--out", tmp_path).exit_code == 0
    result = run("train", "poisson_sines", *SMALL, "--out", tmp_path)
    assert result.exit_code == 2 and "belongs to something else" in " ".join(result.stderr.split())


def test_train_starts_in_single_precision():
    document = json.loads(run("train", "heat_rod", *SMALL, "--single", 3, "--json").stdout)
    assert document["status"] == "steps" and [document["steps"], document["ok"]] == [6, True]


def test_train_gathers_points():
    plain = json.loads(run("train", "heat_rod", *SMALL, "--every", 2, "--json").stdout)
    document = json.loads(run("train", "heat_rod", *SMALL, "--every", 2, "--adaptive", "--json").stdout)
    assert document["status"] == "steps" and document["error"] != plain["error"]


def test_train_makes_periodic_networks_for_periodic_problems():
    document = json.loads(run("train", "advection", *SMALL, "--every", 2, "--json").stdout)
    assert document["residual"] == "Map[21 parameters → {interior: 32, initial: 4}]"  # (2 + 1)·4 + 4 + 4 + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "expected the name of a problem, one of advection, "),
        (("heat_rod", "--optimizer", "simplex"), "expected an optimizer of levenberg-marquardt, "),
        (("heat_rod", "--weight", "-1"), "weights must be finite and ≥ 0"),
        (("heat_rod", "--seconds", "nan"), "seconds"),
        (("heat_rod", "--adaptive"), "--every"),
    ],
)
def test_mistakes_of_train_are_told(arguments, message):
    result = run("train", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
