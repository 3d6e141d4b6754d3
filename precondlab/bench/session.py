"""The files of a case, and ways brought up on it in workers."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from precondlab.bench.cases import Case
from precondlab.bench.inputs import write
from precondlab.bench.pool import Absent, Worker
from precondlab.bench.ways import Entry

__all__ = ["COLUMNS", "Session"]

COLUMNS = 16  # of a block


class Session:
    """Inputs and vectors of one case in a folder.

    Parameters
    ----------
    case
        What is computed.
    folder
        An empty folder; files are left in it.
    peers
        Interpreter with the other libraries, or None.
    columns
        Of the block; 0 for studies of single products.
    """

    def __init__(self, case: Case, folder: Path, *, peers: Path | None = None, columns: int = COLUMNS) -> None:
        self.case, self.folder, self.peers = case, folder, peers
        generator = np.random.default_rng(1)
        for stem, each in (("", case), ("tiny-", case.tiny)):
            write(each, folder / f"{stem}inputs.npz")
            np.save(folder / f"{stem}v.npy", generator.standard_normal(each.parameters), allow_pickle=False)
            if columns:
                block = generator.standard_normal((each.parameters, columns))
                np.save(folder / f"{stem}V.npy", block, allow_pickle=False)
        self._columns = columns

    def start(self, entry: Entry, *, timeout: float = 900.0) -> Worker:
        """Return a worker in which the way ran on a tiny case and is loaded, not set up, for this one.

        The tiny case loads what libraries load late, which belongs neither to set-up nor to memory.

        Raises
        ------
        Absent, Failed
            If there is no interpreter for the way, its library is missing, or the tiny case fails.
        """
        python = Path(sys.executable) if entry.environment == "own" else self.peers
        if python is None or not python.exists():
            raise Absent("no environment with the other libraries")
        worker = Worker(str(python), timeout=timeout)
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(worker.close)
            self._load(worker, entry, self.case.tiny, "tiny-")
            worker.ask("setup")
            if self._columns:
                worker.ask("apply", block=True)
            self._load(worker, entry, self.case, "")
            on_failure.pop_all()
        return worker

    def _load(self, worker: Worker, entry: Entry, case: Case, stem: str) -> None:
        names = ["v.npy", *(["V.npy"] if self._columns else [])]
        request: dict[str, Any] = {"factory": entry.factory, "options": entry.options, "case": case.to_dict()}
        request["inputs"] = str(self.folder / f"{stem}inputs.npz")
        worker.ask("load", **request, vectors=[str(self.folder / f"{stem}{name}") for name in names])

    def apply(self, worker: Worker, *, block: bool) -> np.ndarray:
        """Return the product of a way that is set up, with the vector or the block."""
        out = self.folder / "out.npy"
        worker.ask("apply", block=block, out=str(out))
        result = np.load(out, allow_pickle=False)
        out.unlink()
        return result


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest relative difference of a column; infinite for other shapes or not finite numbers.

    >>> distance(np.array([1.0, np.nan]), np.ones(2)), distance(np.array([3.0, 4.0]), np.array([3.0, 5.0]))
    (inf, 0.171...)
    """
    if a.shape != b.shape or not np.isfinite(a).all():
        return float("inf")
    return float((np.linalg.norm(a - b, axis=0) / np.linalg.norm(b, axis=0)).max())
