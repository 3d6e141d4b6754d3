"""The benchmark of spectra: condition numbers, extreme eigenvalues and densities in several libraries, in one run."""

from __future__ import annotations

import contextlib
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from precondlab.bench.cases import Case
from precondlab.bench.environment import machine, own_versions, peer_versions
from precondlab.bench.inputs import write
from precondlab.bench.pool import Absent, Failed, Worker
from precondlab.bench.spectra_cases import QUICK, STUDIES, Study
from precondlab.bench.ways import Entry

__all__ = ["compare", "run", "select"]

_STANDARD_ERRORS = 6.0  # between the means of two densities
_LONG = 60.0  # processor seconds beyond which a run is not repeated
Row = dict[str, Any]
Report = Callable[[str], None]


def select(names: Sequence[str], *, quick: bool = False) -> tuple[Study, ...]:
    """Return the studies of these names, all if there are none; raises ValueError for a name that none has."""
    studies = QUICK if quick else STUDIES
    known = [study.name for study in studies]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"spectra: expected names of studies among {', '.join(known)}, got {', '.join(unknown)}")
    return tuple(study for study in studies if not names or study.name in names)


def run(
    *,
    quick: bool = False,
    peers: Path | None = None,
    studies: Sequence[Study] | None = None,
    report: Report = lambda line: None,
) -> Row:
    """Carry out all studies; return one JSON document.

    Parameters
    ----------
    quick
        Small operators and the ways of this environment, to see that everything works.
    peers
        Interpreter of an environment with curvlinops, hessian-eigenthings, matfree and JAX; without it their
        ways are reported as absent.
    studies
        Instead of all.
    report
        Is told what is being done.

    ``ok`` of the document means that every result of precondlab is right, and holds where it claims to; whether
    the targets are met is in each study.
    """
    chosen = select((), quick=quick) if studies is None else studies
    results = [compare(study, peers=peers, report=report) for study in chosen]
    own = [row for result in results for row in result["rows"] if row["family"] == "precondlab"]
    return {
        "benchmark": "spectra",
        "quick": quick,
        "machine": machine(),
        "versions": {"own": own_versions(), "peers": peer_versions(peers)},
        "studies": results,
        "ok": all(row["status"] == "right" and "doubt" not in row for row in own),
    }


def compare(study: Study, *, peers: Path | None = None, report: Report = lambda line: None) -> Row:
    """Run every way of a study once, judge what it says, and time those that were right in turns.

    A status is ``right``; ``wrong``: a value that is off, without a word; ``warned``: one that is off, with a
    warning or a flag of the library; ``gave up``: the budget ended first; ``failed``: an error; ``absent``.
    """
    with contextlib.ExitStack() as stack:
        session = _Session(study, Path(stack.enter_context(tempfile.TemporaryDirectory())), peers)
        rows: list[Row] = []
        workers: dict[str, Worker] = {}
        answers: dict[str, list[Row]] = {}
        for entry in study.entries:
            report(f"{study.name}: {entry.name}")
            row: Row = {"way": entry.name, "family": entry.family, "status": "failed", "reason": ""}
            rows.append(row)
            try:
                worker = session.start(entry)
                stack.callback(worker.close)
                answers[entry.name] = [_first(worker, row)]
            except Failed as error:
                row |= {"status": "absent" if isinstance(error, Absent) else "failed", "reason": str(error)}
                continue
            if study.repeats > 1:
                workers[entry.name] = worker
            else:
                worker.close()
        truth = _truth(session, rows, report)
        for row in rows:
            row |= _judge(study, row, truth)
        names = [
            row["way"]
            for row in rows
            if row["status"] == "right" and row["way"] in workers and answers[row["way"]][0]["cpu"] <= _LONG
        ]
        for index in range(study.repeats if names else 0):
            report(f"{study.name}: round {index + 1}")
            shift = index % len(names)
            for name in names[shift:] + names[:shift]:
                answers[name].append(workers[name].ask("compute"))
    for row in rows:
        if row["way"] in answers:
            row |= _times(answers[row["way"]])
        row |= {name: None for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)}
    return {
        "name": study.name,
        "title": study.title,
        "kind": study.kind,
        "accuracy": study.accuracy,
        "repeats": study.repeats,
        "truth": truth,
        "rows": rows,
        "comparisons": _comparisons(rows),
        "targets": _targets(study, rows),
    }


class _Session:
    """Files of one study, and computations brought up on them in workers."""

    def __init__(self, study: Study, folder: Path, peers: Path | None) -> None:
        self.study, self.folder, self.peers = study, folder, peers
        if study.case is not None:
            for stem, case in (("", study.case), ("tiny-", study.case.tiny)):
                write(case, folder / f"{stem}inputs.npz")
                if study.structured:
                    _structure(case, folder / f"{stem}inputs.npz")

    def start(self, entry: Entry) -> Worker:
        """Return a worker in which the computation ran on a tiny problem and is prepared for the real one.

        Raises
        ------
        Absent, Failed
            If there is no interpreter for it, its library is missing, or it cannot be prepared.
        """
        python = Path(sys.executable) if entry.environment == "own" else self.peers
        if python is None or not python.exists():
            raise Absent("no environment with the other libraries")
        worker = Worker(str(python), timeout=self.study.timeout)
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(worker.close)
            with contextlib.suppress(Failed):  # a method may fail on it, and not on the real one
                self._prepare(worker, entry, tiny=True)
                worker.ask("compute")
            self._prepare(worker, entry, tiny=False)
            on_failure.pop_all()
        return worker

    def _prepare(self, worker: Worker, entry: Entry, *, tiny: bool) -> None:
        case = self.study.case and (self.study.case.tiny if tiny else self.study.case)
        worker.ask(
            "prepare",
            factory=entry.factory,
            options=self.study.options | entry.options | (self.study.tiny if tiny else {}),
            case=case and case.to_dict(),
            inputs=str(self.folder / f"{'tiny-' if tiny else ''}inputs.npz"),
        )


