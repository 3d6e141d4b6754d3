"""The benchmark of training: every way on every problem on one budget, a run at a time, and where it got."""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from precondlab.bench.environment import machine, own_versions
from precondlab.bench.pool import Failed, Worker
from precondlab.bench.training_cases import CASES, Case
from precondlab.bench.ways.training import WAYS

__all__ = ["run", "select_ways", "summary"]

Row = dict[str, Any]
Report = Callable[[str], object]
_PATIENCE = 20.0  # wall seconds allowed for a processor second,
_MARGIN = 1200.0  # and for what is not on the clock


def select_ways(names: Sequence[str]) -> tuple[str, ...]:
    """Return the ways of these names, all if there are none; raises ValueError for a name that none has."""
    unknown = sorted(set(names) - WAYS.keys())
    if unknown:
        raise ValueError(f"training: expected names of ways among {', '.join(WAYS)}, got {', '.join(unknown)}")
    return tuple(way for way in WAYS if not names or way in names)


def run(
    *,
    cases: Sequence[Case] = CASES,
    ways: Sequence[str] = tuple(WAYS),
    seeds: int = 3,
    seconds: float | None = None,
    jobs: int = 1,
    path: Path | None = None,
    again: bool = False,
    report: Report = lambda line: None,
) -> Row:
    """Make all runs that a file does not hold yet, and write it after each; return its JSON document.

    Parameters
    ----------
    cases, ways, seeds
        What is run, in the order of the seeds, so that an interrupted campaign has all of it with fewer seeds.
    seconds
        Budget of processor seconds for each run; that of the case if None.
    jobs
        Runs at a time, each pinned to a core of its own.
    path
        File to go on with and to write; nothing is kept if None. Runs in it with the same budget are not made again.
    again
        Make these runs again.
    report
        Is told what was done.

    Raises
    ------
    ValueError
        For counts or seconds that are not positive, more jobs than cores, or a file that is no document of this
        benchmark.

    ``ok`` of the document means that no run of precondlab failed; whether targets are met is in ``summary``.
    """
    if seeds < 1 or jobs < 1 or (seconds is not None and not 0 < seconds < math.inf):
        raise ValueError(f"training: expected seeds and jobs ≥ 1 and seconds > 0, got {seeds}, {jobs} and {seconds}")
    document = _document(path)
    wanted = [
        {"case": case.name, "way": way, "seed": seed, "budget": case.seconds if seconds is None else seconds}
        for seed in range(seeds)
        for case in cases
        for way in ways
    ]
    known = {_key(row) for row in document["runs"]}
    todo = [row for row in wanted if again or (*_key(row), row["budget"]) not in {_exact(r) for r in document["runs"]}]
    left = sum(row["budget"] for row in todo)
    report(f"{len(todo)} runs of {len(wanted)}, {left / jobs / 60:.0f} minutes at most; {len(known)} runs are known")
    lock, begin, done = threading.Lock(), time.perf_counter(), 0.0
    with _workers(jobs) as work, ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(work, row): row for row in todo}
        try:
            for count, future in enumerate(as_completed(futures), 1):
                row = future.result()
                done += row["budget"]
                with lock:
                    if path is not None:  # another campaign may have added to it
                        document["runs"] = _document(path)["runs"]
                    document["runs"] = [r for r in document["runs"] if _key(r) != _key(row)] + [row]
                    _complete(document)
                    _write(path, document)
                rest = (time.perf_counter() - begin) * (left - done) / done / 60
                report(f"{count}/{len(todo)} {_line(row)}; about {rest:.0f} minutes left")
        finally:  # interrupted: start none of those that wait
            pool.shutdown(wait=False, cancel_futures=True)
    _complete(document)
    return document


def _key(row: Row) -> tuple[Any, ...]:
    return row["case"], row["way"], row["seed"]


def _exact(row: Row) -> tuple[Any, ...]:
    return (*_key(row), row["budget"])


def _line(row: Row) -> str:
    what = f"{row['case']}, {row['way']}, seed {row['seed']}"
    if row["status"] != "done":
        return f"{what}: {row['status']}: {row['reason']}"
    error = row["curve"]["error"][-1] if row["curve"]["error"] else None
    reached = "no number" if error is None else f"error {error:.1e}"
    return f"{what}: {reached} after {row['processor_seconds']:.0f} s and {row['steps']} steps ({row['reason']})"


