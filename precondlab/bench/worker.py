"""The process in which one way or computation lives: JSON lines in, JSON lines out.

Started by :mod:`precondlab.bench.pool` with the interpreter the way needs, pinned to one core; arrays travel
as ``.npy`` files. A request is ``{"do": verb, …}``, an answer ``{"ok": true, …}`` or
``{"ok": false, "kind": "absent" | "failed", "reason": …}``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from precondlab.bench import memory
from precondlab.bench.cases import Case
from precondlab.bench.inputs import read
from precondlab.bench.ways.spectral.computation import Computation
from precondlab.bench.ways.way import NotAvailable, Way

__all__ = ["Server", "main", "once"]

_MOST_CALLS = 1000


def main(core: int) -> None:
    """Answer requests until the input ends or one says ``exit``."""
    if core >= 0:
        os.sched_setaffinity(0, {core})
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with answers
    server = Server()
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "exit":
            break
        answers.write(json.dumps(server.answer(request)) + "\n")
        answers.flush()


class Server:
    """One way and its vectors; a public method per verb."""

    def __init__(self) -> None:
        self.way: Way[Any] | None = None
        self.vectors: dict[bool, Any] = {}
        self.computation: Computation | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one request; whatever goes wrong becomes an answer."""
        verb = request.pop("do")
        names = ("load", "setup", "apply", "clock", "mark", "peak", "rates", "prepare", "compute")
        verbs = {name: getattr(self, name) for name in names}
        verbs["versions"] = versions
        try:
            return {"ok": True, **verbs[verb](**request)}
        except (NotAvailable, ImportError) as error:
            return {"ok": False, "kind": "absent", "reason": _line(error)}
        except Exception as error:  # other libraries raise anything; the parent reports it
            return {"ok": False, "kind": "failed", "reason": f"{type(error).__name__}: {_line(error)}"}

    def load(
        self, *, factory: str, options: dict[str, Any], case: dict[str, Any], inputs: str, vectors: list[str]
    ) -> dict[str, Any]:
        """Make the way of a case, not yet set up, and its vectors: a single one, then a block."""
        self.way = way = _find(factory)(read(Case.from_dict(case), Path(inputs)), **options)
        arrays = [np.load(path, allow_pickle=False) for path in vectors]
        self.vectors = {array.ndim == 2: way.enter(array) for array in arrays}
        return {}

    def setup(self) -> dict[str, Any]:
        """Set up and multiply once, which compiles what is compiled late; return the seconds of both."""
        way = self._loaded()
        start = time.perf_counter()
        way.setup()
        way.product(self.vectors[False])
        return {"seconds": time.perf_counter() - start, "detail": way.describe()}

    def apply(self, *, block: bool, out: str | None = None) -> dict[str, Any]:
        """Multiply once and write the product to a file, if one is named."""
        result = self._product(block)(self.vectors[block])
        if out is not None:
            np.save(out, self._loaded().leave(result), allow_pickle=False)
        return {}

    def clock(self, *, block: bool, at_least: float, at_most: int = _MOST_CALLS) -> dict[str, Any]:
        """Time products for so many seconds; return medians of wall and processor seconds."""
        product, vector = self._product(block), self.vectors[block]
        return once(lambda: product(vector), at_least, at_most)

    def prepare(
        self, *, factory: str, options: dict[str, Any], case: dict[str, Any] | None, inputs: str
    ) -> dict[str, Any]:
        """Make a computation."""
        given = None if case is None else read(Case.from_dict(case), Path(inputs))
        self.computation = _find(factory)(given, **options)
        return {}

    def compute(self) -> dict[str, Any]:
        """Run the computation; return its outcome with wall and processor seconds."""
        if self.computation is None:
            raise ValueError("no computation is prepared")
        cpu, start = time.process_time(), time.perf_counter()
        outcome = self.computation.outcome()
        return {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu, "outcome": outcome}

    def mark(self) -> dict[str, Any]:
        used, exact = memory.mark()
        return {"bytes": used, "exact": exact}

    def peak(self) -> dict[str, Any]:
        return {"bytes": memory.peak()}

    def rates(self, *, shapes: list[list[int]], at_least: float) -> dict[str, Any]:
        """Return flops per second of float64 matrix products ``[m k] @ [k n]`` into a given result."""
        import torch

        torch.set_num_threads(1)
        found = []
        for m, k, n in shapes:
            a, b = torch.full((m, k), 0.5, dtype=torch.float64), torch.full((k, n), 0.5, dtype=torch.float64)
            out = torch.empty(m, n, dtype=torch.float64)
            torch.mm(a, b, out=out)
            measured = once(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), at_least, _MOST_CALLS)
            found.append({"wall": 2 * m * k * n / measured["wall"], "cpu": 2 * m * k * n / measured["cpu"]})
        return {"rates": found}

    def _product(self, block: bool) -> Callable[[Any], Any]:
        way = self._loaded()
        return way.block if block else way.product

    def _loaded(self) -> Way[Any]:
        if self.way is None:
            raise ValueError("no way is loaded")
        return self.way


def once(work: Callable[[], object], at_least: float, at_most: int) -> dict[str, Any]:
    """Repeat some work for so many seconds, at most so often; return median wall and processor seconds."""
    wall, processor = [], []
    end = time.perf_counter() + at_least
    while len(wall) < at_most:
        cpu, start = time.process_time(), time.perf_counter()
        work()
        stop = time.perf_counter()
        wall.append(stop - start)
        processor.append(time.process_time() - cpu)
        if stop >= end:
            break
    return {"wall": statistics.median(wall), "cpu": statistics.median(processor), "calls": len(wall)}


def versions(*, names: list[str]) -> dict[str, Any]:
    """Return the versions of distributions installed here."""
    found = {"python": sys.version.split()[0]}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"versions": found}


def _find(factory: str) -> Callable[..., Any]:
    """Return the class of ``"module:Class"`` below ``precondlab.bench.ways``, or of ``"FILE.py:Class"``."""
    place, _, name = factory.rpartition(":")
    if not place.endswith(".py"):
        return getattr(importlib.import_module(f"precondlab.bench.ways.{place}"), name)
    spec = importlib.util.spec_from_file_location("way", place)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {place}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
