"""The campaign that counts how often certified intervals hold: that it counts, and that it can fail."""

import json

import numpy as np
import pytest
import torch

import precondlab as pl
from precondlab.bench import coverage
from precondlab.spectrum import ConditionStatus, condition


def test_a_short_campaign_holds_and_is_json(tmp_path):
    document = coverage.run(runs=64, report=lambda line: None)
    assert document["ok"] and document["runs"] >= 60
    assert json.loads(json.dumps(document))["families"]
    assert coverage.draw(document, tmp_path).stat().st_size > 10_000
    assert coverage.table(document).row_count == len(document["families"]) + len(document["paths"])
    assert sum(row["runs"] for row in document["paths"]) == document["runs"]
    assert sum(row["runs"] > 0 for row in document["paths"]) > 2


def test_intervals_that_claim_too_much_are_counted(monkeypatch):
    import dataclasses

    def boastful(A, **options):
        result = condition(A, **options)
        return dataclasses.replace(result, upper=result.estimate * 0.999, lower=1.0)

    monkeypatch.setattr(coverage, "condition", boastful)
    document = coverage.run(runs=64, report=lambda line: None)
    assert not document["ok"]
    assert sum(row["false_certificates"] for row in document["families"]) > 0


def test_intervals_without_an_upper_bound_do_not_pass_for_finite_ones(monkeypatch):
    import dataclasses
    import math

    def modest(A, **options):
        return dataclasses.replace(condition(A, **options), upper=math.inf, status=ConditionStatus.LOWER_BOUND)

    monkeypatch.setattr(coverage, "condition", modest)
    document = coverage.run(runs=32, report=lambda line: None)
    assert document["ok"] and all(row["finite"] == 0 for row in document["families"])


@pytest.mark.parametrize("path", ["factored M", "M", "inverse", "float32"])
def test_every_path_asks_for_a_number_that_is_right(monkeypatch, path):
    """The truth of every way to ask, against a dense factorization."""
    monkeypatch.setattr(coverage, "_PATHS", {path: 1.0})
    known = pl.testing.gallery.clusters()
    case = coverage._case(known, np.random.default_rng(0))
    assert case.path == path
    A = case.operator.dense().double() + case.options.get("damping", 0.0) * torch.eye(len(known.values))
    if "preconditioner" in case.options:
        L = torch.linalg.cholesky(case.options["preconditioner"].dense())
        A = L.T @ A @ L
    assert case.truth == pytest.approx(np.linalg.cond(A.numpy()), rel=1e-6)


@pytest.mark.parametrize("runs", [1])
def test_every_family_gets_a_run(runs):
    document = coverage.run(runs=runs, report=lambda line: None)
    assert all(row["runs"] >= 1 for row in document["families"])
