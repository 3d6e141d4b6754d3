"""The benchmark of products: that it measures what it says, not how fast anything is."""

import dataclasses
import io
import json
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from precondlab.bench import bound, memory, products, show, studies
from precondlab.bench.cases import CASES, LENGTH, Case, laplacian, width_for
from precondlab.bench.inputs import read, write
from precondlab.bench.pool import Failed, Worker
from precondlab.bench.session import Session
from precondlab.bench.ways import ENTRIES, REFERENCE, Entry
from precondlab.bench.ways.models import module

TINY = laplacian(5, 20, 8, depth=2, name="tiny", product=2.5)

WAYS = """
import os
from precondlab.bench.ways.torch_func import JvpVjp

class Off(JvpVjp):
    def product(self, v):
        return super().product(v) * (1 + 1e-8)

class Transposed(JvpVjp):
    def block(self, V):
        return super().block(V).T

class Raises(JvpVjp):
    def product(self, v):
        print("noise on stdout")
        raise RuntimeError("out of luck")

class Dies(JvpVjp):
    def setup(self):
        os._exit(7)

class NotInstalled(JvpVjp):
    def setup(self):
        import surely_not_installed
"""


@pytest.fixture(scope="module")
def document():
    return products.run(quick=True, with_studies=False)


def test_quick_run_is_one_json_document(document):
    assert json.loads(json.dumps(document, allow_nan=False)) == json.loads(json.dumps(document))
    assert document["ok"] is True
    assert document["machine"]["threads"] == 1
    assert document["versions"]["own"]["torch"] == torch.__version__
    (case,) = document["cases"]
    assert case["bound"]["seconds"] == pytest.approx(case["bound"]["flops"] / case["bound"]["gflops_per_second"] / 1e9)
    right = [row for row in case["rows"] if row["status"] == "ok"]
    assert {"precondlab", REFERENCE, "torch.func", "dense J"} <= {row["way"] for row in right}
    for row in right:
        assert row["error"] <= products.AGREEMENT
        assert row["setup_seconds"] > 0
        assert row["hundred_seconds"] == pytest.approx(row["setup_seconds"] + 99 * row["product"]["seconds"])
        assert row["memory_mb"] is not None and row["block_memory_mb"] >= row["memory_mb"]
        for kind in ("product", "block"):
            assert 0 < row[kind]["ratio_min"] <= row[kind]["ratio"] <= row[kind]["ratio_max"]
            assert row[kind]["ratio"] == pytest.approx(row[kind]["seconds"] / case["bound"]["seconds"])
    assert {each["family"] for each in case["comparisons"]} == {"torch.func", "dense J"}
    assert [each["figure"] for each in case["targets"]] == ["product", "block", "memory_mb"]


def test_document_names_no_place(document):
    text = json.dumps(document)
    assert "/home" not in text and "/work" not in text and "/tmp" not in text


def test_pictures_and_tables(document, tmp_path):
    from rich.console import Console

    paths = show.draw(document, tmp_path)
    assert [path.name for path in paths] == ["products.png"]
    assert paths[0].read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    console = Console(record=True, width=160, file=io.StringIO())
    for table in show.tables(document):
        console.print(table)
    text = console.export_text()
    assert "torch.func" in text and "targets:" in text and "precondlab is" in text


def test_ways_that_go_wrong_are_reported_and_not_timed(tmp_path):
    file = tmp_path / "ways.py"
    file.write_text(WAYS)
    reference = next(entry for entry in ENTRIES if entry.name == REFERENCE)
    names = ("Off", "Transposed", "Raises", "Dies", "NotInstalled")
    entries = [reference, *(Entry(name, "others", f"{file}:{name}") for name in names)]
    entries.append(Entry("peer", "others", "peer_jax:Jit", environment="peers"))
    case = products.compare(TINY, entries, rounds=1, quick=True)
    found = {row["way"]: row for row in case["rows"]}
    assert {way: row["status"] for way, row in found.items()} == {
        REFERENCE: "ok",
        "Off": "wrong",
        "Transposed": "wrong",
        "Raises": "failed",
        "Dies": "failed",
        "NotInstalled": "absent",
        "peer": "absent",
    }
    assert found["Off"]["error"] == pytest.approx(1e-8, rel=1e-3)
    assert "differ by 1.0e-08 from precondlab graph" in found["Off"]["reason"]
    assert "out of luck" in found["Raises"]["reason"]
    assert "exit code 7" in found["Dies"]["reason"]
    assert "surely_not_installed" in found["NotInstalled"]["reason"]
    assert all("product" not in row for way, row in found.items() if way != REFERENCE)
    assert case["targets"] == [{"figure": "product", "target": 2.5, "measured": None, "met": False}]


