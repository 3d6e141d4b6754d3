"""The benchmark of spectra: that it tells right from wrong results, not how fast anything is."""

import dataclasses
import io
import json

import mpmath
import numpy as np
import pytest

from precondlab.bench import spectra, spectra_show
from precondlab.bench.pool import Absent, Failed
from precondlab.bench.spectra_cases import QUICK, STUDIES, Goal, condition
from precondlab.bench.ways import Entry
from precondlab.bench.ways.spectral.computation import Budget, GaveUp
from precondlab.bench.ways.spectral.fourier import FourierPoisson, extremes
from precondlab.bench.ways.spectral.own import SyntheticTop
from precondlab.bench.worker import Server

COMPUTATIONS = """
import warnings
from precondlab.bench.ways.spectral.computation import Computation
from precondlab.bench.ways.spectral.fourier import FourierPoisson, extremes

class Wrong(Computation):
    def run(self):
        print("noise on stdout")
        return {"value": 2.0}

class Warns(Computation):
    def run(self):
        warnings.warn("not accurate")
        return {"value": float("nan")}

class Doubts(Computation):
    def run(self):
        return {"value": 2.0, "doubt": "not converged"}

class Endless(Computation):
    def run(self):
        while True:
            self.budget.spend()

class Raises(Computation):
    def run(self):
        raise RuntimeError("out of luck")

class Narrow(Computation):
    def run(self):
        smallest, largest = extremes(self.options["K"])
        kappa = largest / smallest
        return {"value": kappa, "interval": {"lower": 1.01 * kappa, "upper": 1.02 * kappa}}
"""


class Local:
    """A worker in this process."""

    def __init__(self, python, *, timeout):
        self.server = Server()

    def ask(self, verb, **arguments):
        answer = json.loads(json.dumps(self.server.answer(json.loads(json.dumps({"do": verb, **arguments})))))
        if not answer.pop("ok"):
            raise {"absent": Absent, "failed": Failed}[answer["kind"]](answer["reason"])
        return answer

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.fixture
def local(monkeypatch):
    monkeypatch.setattr(spectra, "Worker", Local)


@pytest.mark.parametrize("K", [1, 2, 7])
def test_closed_form_against_a_matrix(K):
    problem = FourierPoisson(K, Budget())
    J = np.stack([problem.forward(e) for e in np.eye(problem.size)], axis=1)
    eigenvalues = np.linalg.svd(J, compute_uv=False) ** 2
    assert extremes(K) == pytest.approx((eigenvalues[-1], eigenvalues[0]), rel=1e-12)
    assert problem.budget.spent == problem.size / 2
    x = np.random.default_rng(0).standard_normal(problem.size)
    assert problem.product(x) == pytest.approx(J.T @ (J @ x), rel=1e-12)
    assert problem.rotate_back(problem.rotate(x)) == pytest.approx(x, rel=1e-12)


@pytest.mark.parametrize("K", [200, 10_000])
def test_closed_form_against_50_digits(K):
    smallest, largest = extremes(K)
    with mpmath.workdps(50):
        d = [mpmath.mpf(k) ** 4 for k in range(1, K + 1)]

        def secular(x):
            return 1 - 1 / (mpmath.pi * x) + 2 / mpmath.pi * mpmath.fsum(1 / (each - x) for each in d)

        starts = (0.17, 0.18), (d[-1] + 0.62, d[-1] + 0.65)
        exact = [mpmath.findroot(secular, start, solver="secant", tol=1e-30) for start in starts]
        assert abs(exact[0] / smallest - 1) < 1e-14 and abs(exact[1] / largest - 1) < 1e-14


def test_budget_counts_and_ends():
    budget = Budget(products=1.5)
    for _ in range(3):
        budget.spend(0.5)
    with pytest.raises(GaveUp, match="no answer after"):
        budget.spend(0.5)


