"""The table of preconditioners on problems: a small one is complete, honest and drawn."""

import json
import math

import numpy as np
import pytest
import torch

from precondlab import problems
from precondlab.bench import preconditioners as workshop
from precondlab.bench.steps import made
from precondlab.operators import Dense, Diagonal, Gram
from precondlab.preconditioners import jacobi
from precondlab.spectrum import condition

CASES = (
    workshop.Case("Poisson 1-d", problems.poisson, 10),
    workshop.Case("Allen–Cahn, linearized", problems.allen_cahn, (2, 2)),
)


def test_a_small_table_is_complete_and_json(tmp_path):
    document = workshop.run(cases=CASES, budget=60, limit=200, report=lambda line: None)
    assert document["ok"]
    names = {c["name"] for c in document["cases"][0]["candidates"]}
    assert {"none", "symbol", "frozen", "jacobi", "block_jacobi", "deflation, rank 20", "nystrom, rank 10"} <= names
    for row in json.loads(json.dumps(document))["cases"]:
        for c in row["candidates"]:
            if c["condition"] is not None and c["ok"] and c["condition"]["upper"] is not None:
                assert c["steps"] <= c["predicted"] + 1  # what κ promises is kept
        for way in (c[way] for c in row["candidates"] for way in ("cg", "descent") if way in c):
            assert way["steps"] is None or way["bound"] is None or way["steps"] <= way["bound"] + 1
    assert workshop.draw(document, tmp_path).stat().st_size > 10_000
    assert [table.row_count for table in workshop.tables(document)] == [len(r["candidates"]) for r in document["cases"]]


def test_every_committed_problem_can_be_built():
    for case in workshop.CASES:
        problem, model, A = workshop._build(case)
        assert A.shape == (len(model.wavevectors),) * 2 and problem.dim == model.wavevectors.shape[1]


def test_steps_are_those_of_dense_iterations():
    """Diagonal A, all components alike: the loss of gradient descent is a sum of powers, that of CG a projection."""
    values = torch.linspace(1.0, 30.0, 12, dtype=torch.float64)
    A, start = Gram(Dense(torch.diag(values.sqrt()))), torch.ones(12, dtype=torch.float64)
    found = made(A, None, condition(A), start, rtol=1e-4, limit=500)
    x = values.numpy()
    losses = [np.sum(x * (1 - 2 / 31 * x) ** (2 * k)) for k in range(200)]
    expected = int(np.flatnonzero(np.array(losses) <= 1e-8 * losses[0])[0])
    assert found["descent"]["steps"] == found["descent"]["predicted"] == expected <= found["descent"]["bound"]
    krylov = [np.vander(x / 30, k + 1, increasing=True)[:, 1:] for k in range(1, 13)]
    left = [np.sqrt(x) - np.sqrt(x)[:, None] * V @ np.linalg.lstsq(np.sqrt(x)[:, None] * V, np.sqrt(x), rcond=None)[0]
            for V in krylov]  # fmt: skip
    expected = 1 + int(np.flatnonzero([r @ r <= 1e-8 * x.sum() for r in left])[0])
    assert found["cg"]["steps"] == found["cg"]["predicted"] == expected <= found["cg"]["bound"]
    exact = made(A, jacobi(A), condition(A, preconditioner=jacobi(A)), start, rtol=1e-4, limit=500)
    assert exact["cg"]["steps"] == exact["descent"]["steps"] == 1


def test_what_is_not_reached_is_predicted_only():
    A = Gram(Dense(torch.diag(torch.logspace(0, -4, 20, dtype=torch.float64))))
    found = made(A, None, condition(A), torch.ones(20, dtype=torch.float64), rtol=1e-6, limit=5)
    for way in ("cg", "descent"):
        assert found[way]["steps"] is found[way]["predicted"] is None and found[way]["bound"] > 5
    value, text = workshop._shown(found["descent"])
    assert value == pytest.approx(math.log(1e6) * 1e8 / 2, rel=1e-3) and text == "≈7e8"
    assert workshop._shown({"bound": None, "steps": None})[1] == "?"


def test_an_operator_that_is_singular_has_no_bound():
    A, M = Gram(Dense(torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64)))), Diagonal(torch.ones(2).double())
    found = made(A, M, condition(A), torch.ones(2, dtype=torch.float64), rtol=1e-6, limit=9)
    assert found["descent"] == {"bound": None, "predicted": 1, "learning_rate": 1.0, "steps": 1}
