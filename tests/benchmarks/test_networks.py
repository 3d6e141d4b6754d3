"""The study of networks: its steps are those of gradient descent, its committed figures say what the text says."""

import json
from pathlib import Path

import pytest
import torch

import precondlab as pl
from precondlab.bench import networks as study

COMMITTED = Path(__file__).parent / "networks" / "networks.json"


@pytest.fixture(scope="module")
def document():
    return study.run(networks=("Fourier features, P",), seeds=(0,), interior=60, real_steps=2, report=lambda line: None)


def linearized_error(row, theta):
    """Return the error of u + ⟨∇u, θ⟩ by finite differences."""
    model, problem = study.NETWORKS[row["network"]](row["seed"]), pl.problems.poisson()
    x = pl.problems.sampling.evaluation_points(problem.domain, 1000)
    start = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    values = []
    with torch.no_grad():
        for step in (0.0, 1e-5, -1e-5):
            torch.nn.utils.vector_to_parameters(start + step * theta, model.parameters())
            values.append(model(x))
        u = values[0] + (values[1] - values[2]) / 2e-5
        return ((u - problem.exact(x)).norm() / problem.exact(x).norm()).item()


def test_steps_are_those_of_gradient_descent(document):
    row = next(row for row in document["rows"] if row["method"] == "jacobi")
    J = pl.Jacobian(
        pl.problems.poisson().residual(study.NETWORKS[row["network"]](row["seed"]), interior=60), route="graph"
    )
    A = pl.Gram(J).dense()
    mu = document["damping"] * torch.linalg.eigvalsh(A)[-1]
    scale = 1 / (A.diagonal() + mu)
    rate = 1 / torch.linalg.eigvals(scale[:, None] * A).real.max()
    theta, r, steps = torch.zeros(len(A), dtype=torch.float64), J.value, 0
    residual = r
    while residual.square().sum() > document["wanted"] * r.square().sum():
        theta = theta - rate * scale * (J.H @ residual)
        residual, steps = r + J @ theta, steps + 1
        if steps == 100:
            assert row["loss_100"] == pytest.approx((residual.square().sum() / r.square().sum()).item(), rel=1e-6)
    assert abs(row["steps"] - steps) <= 1
    for _ in range(steps, 1000):
        theta = theta - rate * scale * (J.H @ (r + J @ theta))
    assert row["error"] == pytest.approx(linearized_error(row, theta), rel=1e-3)


def test_the_search_for_a_rate_ends_at_the_first_valley():
    assert study._search(lambda rate: (rate - 1) ** 2, 1.0, 4.0**3) == (1.0, 0.0)
    assert study._search(lambda rate: float("nan") if rate > 1e-3 else 1 - rate, 1.0, 1.0)[0] <= 1e-3
    assert study._search(lambda rate: 2.0, 1.0, 1.0) is None


def test_real_steps_reduce_the_loss(document):
    assert all(row["real_loss"] < 1 for row in document["rows"])


def test_the_document_is_complete_and_drawn(document, tmp_path):
    assert document["ok"]
    assert len(json.loads(json.dumps(document))["rows"]) == len(study.METHODS)
    assert [v["method"] for v in document["verdicts"]] == list(study.METHODS)[1:]
    assert study.draw(document, tmp_path).stat().st_size > 20_000
    (table,) = study.tables(document)
    assert table.row_count == len(document["verdicts"])


def test_what_is_committed_is_what_the_code_measures():
    document = json.loads(COMMITTED.read_text(encoding="utf-8"))
    assert {row["network"] for row in document["rows"]} == set(study.NETWORKS)
    assert {row["method"] for row in document["rows"]} == set(study.METHODS)
    assert study._verdicts(document["rows"]) == document["verdicts"]
    readings = {v["method"]: v["reading"] for v in document["verdicts"]}
    assert readings["block_jacobi"] == "more large eigenvalues, κ stays, trains faster, smaller error"
    assert readings["mass, order 0"] == "more large eigenvalues, κ falls, trains more slowly, larger error"
    trained = {(r["network"], r["method"]): r["real_loss"] for r in document["rows"] if "real_loss" in r}
    assert all(trained[name, "kfac"] < 0.3 * trained[name, "none"] for name in study.NETWORKS)
