"""The benchmark of products: every way of computing ``A v`` in one run, as a ratio to the arithmetic bound."""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from precondlab.bench import studies
from precondlab.bench.bound import flops, shapes
from precondlab.bench.cases import CASES, QUICK, Case
from precondlab.bench.environment import machine, own_versions, peer_versions
from precondlab.bench.pool import Absent, Failed, Worker
from precondlab.bench.session import COLUMNS, Session, distance
from precondlab.bench.ways import ENTRIES, PLANNED, REFERENCE, Entry
from precondlab.bench.ways import QUICK as QUICK_ENTRIES

__all__ = ["AGREEMENT", "compare", "run"]

#: Relative difference to the reference from which a product counts as wrong.
AGREEMENT = 1e-9
_ENOUGH = 10.0  # seconds of one kind of product of one way, after which it is not timed again

Row = dict[str, Any]
Report = Callable[[str], None]


def run(
    *,
    quick: bool = False,
    peers: Path | None = None,
    rounds: int = 7,
    cases: Sequence[Case] | None = None,
    entries: Sequence[Entry] = ENTRIES,
    with_studies: bool = True,
    report: Report = lambda line: None,
) -> dict[str, Any]:
    """Measure all cases and studies; return one JSON document.

    Parameters
    ----------
    quick
        A tiny network, two rounds and precondlab's own ways, to see that everything works.
    peers
        Interpreter of an environment with curvlinops, hessian-eigenthings and JAX; without it their ways
        are reported as absent.
    rounds
        Every way is timed once per round, in an order that rotates; at least 5 for figures to be quoted.
    cases, entries
        Instead of all.
    with_studies
        Whether to measure also how cost grows with size and order.
    report
        Is told what is being done.

    ``ok`` of the document means that precondlab's default gave a right product everywhere, and none of its
    other ways failed or gave a wrong one; whether the targets are met is in each case.
    """
    if quick:
        rounds, cases = min(rounds, 2), QUICK if cases is None else cases
        entries = [entry for entry in entries if entry.name in QUICK_ENTRIES] if entries is ENTRIES else entries
    results = [
        compare(case, entries, peers=peers, rounds=rounds, quick=quick, report=report) for case in cases or CASES
    ]
    document: dict[str, Any] = {
        "benchmark": "products",
        "quick": quick,
        "rounds": rounds,
        "machine": machine(),
        "versions": {"own": own_versions(), "peers": peer_versions(peers)},
        "cases": results,
        "scaling": [],
        "orders": [],
    }
    if with_studies:
        document["scaling"] = studies.scaling(quick=quick, report=report)
        document["orders"] = studies.orders(quick=quick, report=report)
    rows = [row for result in results for row in result["rows"] if row["family"] == "precondlab"]
    rows += document["scaling"] + document["orders"]
    document["ok"] = all(
        row["status"] == "ok" or (row["status"] == "absent" and row.get("way") != "precondlab") for row in rows
    )
    return document


def compare(
    case: Case,
    entries: Sequence[Entry] = ENTRIES,
    *,
    peers: Path | None = None,
    rounds: int = 7,
    quick: bool = False,
    report: Report = lambda line: None,
) -> dict[str, Any]:
    """Measure the ways of one case: products checked, then timed in turns, then memory in new processes."""
    chosen = [entry for entry in entries if case.task in entry.tasks and case.parameters <= entry.at_most]
    chosen.sort(key=lambda entry: entry.name != REFERENCE)  # the reference first
    at_least = 0.02 if quick else 0.1
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        session = Session(case, folder, peers=peers)
        rows, workers = _bring_up(session, chosen, stack, report)
        rate = stack.enter_context(Worker(sys.executable))
        timed: list[dict[Any, Any]] = []
        for index in range(rounds):
            timed.append(_round(workers, rate, case, index, at_least, report, timed))
        bound = _bound(case, [each["rates"] for each in timed])
        for row in rows:
            if row["status"] == "ok":
                for name, vectors in (("product", 1), ("block", COLUMNS)):
                    row[name] = _summary(
                        [each[row["way"], name] for each in timed if (row["way"], name) in each], bound, vectors
                    )
                row["hundred_seconds"] = row["setup_seconds"] + 99 * row["product"]["seconds"]  # set-up has the first
        for worker in workers.values():
            worker.close()
        for entry, row in zip(chosen, rows, strict=True):
            if row["status"] == "ok":
                report(f"{case.name}: memory of {entry.name}")
                row |= _memory(session, entry)
    return {
        "case": case.to_dict(),
        "parameters": case.parameters,
        "bound": bound,
        "rows": rows,
        "comparisons": _comparisons(rows),
        "targets": _targets(case, rows),
    }


def _bring_up(
    session: Session, entries: Sequence[Entry], stack: contextlib.ExitStack, report: Report
) -> tuple[list[Row], dict[str, Worker]]:
    """Set every way up and compare its products with the reference; return the rows, and workers of right ways."""
    rows, workers = [], {}
    truth: dict[bool, np.ndarray] = {}
    for entry in entries:
        report(f"{session.case.name}: {entry.name}")
        row: Row = {"way": entry.name, "family": entry.family, "environment": entry.environment, "status": "ok"}
        rows.append(row)
        try:
            worker = stack.enter_context(session.start(entry))
            row |= {"reason": "", "setup_seconds": (setup := worker.ask("setup"))["seconds"], "detail": setup["detail"]}
            products = {block: session.apply(worker, block=block) for block in (False, True)}
        except Failed as error:
            row |= {"status": "absent" if isinstance(error, Absent) else "failed", "reason": str(error)}
            continue
        truth = truth or products
        row["error"] = max(distance(products[block], truth[block]) for block in products)
        if row["error"] <= AGREEMENT:
            workers[entry.name] = worker
        else:
            worker.close()
            row |= {"status": "wrong", "reason": f"its products differ by {row['error']:.1e} from {entries[0].name}"}
            row["error"] = row["error"] if np.isfinite(row["error"]) else None
    return rows, workers