def test_bound_of_a_network_done_by_hand():
    # 2-3-1, 10 interior points with u, u_x, u_y, Δu and 5 boundary points with u: 45 rows.
    # 2 matrix products in the first layer, 4 in the second: 2·2·45·(2·3) + 4·2·45·(3·1).
    case = Case("", "laplacian", (2, 3, 1), points=10, boundary=5)
    assert bound.flops(case) == 2 * 2 * 45 * 6 + 4 * 2 * 45 * 3 == 2160
    assert bound.flops(Case("", "derivative", (1, 3, 1), points=10, order=4)) == 2 * 50 * (2 * 3 + 4 * 3)
    assert bound.flops(Case("", "classification", (4, 3, 2), points=10)) == 2 * 10 * (2 * 12 + 4 * 6)


def test_cases_have_the_sizes_of_the_targets():
    assert [case.parameters for case in CASES[:3]] == [12_737, 198_401, 669_706]
    for target in (10**4, 10**5, 10**6, 10**7):
        assert laplacian(width_for(target), 1, 1).parameters == pytest.approx(target, rel=0.02)


@pytest.mark.parametrize("case", [case.tiny for case in CASES], ids=lambda case: case.name)
def test_networks_have_the_parameters_they_claim(case, tmp_path):
    write(case, tmp_path / "inputs.npz")
    inputs = read(case, tmp_path / "inputs.npz")
    net = module(inputs)
    assert sum(p.numel() for p in net.parameters()) == case.parameters
    outputs = net(torch.from_numpy(inputs.points))
    assert outputs.shape == (case.points, case.sizes[-1])
    # the bound of a row of the first layer and of the others: half the flops of a forward pass per product
    with FlopCounterMode(display=False) as counter:
        net(torch.from_numpy(inputs.points))
    first, others = bound._multiplications(case)
    rows = case.points * (LENGTH if case.task == "encoder" else 1)
    assert counter.get_total_flops() == pytest.approx(2 * rows * (first + others), rel=0.02)


def test_every_entry_has_a_reference_for_its_tasks():
    tasks = {task for entry in ENTRIES if entry.name == REFERENCE for task in entry.tasks}
    assert all(set(entry.tasks) <= tasks for entry in ENTRIES)
    for task in tasks:
        names = [entry.name for entry in ENTRIES if task in entry.tasks]
        assert len(names) == len(set(names))


def test_memory_sees_what_is_taken_after_the_mark():
    base, exact = memory.mark()
    taken = torch.ones(4_000_000, dtype=torch.float64)
    if exact:
        assert memory.peak() - base >= 0.9 * taken.nbytes


def test_a_worker_that_hangs_is_ended(tmp_path):
    file = tmp_path / "ways.py"
    file.write_text(
        WAYS + "\nclass Hangs(JvpVjp):\n    def setup(self):\n        import time\n        time.sleep(600)\n"
    )
    with pytest.raises(Failed, match="longer than 15 s while asked to setup"):
        Session(TINY, tmp_path).start(Entry("hangs", "others", f"{file}:Hangs"), timeout=15)
    with Worker(sys.executable) as worker:
        assert worker.ask("versions", names=["numpy", "surely-not-installed"])["versions"].keys() == {"python", "numpy"}
        with pytest.raises(Failed, match="no way is loaded"):
            worker.ask("setup")


@pytest.mark.slow
def test_studies_of_size_and_order():
    sizes, orders = studies.scaling(quick=True), studies.orders(quick=True)
    assert [row["axis"] for row in sizes] == ["parameters"] * 2 + ["points"] * 2
    assert all(row["status"] == "ok" and row["seconds"] > 0 for row in sizes)
    assert {(row["order"], row["route"]) for row in orders} == {(k, r) for k in (1, 2) for r in ("graph", "jets")}
    assert all(row["status"] in ("ok", "absent") for row in orders)


@pytest.mark.slow
def test_classifier_has_the_curvature_of_the_cross_entropy():
    case = Case("supervised", "classification", (6, 5, 3), 30)
    assert dataclasses.replace(case, points=1).channels == 1
    result = products.compare(case, [entry for entry in ENTRIES if entry.environment == "own"], rounds=1, quick=True)
    status = {row["way"]: row["status"] for row in result["rows"]}
    assert status["precondlab"] == status[REFERENCE] == "ok"
    assert status["precondlab"] in ("ok", "absent")
