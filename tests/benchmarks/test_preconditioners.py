"""The table of preconditioners on problems: a small one is complete, honest and drawn."""

import json

from precondlab import problems
from precondlab.bench import preconditioners as workshop

CASES = (
    workshop.Case("Poisson 1-d", problems.poisson, 12),
    workshop.Case("Allen–Cahn, linearized", problems.allen_cahn, (2, 2)),
)


def test_a_small_table_is_complete_and_json(tmp_path):
    document = workshop.run(cases=CASES, budget=60, report=lambda line: None)
    assert document["ok"]
    names = {c["name"] for c in document["cases"][0]["candidates"]}
    assert {"none", "symbol", "frozen", "jacobi", "block_jacobi", "deflation, rank 20", "nystrom, rank 10"} <= names
    for row in json.loads(json.dumps(document))["cases"]:
        for c in row["candidates"]:
            if c["condition"] is not None and c["ok"] and c["condition"]["upper"] is not None:
                assert c["steps"] <= c["predicted"] + 1  # what κ promises is kept
    assert workshop.draw(document, tmp_path).stat().st_size > 10_000
    assert [table.row_count for table in workshop.tables(document)] == [len(r["candidates"]) for r in document["cases"]]


def test_every_committed_problem_can_be_built():
    for case in workshop.CASES:
        problem, model, A = workshop._build(case)
        assert A.shape == (len(model.wavevectors),) * 2 and problem.dim == model.wavevectors.shape[1]
