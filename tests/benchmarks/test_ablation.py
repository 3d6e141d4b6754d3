"""The ablation: its steps are those of dense iterations, its committed figures say what the text says."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch

import precondlab as pl
from precondlab import catalogue
from precondlab.bench import ablation as study
from precondlab.bench import ablation_show as show
from precondlab.bench.ablation_cases import CASES, METHODS, Case, _series

COMMITTED = Path(__file__).parent / "ablation" / "ablation.json"
POISSON = pl.problems.poisson()
SMALL = (
    Case("series", POISSON, lambda: _series(POISSON, 2), 20, 2, 1e-2, 150, 1e-8),
    Case("network", POISSON, lambda: pl.models.mlp((1, 5, 1), seed=0), 20, 2, 0.7, 60, 1e-3),
)


@pytest.fixture(scope="module")
def document():
    methods = ("none", "jacobi", "kfac", "chebyshev")
    return study.run(cases=SMALL, methods=methods, report=lambda line: None)


def found(document, case, method):
    return next(row for row in document["rows"] if (row["case"], row["method"]) == (case, method))


@pytest.mark.parametrize("method", ["none", "jacobi"])
def test_steps_on_a_linear_problem_are_those_of_dense_iterations(document, method):
    case, row = SMALL[0], found(document, "series", method)
    J = pl.Jacobian(case.residual(case.model()))
    matrix, r = J.dense().numpy(), J.value.numpy()
    A = matrix.T @ matrix
    M = np.eye(len(A)) if method == "none" else np.diag(1 / (np.diag(A) + 1e-8 * np.linalg.norm(A, 2)))
    rate, theta, steps = 1 / np.linalg.eigvals(M @ A).real.max(), np.zeros(len(A)), 0
    while np.sum((r + matrix @ theta) ** 2) > case.wanted * np.sum(r**2):
        theta, steps = theta - rate * M @ matrix.T @ (r + matrix @ theta), steps + 1
    assert abs(row["descent"]["steps"] - steps) <= 1
    assert abs(row["descent"]["predicted"] - steps) <= 1

    damped = A + 1e-8 * np.linalg.norm(A, 2) * np.eye(len(A))
    exact = np.linalg.solve(damped, -matrix.T @ r)
    x, residual, p, rz, inner = np.zeros(len(A)), damped @ exact, 0.0, np.inf, 0
    while (exact - x) @ damped @ (exact - x) > 1e-8 * exact @ damped @ exact:
        z = M @ residual
        p, rz = z + (residual @ z) / rz * p, residual @ z
        alpha = rz / (p @ damped @ p)
        x, residual, inner = x + alpha * p, residual - alpha * damped @ p, inner + 1
    assert row["lm"]["each"][0] == inner
    assert row["lm"]["predicted"] >= row["lm"]["steps"]  # κ promises an upper bound where J stays


def test_a_run_ends_where_the_loss_has_fallen_as_wanted(document):
    case, row = SMALL[1], found(document, "network", "none")["adam"]
    model = case.model()
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=row["rate"]), []
    for _ in range(row["steps"] + 1):
        J = pl.Jacobian(case.residual(model))
        losses.append(0.5 * J.value.square().sum().item())
        for name, block in J.domain.unravel(J.H @ J.value).items():
            model.get_parameter(name).grad = block
        optimizer.step()
    below = [k for k, loss in enumerate(losses) if loss <= case.wanted * losses[0]]
    assert below == [row["steps"]]


def test_what_does_not_end_has_no_speed_up():
    document = study.run(cases=(replace(SMALL[0], limit=2),), methods=("none", "jacobi"), report=lambda line: None)
    plain, scaled = document["rows"]
    assert plain["descent"]["steps"] is plain["descent"]["products"] is None and plain["descent"]["reached"] < 1
    assert scaled["speedup"]["descent"]["steps"] is None


def test_the_document_is_complete_and_drawn(document, tmp_path):
    assert document["ok"] and len(json.loads(json.dumps(document))["rows"]) == 8
    assert found(document, "series", "kfac")["status"] == "refused"
    polynomial = found(document, "series", "chebyshev")
    assert polynomial["step_matvecs"] == 5
    assert polynomial["descent"]["products"] == polynomial["setup_matvecs"] + 5 * polynomial["descent"]["steps"]
    plain = found(document, "series", "none")["speedup"]
    assert all(plain[name]["steps"] == 1 for name in study.OPTIMIZERS)
    assert show.draw(document, tmp_path).stat().st_size > 20_000
    assert [table.row_count for table in show.tables(document)] == [4, 4]


def test_every_preconditioner_of_the_parameters_takes_part():
    kinds = ("Operator", "Diagonal", "Sketched")
    library = {name for kind in kinds for name in catalogue.factories(pl.preconditioners, kind)}
    assert set(METHODS) - {"none"} == library - {"greens_operator"}  # that one acts on the residual


def test_what_is_committed_says_what_the_text_says():
    document = json.loads(COMMITTED.read_text(encoding="utf-8"))
    rows = [row for row in document["rows"] if row["status"] == "ok"]
    assert {row["method"] for row in document["rows"]} == set(METHODS)
    assert [case["name"] for case in document["cases"]] == [case.name for case in CASES]
    assert study.compared(document["rows"]) == document["rows"]
    straight = {case.name for case in CASES if case.linear}
    linear = [row for row in rows if row["case"] in straight]
    assert len(linear) == 42 and all(row["descent"]["steps"] == row["descent"]["predicted"] for row in linear)
    bent = [row for row in rows if row["case"] not in straight and row["method"] != "none"]
    reached = [row["speedup"]["descent"]["steps"] for row in bent if row["descent"]["steps"]]
    assert max(reached) < 4 and len(reached) < len(bent) / 2
    assert 0.9 < median(row["speedup"]["adam"]["steps"] for row in rows) < 1.1
    assert all(row["speedup"]["lm"]["steps"] < 1 for row in bent if row["lm"]["steps"])
    promised = [lm for row in bent if (lm := row["speedup"]["lm"])["predicted"] and lm["predicted"] > 20]
    assert len(promised) == 11
    assert min(lm["remade"] for lm in promised) > 3 and max(lm["remade"] for lm in promised) > 30
    follows = [row["speedup"]["descent"]["remade"] for row in bent if row["descent"]["remade"]["steps"]]
    assert max(follows) > 10 and len(follows) == 17
