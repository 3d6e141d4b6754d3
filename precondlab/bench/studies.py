"""How the cost of a product grows: with parameters, with points, and with the order of the equation."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from precondlab.bench.bound import flops, shapes
from precondlab.bench.cases import Case, derivative, laplacian, width_for
from precondlab.bench.pool import Absent, Failed
from precondlab.bench.session import Session, distance
from precondlab.bench.ways import Entry

__all__ = ["MEMORY_BUDGET", "orders", "scaling"]

#: Bytes given to precondlab in the scaling study.
MEMORY_BUDGET = 2**30

Row = dict[str, Any]
Report = Callable[[str], None]


def scaling(*, quick: bool = False, report: Report = lambda line: None) -> list[Row]:
    """Measure precondlab's default on networks of 1e4 … 1e7 parameters and on 1e3 … 1e6 points.

    Each size has a process of its own; one product is timed at most three times.
    """
    parameters = (500, 1000) if quick else tuple(10**k for k in range(4, 8))
    points = (100, 1000) if quick else tuple(10**k for k in range(3, 7))
    few, width = (50, 16) if quick else (1000, 64)
    cases = [("parameters", laplacian(width_for(n), few, few // 5, name=f"{n:g} parameters")) for n in parameters]
    cases += [("points", laplacian(width, n, n // 5, name=f"{n:g} points")) for n in points]
    entry = Entry("precondlab", "precondlab", "own:Residual", {"memory_budget": MEMORY_BUDGET})
    rows = []
    for axis, case in cases:
        report(f"scaling: {case.name}")
        row: Row = {
            "axis": axis,
            "parameters": case.parameters,
            "points": case.points,
            "budget_mb": MEMORY_BUDGET / 1e6,
        }
        rows.append(row | _measure(case, entry))
    return rows


def orders(*, quick: bool = False, report: Report = lambda line: None) -> list[Row]:
    """Measure a product for ``∂^k u`` in one dimension, k = 1 … 4, with the routes jets and graph."""
    rows = []
    for order in (1, 2) if quick else (1, 2, 3, 4):
        case = derivative(order, width=8, depth=2, points=50) if quick else derivative(order)
        truth: np.ndarray | None = None
        for route in ("graph", "jets"):
            report(f"order {order}: {route}")
            entry = Entry(route, "precondlab", "own:Residual", {"route": route}, tasks=("derivative",))
            found = _measure(case, entry, product := [])
            if found["status"] == "ok":
                truth = product[0] if truth is None else truth
                if (error := distance(product[0], truth)) > 1e-9:
                    found = {"status": "wrong", "reason": f"differs by {error:.1e} from the graph route"}
            rows.append({"order": order, "route": route, **found})
    return rows


def _measure(case: Case, entry: Entry, product: list[np.ndarray] | None = None) -> Row:
    """Return set-up, seconds, ratio and memory of one product, and append the product to a list."""
    with tempfile.TemporaryDirectory() as folder:
        session = Session(case, Path(folder), columns=0)
        try:
            with session.start(entry) as worker:
                rates = worker.ask("rates", shapes=shapes(case), at_least=0.05)["rates"]
                base = worker.ask("mark")["bytes"]
                setup = worker.ask("setup")
                seconds = worker.ask("clock", block=False, at_least=0.5, at_most=3)["wall"]
                memory = (worker.ask("peak")["bytes"] - base) / 1e6
                if product is not None:
                    product.append(session.apply(worker, block=False))
        except Failed as error:
            return {"status": "absent" if isinstance(error, Absent) else "failed", "reason": str(error)}
    bound = flops(case) / max(each["wall"] for each in rates)
    return {
        "status": "ok",
        "reason": "",
        "detail": setup["detail"],
        "setup_seconds": setup["seconds"],
        "seconds": seconds,
        "ratio": seconds / bound,
        "memory_mb": memory,
    }