def _structure(case: Case, path: Path) -> None:
    """Replace the samples of a case by clusters, one per class, with directions of decaying variance."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    rng = np.random.default_rng(2)
    dim, classes = case.sizes[0], case.sizes[-1]
    scales = np.arange(1, dim + 1) ** -0.5
    centers = 2 * rng.standard_normal((classes, dim)) * scales
    labels = arrays["labels"]
    arrays["points"] = centers[labels] + rng.standard_normal((case.points, dim)) * scales
    np.savez(path, allow_pickle=False, **arrays)


def _truth(session: _Session, rows: list[Row], report: Report) -> Row | None:
    """Return what results are compared with: of a formula, of one of the ways, or of the reference computation."""
    study = session.study
    if study.truth is not None:
        values = study.truth if isinstance(study.truth, tuple) else (study.truth,)
        return {"values": list(values), "source": "closed form"}
    if study.reference is None:
        return None
    for row in rows:
        if row["way"] == study.reference.name:
            return {"values": row["values"], "source": row["way"]} if row["status"] == "done" else None
    report(f"{study.name}: {study.reference.name}")
    with session.start(study.reference) as worker:
        return worker.ask("compute")["outcome"] | {"source": study.reference.name}


def _first(worker: Worker, row: Row) -> Row:
    """Run once, with memory; fill the row."""
    base = worker.ask("mark")
    answer = worker.ask("compute")
    peak = worker.ask("peak")["bytes"]
    row |= answer.pop("outcome")
    row |= {"memory_mb": (peak - base["bytes"]) / 1e6, "total_mb": peak / 1e6, "memory_exact": base["exact"]}
    return answer


def _judge(study: Study, row: Row, truth: Row | None) -> Row:
    """Return status, reason and error of a row."""
    if row["status"] != "done":
        return {}
    notes = [*([row["doubt"]] if "doubt" in row else []), *row["warnings"]]
    if truth is None:
        return {"status": "right", "reason": "; ".join(["nothing to compare with", *notes]), "error": None}
    error, allowed = _error(study, row, truth)
    if error <= allowed and _held(row, truth):
        return {"status": "right", "reason": "; ".join(notes), "error": error}
    reason = f"off by {error:.1e}" if error > allowed else "its interval does not hold the truth"
    finite = error if math.isfinite(error) else None
    return {"status": "warned" if notes else "wrong", "reason": "; ".join([reason, *notes]), "error": finite}


def _error(study: Study, row: Row, truth: Row) -> tuple[float, float]:
    """Return the relative error, infinite for no number, and the error allowed."""
    if "stderr" in truth:  # the mean of one probe, that of the reference is over many
        scale = study.options["probes"] ** 0.5 * truth["stderr"] / truth["mean"]
        return _finite(abs(row["mean"] / truth["mean"] - 1)), _STANDARD_ERRORS * scale
    if study.kind == "density":
        return _finite(abs(row["largest"] / truth["values"][-1] - 1)), study.accuracy
    found = np.asarray(row["values"] if study.kind == "top" else [row["value"]])
    wanted = np.asarray(truth["values"])
    if found.shape != wanted.shape:
        return math.inf, study.accuracy
    return _finite(float(np.abs(found / wanted - 1).max())), study.accuracy


def _finite(error: float) -> float:
    return error if math.isfinite(error) else math.inf


def _held(row: Row, truth: Row) -> bool:
    """Whether the interval of a result holds the truth, up to round-off in the truth and the lower bound."""
    interval = row.get("interval")
    return interval is None or interval["lower"] * (1 - 1e-9) <= truth["values"][0] <= interval["upper"] * (1 + 1e-9)


def _times(answers: list[Row]) -> Row:
    processor, wall = [each["cpu"] for each in answers], [each["wall"] for each in answers]
    return {
        "cpu_seconds": statistics.median(processor),
        "cpu_min": min(processor),
        "cpu_max": max(processor),
        "wall_seconds": statistics.median(wall),
        "runs": len(answers),
    }


def _comparisons(rows: list[Row]) -> list[Row]:
    """Return how much faster and smaller precondlab is than every other way that was right."""
    own = next((row for row in rows if row["way"] == "precondlab" and row["status"] == "right"), None)
    if own is None:
        return []
    return [
        {
            "way": row["way"],
            "speedup": row["cpu_seconds"] / own["cpu_seconds"],
            "memory_ratio": row["total_mb"] / own["total_mb"],
        }
        for row in rows
        if row is not own and row["status"] == "right"
    ]


def _targets(study: Study, rows: list[Row]) -> list[Row]:
    """Return the figures aimed at and whether they are met by right results."""
    right = {row["way"]: row for row in rows if row["status"] == "right"}
    found = []
    for goal in study.goals:
        measured = right.get(goal.way, {}).get(goal.figure)
        if goal.against is not None:
            other = right.get(goal.against, {}).get(goal.figure)
            measured = None if measured is None or other is None else measured / other
        name = goal.figure if goal.against is None else f"{goal.figure} / {goal.against}"
        met = measured is not None and measured <= goal.limit
        found.append({"figure": name, "target": goal.limit, "measured": measured, "met": met})
    return found
