"""The monitor: its numbers against dense linear algebra, its budget, and that it does not touch the training."""

import numpy as np
import pytest
import torch

import precondlab as pl
from precondlab.training import SpectrumMonitor, monitor


def make(seed=0):
    model = pl.models.mlp((1, 6, 1), seed=seed)
    return model, pl.problems.poisson(dim=1).residual(model, interior=40)


def dense(r):
    J = pl.Jacobian(r).dense()
    return (J.T @ J).numpy()


def identity(size):
    return pl.operators.Identity(pl.Space(size))


class Clock:
    """Time that passes only when told to."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(monitor, "perf_counter", clock)
    return clock


def test_extremes_bound_the_dense_spectrum_from_the_stated_sides():
    _, r = make()
    record = SpectrumMonitor(r, num_matvecs=8).step()
    values = np.linalg.eigvalsh(dense(r))
    assert 0.9 * values[-1] <= record["lambda_max"] <= values[-1] * (1 + 1e-12)
    assert record["lambda_min"] >= max(values[0], 0)
    assert 1 < record["condition_number"] <= record["lambda_max"] / record["lambda_min"] * (1 + 1e-9)
    assert record["condition_upper"] == float("inf")


def test_with_as_many_products_as_unknowns_the_interval_holds_the_condition_number():
    A = pl.operators.Diagonal(torch.tensor([2.0, 3.0, 8.0], dtype=torch.float64))
    record = SpectrumMonitor(lambda: A).step()
    assert all(type(value) is float for value in record.values())
    assert record["condition_number"] <= 4 * (1 + 1e-12) and record["condition_upper"] >= 4 * (1 - 1e-12)
    assert record["condition_upper"] == pytest.approx(4, rel=1e-9)


def test_effective_rank_and_drift_converge_to_the_dense_ones():
    model, r = make()
    watch = SpectrumMonitor(r, every=1, budget=float("inf"), num_probes=600)
    before, first = dense(r), watch.step()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(5):
        optimizer.zero_grad()
        (0.5 * sum(part.square().sum() for part in r._blocks(r.params, None).values())).backward()
        optimizer.step()
    after, second = dense(r), watch.step()
    for A, record in ((before, first), (after, second)):
        exact = np.trace(A) ** 2 / np.sum(A * A)
        assert abs(record["effective_rank"] - exact) <= 6 * record["effective_rank_stderr"] <= exact
    drift = np.linalg.norm(after - before) / np.linalg.norm(before)
    assert first["drift"] == 0
    assert abs(second["drift"] - drift) <= 6 * second["drift_stderr"] <= drift


@pytest.mark.parametrize("method", ["lm", "adam"])
def test_a_monitored_run_equals_an_unmonitored_one_bit_for_bit(method):
    def run(watched):
        model, r = make(3)
        watch = SpectrumMonitor(r, every=2, budget=float("inf"), num_matvecs=5, num_probes=2) if watched else None
        lm = pl.optim.LevenbergMarquardt(r)
        adam = torch.optim.Adam(model.parameters(), lr=1e-2)
        x = torch.rand(20, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        for _ in range(6):
            if watch is not None:
                watch.step()
            if method == "lm":
                lm.step()
            else:
                adam.zero_grad()
                (model(x) - torch.rand(20, 1, dtype=torch.float64)).square().mean().backward()
                adam.step()
        return [p.detach() for p in model.parameters()], watch

    torch.manual_seed(0)
    alone, _ = run(False)
    torch.manual_seed(0)
    watched, watch = run(True)
    assert all(torch.equal(p, q) for p, q in zip(alone, watched, strict=True))
    assert [record["step"] for record in watch.history] == [0, 2, 4]


def test_a_measurement_that_exceeds_the_budget_waits_until_it_fits(clock):
    def source():
        clock.now += 1.0  # each measurement takes a second,
        return identity(3)

    watch = SpectrumMonitor(source, every=10, budget=0.05)
    for _ in range(101):
        watch.step()
        clock.now += 0.5  # each step half a second
    # the n-th one begins when n seconds are 5 % of the time: 39, 78, … half seconds of training after the first
    assert [record["step"] for record in watch.history] == [0, 78]
    assert watch.history[1]["overhead"] <= 0.05 + 1e-12
    assert watch.overhead < 0.05


def test_within_the_budget_every_due_step_is_measured(clock):
    watch = SpectrumMonitor(lambda: identity(3), every=4)
    assert [watch.step() is not None for _ in range(9)] == [True, *[False] * 3, True, *[False] * 3, True]


def test_a_state_continues_counts_history_time_and_drift(clock, tmp_path):
    theta = torch.ones(4, dtype=torch.float64)
    r = pl.Map(lambda p: p["a"] ** 2, {"a": theta})
    one = SpectrumMonitor(r, every=2, budget=float("inf"))
    for _ in range(3):
        one.step()
        clock.now += 1
    torch.save(one.state_dict(), tmp_path / "monitor.pt")
    theta *= 2
    other = SpectrumMonitor(r, every=2, budget=float("inf"), generator=torch.Generator().manual_seed(9))
    clock.now += 100
    other.load_state_dict(torch.load(tmp_path / "monitor.pt", weights_only=True))
    records = [other.step(), other.step()]
    assert records[0] is None and records[1]["step"] == 4
    assert records[1]["drift"] == pytest.approx(3, rel=1e-12)
    assert len(other.history) == 3
    with pytest.raises(ValueError, match="missing from the state"):
        other.load_state_dict({"steps": 1})


def test_the_source_gets_the_context_and_may_be_any_symmetric_operator():
    A = pl.operators.Diagonal(torch.tensor([-3.0, 1.0], dtype=torch.float64))
    watch = SpectrumMonitor(lambda scale: scale * A, every=1, budget=float("inf"))
    record = watch.step(2.0)
    assert record["lambda_max"] == pytest.approx(6) and record["lambda_min"] == pytest.approx(2)
    assert "effective_rank" not in record
    assert watch.step(1.0)["drift"] == pytest.approx(0.5)


def test_mistakes_are_named():
    _, r = make()
    with pytest.raises(TypeError, match=r"expected a pl\.Map"):
        SpectrumMonitor(3)
    for wrong in ({"every": 0}, {"budget": 0.0}, {"num_probes": 1}, {"num_matvecs": 0}):
        with pytest.raises(ValueError, match="every ≥ 1"):
            SpectrumMonitor(r, **wrong)
    with pytest.raises(TypeError, match=r"take pl\.Gram"):
        SpectrumMonitor(lambda: pl.Jacobian(r)).step()
    watch = SpectrumMonitor(identity, every=1, budget=float("inf"))
    watch.step(3)
    with pytest.raises(ValueError, match="start a new monitor"):
        watch.step(4)