@contextlib.contextmanager
def _workers(jobs: int) -> Any:
    """Yield a function that makes a run in a process of its own, of which there are as many as jobs."""
    cores = sorted(os.sched_getaffinity(0), reverse=True) if hasattr(os, "sched_getaffinity") else [-1] * jobs
    if jobs > len(cores):
        raise ValueError(f"training: {jobs} jobs need as many cores, there are {len(cores)}")
    free, lock = cores[:jobs], threading.Lock()
    running: dict[int, Worker] = {}

    def start(core: int) -> Worker:
        worker = running[core] = Worker(sys.executable, pinned_to=core)
        _ask(worker, {"case": CASES[0].name, "way": "Adam + L-BFGS", "seed": 0, "budget": 0.1})  # imports
        return worker

    def work(row: Row) -> Row:
        with lock:
            core = free.pop()
        try:
            worker = running.get(core) or start(core)
            worker.timeout = _PATIENCE * row["budget"] + _MARGIN
            return row | _ask(worker, row)
        except Failed as error:
            if core in running:
                running.pop(core).close()
            return row | {"status": "failed", "reason": str(error)}
        finally:
            with lock:
                free.append(core)

    try:
        yield work
    finally:
        for worker in running.values():
            worker.close()


def _ask(worker: Worker, row: Row) -> Row:
    options = {name: row[name] for name in ("case", "way", "seed")} | {"processor": row["budget"]}
    worker.ask("prepare", factory="training:Training", options=options, case=None, inputs="")
    answer = worker.ask("compute")["outcome"]
    return {name: value for name, value in answer.items() if name != "products"}


# The document -------------------------------------------------------------------------------


def _document(path: Path | None) -> Row:
    if path is None or not path.exists():
        return {"benchmark": "training", "runs": []}
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or document.get("benchmark") != "training" or "runs" not in document:
        raise ValueError(f"training: {path} is no document of this benchmark; give another folder")
    return document


def _complete(document: Row) -> None:
    """Add what follows from the runs, and where the last of them were made."""
    document |= {"machine": machine(), "versions": own_versions(), "summary": summary(document["runs"])}
    own = [row for row in document["runs"] if WAYS[row["way"]][0] == "precondlab"]
    document["ok"] = all(row["status"] == "done" for row in own)


def summary(runs: Sequence[Row]) -> list[Row]:
    """Return a row per case and way: errors at the end and the time to the targets, medians over seeds.

    ``error`` is the last one measured, ``best`` the least; a run that failed, or ended in no number, counts as
    infinite, and infinite medians are null. ``met`` of a target means that the median time is within the target's.
    """
    found = []
    for case in CASES:
        for way, (family, _) in WAYS.items():
            rows = [row for row in runs if row["case"] == case.name and row["way"] == way]
            if rows:
                found.append({"case": case.name, "way": way, "family": family, **_summary(case, rows)})
    return found


def _summary(case: Case, rows: Sequence[Row]) -> Row:
    curves = [row.get("curve", {"seconds": [], "error": []}) for row in rows]
    last = [_finite(curve["error"][-1:]) for curve in curves]
    targets = []
    for error, limit in case.targets:
        times = [_reached(curve, error) for curve in curves]
        median = statistics.median(times)
        reached = sum(math.isfinite(t) for t in times)
        targets.append(
            {"error": error, "limit": limit, "seconds": _null(median), "reached": reached, "met": median <= limit}
        )
    return {
        "runs": len(rows),
        "failed": sum(row["status"] != "done" for row in rows),
        "budget": max(row["budget"] for row in rows),
        "error": _null(statistics.median(last)),
        "least": _null(min(last)),
        "largest": _null(max(last)),
        "best": _null(statistics.median(_finite(curve["error"]) for curve in curves)),
        "targets": targets,
    }


def _finite(errors: Sequence[float | None]) -> float:
    """Return the least error, infinity if there is none."""
    return min((e for e in errors if e is not None), default=math.inf)


def _reached(curve: Row, error: float) -> float:
    """Return the time from which on the error was below a bound when it first was; infinity if it never was."""
    pairs = zip(curve["seconds"], curve["error"], strict=True)
    return next((seconds for seconds, found in pairs if found is not None and found <= error), math.inf)


def _null(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write(path: Path | None, document: Row) -> None:
    """Replace the file at once, so that it is whole whenever the campaign is interrupted."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".json.new")
    new.write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    new.replace(path)