def test_what_goes_wrong_is_told_apart(tmp_path, local):
    file = tmp_path / "computations.py"
    file.write_text(COMPUTATIONS)
    names = ("Wrong", "Warns", "Doubts", "Endless", "Raises", "Narrow")
    study = condition(12, error=1e-6)
    dense = next(entry for entry in study.entries if "dense" in entry.name)
    entries = [dense, *(Entry(name, "others", f"{file}:{name}") for name in names)]
    entries.append(Entry("peer", "others", "spectral.peer_curvlinops:Top", environment="peers"))
    document = spectra.compare(
        dataclasses.replace(study, entries=tuple(entries), repeats=1, goals=(Goal("error", 1e-9, way=dense.name),))
    )
    rows = {row["way"]: row for row in document["rows"]}
    assert {way: row["status"] for way, row in rows.items()} == {
        dense.name: "right",
        "Wrong": "wrong",
        "Warns": "warned",
        "Doubts": "warned",
        "Endless": "gave up",
        "Raises": "failed",
        "Narrow": "wrong",
        "peer": "absent",
    }
    assert "not accurate" in rows["Warns"]["reason"] and "out of luck" in rows["Raises"]["reason"]
    assert "does not hold" in rows["Narrow"]["reason"]
    assert rows["Endless"]["products"] == pytest.approx(20 * 25, abs=1)
    assert document["targets"] == [
        {"figure": "error", "target": 1e-9, "measured": rows[dense.name]["error"], "met": True}
    ]
    assert json.loads(json.dumps(document, allow_nan=False))


def test_a_study_in_its_own_process():
    (study,) = spectra.select(["condition-40"], quick=True)
    document = spectra.run(studies=[dataclasses.replace(study, entries=study.entries[:1], repeats=1)])
    (row,) = document["studies"][0]["rows"]
    assert document["ok"] and all(goal["met"] for goal in document["studies"][0]["targets"])
    assert row["products"] <= 60 and row["cpu_seconds"] > 0 and row["total_mb"] > row["memory_mb"]


def test_quick_studies_pictures_and_tables(tmp_path, local):
    from rich.console import Console

    document = spectra.run(quick=True)
    assert document["ok"]
    assert [row["status"] for row in document["studies"][0]["rows"]] == [
        *("right", "gave up", "gave up", "gave up", "right", "gave up", "right", "gave up", "wrong", "right")
    ]
    assert {row["status"] for study in document["studies"][1:] for row in study["rows"]} == {"right"}
    assert all(row["runs"] == 3 for study in document["studies"][1:] for row in study["rows"])
    text = json.dumps(document, allow_nan=False)
    assert "/home" not in text and "/work" not in text and "/tmp" not in text
    assert spectra_show.draw(document, tmp_path).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    console = Console(record=True, width=160, file=io.StringIO())
    for table in spectra_show.tables(document):
        console.print(table)
    assert "targets: " in console.export_text() and "warned" not in console.export_text()


def test_a_small_basis_costs_few_more_products():
    (study,) = spectra.select(["memory-top"], quick=True)
    restarted, whole = (SyntheticTop(None, **study.options, **entry.options).outcome() for entry in study.entries)
    assert restarted["values"] == pytest.approx(study.truth, rel=1e-12)
    assert whole["products"] < restarted["products"] <= 1.5 * whole["products"]
    assert restarted["basis_mb"] < 0.5 * whole["basis_mb"]


def test_a_name_without_a_study_is_refused():
    with pytest.raises(ValueError, match=r"names of studies among condition-200.*got nothing"):
        spectra.select(["nothing"])


def test_every_study_says_what_it_aims_at():
    for study in (*STUDIES, *QUICK):
        ways = [entry.name for entry in study.entries]
        assert ways[0] == "precondlab" and len(set(ways)) == len(ways)
        assert study.truth is not None or study.reference is not None
        assert {goal.way for goal in study.goals} | {goal.against for goal in study.goals} <= {*ways, None}
