"""The document of `bench spectra` as a picture and as tables on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from precondlab.report import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

__all__ = ["draw", "tables"]

Row = dict[str, Any]
_DECADES = 20.0  # ratio of bars from which on the axis is logarithmic
_COLORS = {"right": "C2", "warned": "C1", "wrong": "C3", "gave up": "0.6", "failed": "0.6"}


def draw(document: Row, out: Path) -> Path:
    """Draw products or processor time of every way, colored by what its result was worth; return ``spectra.png``.

    Raises ImportError with the extra to install if matplotlib is missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    studies = document["studies"]
    heights = [1.2 + 0.3 * len(_ran(study)) for study in studies]
    with style() as plt:
        figure, grid = plt.subplots(len(studies), 1, figsize=(9, sum(heights)), squeeze=False, height_ratios=heights)
        for (axes,), study in zip(grid, studies, strict=True):
            _draw_study(axes, study)
        figure.tight_layout()
        figure.savefig(out / "spectra.png")
        plt.close("all")
    return out / "spectra.png"


def _ran(study: Row) -> list[Row]:
    return [row for row in study["rows"] if "cpu_seconds" in row]


def _draw_study(axes: Axes, study: Row) -> None:
    rows = _ran(study)[::-1]
    figure = "products" if study["kind"] == "condition" else "cpu_seconds"
    axes.barh([row["way"] for row in rows], [row[figure] for row in rows], color=[_COLORS[r["status"]] for r in rows])
    for place, row in enumerate(rows):
        note = row["status"] if row.get("error") is None else f"{row['status']}, error {row['error']:.0e}"
        axes.annotate(note, (row[figure], place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set(xlabel="products" if figure == "products" else "processor seconds")
    axes.set_title(study["title"], fontsize=10)
    sizes = [row[figure] for row in rows if row[figure] > 0]
    if max(sizes, default=1) > _DECADES * min(sizes, default=1):
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.set_xlim(low, high * (high / low) ** 0.35)
    else:
        axes.set_xlim(0, 1.35 * axes.get_xlim()[1])


def tables(document: Row) -> list[Table]:
    """Return a rich table per study."""
    return [_table(study) for study in document["studies"]]


def _table(study: Row) -> Table:
    from rich.markup import escape
    from rich.table import Table

    found = Table(title=escape(study["title"]), title_justify="left", caption_justify="left")
    found.add_column("way", no_wrap=True)
    found.add_column("")
    for name in ("error", "products", "cpu-s", "min–max", "MB", "MB total"):
        found.add_column(name, justify="right", no_wrap=True)
    notes = []
    for row in study["rows"]:
        color = {"right": "green", "wrong": "red"}.get(row["status"], "yellow")
        if row["reason"]:
            notes.append(f"{row['way']}: {row['reason']}")
        found.add_row(
            escape(row["way"]),
            f"[{color}]{row['status']}",
            "–" if row.get("error") is None else f"{row['error']:.1e}",
            _number(row.get("products")),
            _number(row.get("cpu_seconds")),
            f"{row['cpu_min']:.3g}–{row['cpu_max']:.3g}" if row.get("runs", 0) > 1 else "",
            _number(row.get("memory_mb")),
            _number(row.get("total_mb")),
        )
    goals = [
        f"{goal['figure']} {_number(goal['measured'])} ≤ {goal['target']:g} {'✓' if goal['met'] else '✗'}"
        for goal in study["targets"]
    ]
    gains = [f"{each['speedup']:.2g}× {each['way']}" for each in study["comparisons"]]
    lines = [
        "targets: " + ", ".join(goals) if goals else "",
        "precondlab's time: " + ", ".join(gains) if gains else "",
        *notes,
    ]
    found.caption = escape("\n".join(filter(None, lines)))
    return found


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
