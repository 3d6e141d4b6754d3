"""The document of `bench training` as a picture and as tables on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from precondlab.bench.training_cases import CASES, Case
from precondlab.bench.ways.training import WAYS
from precondlab.report import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

__all__ = ["draw", "tables"]

Row = dict[str, Any]
_COLUMNS = 4
_TIMES = 200  # at which curves are drawn


def draw(document: Row, out: Path) -> Path:
    """Draw errors against seconds, a panel per problem: medians over seeds, from the least to the largest shaded.

    Stars are targets. Returns ``training.png``. Raises ImportError with the extra to install if matplotlib is missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    cases = [case for case in CASES if any(row["case"] == case.name for row in document["runs"])]
    count = len(cases) + 1  # the last place is for the legend
    columns = min(_COLUMNS, count)
    with style() as plt:
        figure, grid = plt.subplots(
            -(-count // columns), columns, figsize=(4.2 * columns, 3.2 * -(-count // columns)), squeeze=False
        )
        panels, colors = list(grid.flat), plt.get_cmap("tab10").colors  # type: ignore[attr-defined]
        for axes, case in zip(panels, cases, strict=False):
            _panel(axes, case, document["runs"], colors)
        for axes in panels[len(cases) :]:
            axes.set_axis_off()
        lines = [plt.Line2D([], [], color=color, label=way) for way, color in zip(WAYS, colors, strict=False)]
        star = plt.Line2D([], [], color="k", marker="*", linestyle="none", markersize=11, label="target")
        panels[-1].legend(handles=[*lines, star], loc="center", frameon=False)
        figure.tight_layout()
        figure.savefig(out / "training.png")
        plt.close("all")
    return out / "training.png"


def _panel(axes: Axes, case: Case, runs: list[Row], colors: Sequence[Any]) -> None:
    budget = max(row["budget"] for row in runs if row["case"] == case.name)
    for way, color in zip(WAYS, colors, strict=False):
        curves = [
            row["curve"]
            for row in runs
            if row["case"] == case.name and row["way"] == way and row.get("curve", {}).get("seconds")
        ]
        if not curves:
            continue
        times = np.geomspace(
            min(c["seconds"][0] for c in curves), max(budget, *(c["seconds"][-1] for c in curves)), _TIMES
        )
        errors = np.array([_sampled(curve, times) for curve in curves])
        known = np.isfinite(errors).sum(axis=0) * 2 > len(curves)  # a median exists
        width = 2.4 if way == next(iter(WAYS)) else 1.4
        axes.plot(times[known], np.median(errors[:, known], axis=0), color=color, linewidth=width)
        axes.fill_between(times[known], *_ends(errors[:, known]), color=color, alpha=0.15, linewidth=0)
    for error, limit in case.targets:
        axes.plot(limit, error, "k*", markersize=11, zorder=5)
    axes.axhline(1.0, color="0.6", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="processor seconds", ylabel="relative L² error")
    low, _ = axes.get_ylim()
    axes.set_ylim(low, 10.0)
    axes.set_title(case.title, fontsize=10)


def _ends(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return errors.min(axis=0), np.where(np.isfinite(errors), errors, np.nanmax(errors, initial=1.0)).max(axis=0)


def _sampled(curve: Row, times: np.ndarray) -> np.ndarray:
    """Return the error measured last at each time, infinite before the first and where it was no number."""
    seconds = np.array(curve["seconds"])
    errors = np.array([math.inf if error is None else error for error in curve["error"]])
    place = np.searchsorted(seconds, times, side="right") - 1
    return np.where(place < 0, math.inf, errors[np.maximum(place, 0)])


def tables(document: Row) -> list[Table]:
    """Return a rich table per problem."""
    return [
        _table(case, rows)
        for case in CASES
        if (rows := [row for row in document["summary"] if row["case"] == case.name])
    ]


def _table(case: Case, rows: list[Row]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    goals = ", ".join(f"{error:g} in {limit:g} s" for error, limit in case.targets)
    title = f"{case.title}, {max(row['budget'] for row in rows):g} s (targets: {goals})"
    found = Table(title=escape(title), title_justify="left")
    found.add_column("way", no_wrap=True)
    for name in ("error", "least", "largest", "runs", *(f"to {error:g}" for error, _ in case.targets)):
        found.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        times = [
            f"[{'green' if target['met'] else 'default'}]{_seconds(target['seconds'])}" for target in row["targets"]
        ]
        runs = f"{row['runs']}" + (f", {row['failed']} failed" if row["failed"] else "")
        errors = (_error(row[name]) for name in ("error", "least", "largest"))
        found.add_row(escape(row["way"]), *errors, runs, *times)
    return found


def _error(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g} s"
