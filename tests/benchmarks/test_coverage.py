"""The campaign that counts how often certified intervals hold: that it counts, and that it can fail."""

import json

import pytest

from precondlab.bench import coverage
from precondlab.spectrum import condition


def test_a_short_campaign_holds_and_is_json(tmp_path):
    document = coverage.run(runs=64, report=lambda line: None)
    assert document["ok"] and document["runs"] >= 60
    assert json.loads(json.dumps(document))["families"]
    assert coverage.draw(document, tmp_path).stat().st_size > 10_000
    assert coverage.table(document).row_count == len(document["families"])


def test_intervals_that_claim_too_much_are_counted(monkeypatch):
    import dataclasses

    def boastful(A, **options):
        result = condition(A, **options)
        return dataclasses.replace(result, upper=result.estimate * 0.999, lower=1.0)

    monkeypatch.setattr(coverage, "condition", boastful)
    document = coverage.run(runs=64, report=lambda line: None)
    assert not document["ok"]
    assert sum(row["false_certificates"] for row in document["families"]) > 0


@pytest.mark.parametrize("runs", [1])
def test_every_family_gets_a_run(runs):
    document = coverage.run(runs=runs, report=lambda line: None)
    assert all(row["runs"] >= 1 for row in document["families"])