def _round(
    workers: dict[str, Worker],
    rate: Worker,
    case: Case,
    index: int,
    at_least: float,
    report: Report,
    before: list[dict[Any, Any]],
) -> dict[Any, Any]:
    """Time every way once, unless it took long enough before, and the rate of matrix products around them."""
    report(f"{case.name}: round {index + 1}")
    names = list(workers)
    shift = index % max(1, len(names))
    measured: dict[Any, Any] = {}
    wanted = {"shapes": shapes(case), "at_least": at_least}
    rates = [rate.ask("rates", **wanted)["rates"]]
    for name in names[shift:] + names[:shift]:
        for kind in ("product", "block"):
            if sum(each[name, kind]["wall"] for each in before if (name, kind) in each) < _ENOUGH:
                measured[name, kind] = workers[name].ask("clock", block=kind == "block", at_least=at_least, at_most=20)
    rates.append(rate.ask("rates", **wanted)["rates"])
    measured["rates"] = rates
    return measured


def _bound(case: Case, rounds: list[list[list[dict[str, float]]]]) -> Row:
    """Return flops ÷ the highest median rate over all rounds, in wall and in processor time."""
    rates = [
        {clock: statistics.median(probe[i][clock] for pair in rounds for probe in pair) for clock in ("wall", "cpu")}
        for i in range(len(shapes(case)))
    ]
    best = max(range(len(rates)), key=lambda i: rates[i]["wall"])
    return {
        "flops": flops(case),
        "channels": case.channels,
        "rows": case.rows,
        "shape": shapes(case)[best],
        "gflops_per_second": rates[best]["wall"] / 1e9,
        "rates": [{"shape": s, "gflops_per_second": r["wall"] / 1e9} for s, r in zip(shapes(case), rates, strict=True)],
        "seconds": flops(case) / rates[best]["wall"],
        "cpu_seconds": flops(case) / max(r["cpu"] for r in rates),
    }


def _summary(times: list[dict[str, float]], bound: Row, vectors: int) -> Row:
    """Return median, least and largest seconds per vector, and their ratios to the bound."""
    wall = [each["wall"] / vectors for each in times]
    processor = statistics.median(each["cpu"] / vectors for each in times)
    middle = statistics.median(wall)
    return {
        "seconds": middle,
        "ratio": middle / bound["seconds"],
        "ratio_min": min(wall) / bound["seconds"],
        "ratio_max": max(wall) / bound["seconds"],
        "cpu_ratio": processor / bound["cpu_seconds"],
        "waiting": middle / processor,  # well above 1: other programs had the core
    }


def _memory(session: Session, entry: Entry) -> Row:
    """Return MB above base of set-up and one product, and of these and a block; None if the process fails."""
    found: Row = {"memory_mb": None, "block_memory_mb": None, "memory_exact": False}
    try:
        with session.start(entry) as worker:
            base = worker.ask("mark")
            worker.ask("setup")
            worker.ask("apply", block=False)
            found |= {"memory_mb": _above(base, worker), "memory_exact": base["exact"]}
            worker.ask("apply", block=True)
            found["block_memory_mb"] = _above(base, worker)
    except Failed as error:
        found["reason"] = f"memory: {error}"
    return found


def _above(base: Row, worker: Worker) -> float:
    return (worker.ask("peak")["bytes"] - base["bytes"]) / 1e6


def _best(rows: list[Row], family: str, kind: str) -> Row | None:
    found = [row for row in rows if row["family"] == family and row["status"] == "ok"]
    return min(found, key=lambda row: row[kind]["seconds"], default=None)


def _comparisons(rows: list[Row]) -> list[Row]:
    """Return how much faster precondlab's default is than the fastest way of every other family.

    For 100 products with their set-up it is precondlab's plan that is compared, where it was measured.
    """
    own = next((row for row in rows if row["way"] == "precondlab" and row["status"] == "ok"), None)
    families = dict.fromkeys(row["family"] for row in rows if row["family"] != "precondlab")
    found = []
    for family in families if own else ():
        for kind in ("product", "block"):
            other = _best(rows, family, kind)
            if other is not None and own is not None:
                speedup = other[kind]["seconds"] / own[kind]["seconds"]
                found.append({"family": family, "way": other["way"], "kind": kind, "speedup": speedup})
    planned = next((row for row in rows if row["way"] == PLANNED and row["status"] == "ok"), own)
    for family in families if planned else ():
        others = [row for row in rows if row["family"] == family and row["status"] == "ok"]
        other = min(others, key=lambda row: row["hundred_seconds"], default=None)
        if other is not None and planned is not None:
            speedup = other["hundred_seconds"] / planned["hundred_seconds"]
            found.append({"family": family, "way": other["way"], "kind": "100 products", "speedup": speedup})
    return found


def _targets(case: Case, rows: list[Row]) -> list[Row]:
    """Return the figures aimed at, for precondlab's default way, and whether they are met."""
    own = next((row for row in rows if row["way"] == "precondlab" and row["status"] == "ok"), None)
    figures = (("product", case.product), ("block", case.block), ("memory_mb", case.memory))
    found = []
    for name, target in figures:
        if target is not None:
            measured = None if own is None else own[name]["ratio"] if name != "memory_mb" else own[name]
            met = measured is not None and measured <= target
            found.append({"figure": name, "target": target, "measured": measured, "met": met})
    return found
