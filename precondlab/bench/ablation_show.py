"""The ablation in one picture, and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from precondlab.report import style

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["draw", "tables"]

Row = dict[str, Any]

_TITLES = {
    "descent": "Gradient descent; open, M made again every 10 steps",
    "lm": "Levenberg–Marquardt, CG inside; open, M made for each system",
    "adam": "Adam: no theory, against that of descent",
}
_MARKERS = (
    *"os^vD<>pPXh*dH",
    *((n, 1, angle) for n in range(3, 10) for angle in (0, 180 / n)),
)
_LONGEST = 4.0  # log₁₀ of steps that is darkest


def draw(document: Row, out: Path) -> Path:
    """Draw predicted against measured speed-ups and the steps made; return the file ``ablation.png``."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [row for row in document["rows"] if row["status"] == "ok"]
    methods = list(dict.fromkeys(row["method"] for row in document["rows"]))
    cases = [case["name"] for case in document["cases"]]
    with style() as plt:
        figure, grid = plt.subplots(
            *(2, 3), figsize=(17, 6.6 + 0.3 * len(methods)), height_ratios=(5.2, 1.2 + 0.3 * len(methods))
        )
        for (name, title), axes in zip(_TITLES.items(), grid[0], strict=True):
            _scatter(axes, rows, cases, methods, name)
            axes.set_title(title, fontsize="medium")
        for (name, heading), axes in zip(_HEADINGS.items(), grid[1], strict=True):
            _heat(axes, document, cases, methods, name)
            axes.set_title(heading, fontsize="medium")
        marks = [
            plt.Line2D([], [], color="0.3", marker=_MARKERS[i], linestyle="", label=method)
            for i, method in enumerate(methods)
            if method != "none"
        ]
        colors = [
            plt.Line2D([], [], color=f"C{i}", marker="o", linestyle="", label=name) for i, name in enumerate(cases)
        ]
        figure.legend(handles=[*colors, *marks], loc="center left", bbox_to_anchor=(0.995, 0.72), fontsize="small")
        figure.tight_layout()
        figure.savefig(out / "ablation.png", bbox_inches="tight")
        plt.close(figure)
    return out / "ablation.png"


_HEADINGS = {
    "descent": "Gradient descent: steps made; with M made again",
    "lm": "Levenberg–Marquardt: products made; with M made again",
    "adam": "Adam: steps made",
}


def _scatter(axes: Any, rows: Sequence[Row], cases: Sequence[str], methods: Sequence[str], name: str) -> None:
    points = []
    for row in rows:
        speedup = row["speedup"]
        x = speedup["descent" if name == "adam" else name]["predicted"]
        place = {"color": f"C{cases.index(row['case'])}", "marker": _MARKERS[methods.index(row["method"])]}
        for y, fill in ((speedup[name]["steps"], "full"), (speedup[name]["remade"], "none")):
            if row["method"] != "none" and x is not None and y is not None:
                points += [x, y]
                axes.loglog(x, y, markersize=7, alpha=0.8, linestyle="", fillstyle=fill, **place)
    low, high = 0.6 * min(points, default=1.0), 1.7 * max(points, default=1.0)
    axes.plot([low, high], [low, high], color="0.5", linewidth=1, zorder=0)
    axes.axhline(1, color="0.8", linewidth=1, zorder=0)
    axes.set(xlim=(low, high), ylim=(low, high), xlabel="predicted speed-up", ylabel="measured speed-up")


def _heat(axes: Any, document: Row, cases: Sequence[str], methods: Sequence[str], name: str) -> None:
    values = np.full((len(methods), len(cases)), np.nan)
    texts = np.full(values.shape, "–", dtype=object)
    for row in document["rows"]:
        if row["status"] != "ok":
            continue
        place, run = (methods.index(row["method"]), cases.index(row["case"])), row[name]
        limit = 20 * row["parameters"] if name == "lm" else document["cases"][place[1]]["limit"]
        texts[place], values[place] = _cell(run, row["step_matvecs"] if name == "lm" else 1, limit)
        if run.get("remade"):
            again, value = _cell(run["remade"], row["step_matvecs"] if name == "lm" else 1, limit)
            values[place] = np.fmin(values[place], value)
            if again != texts[place]:
                texts[place] = f"{texts[place]}; {again}"
    logs = np.log10(np.maximum(values, 1))
    axes.imshow(logs, cmap="viridis_r", vmin=0, vmax=_LONGEST, aspect="auto")
    for (i, j), text in np.ndenumerate(texts):
        color = "0.4" if np.isnan(logs[i, j]) else "w" if logs[i, j] > 0.55 * _LONGEST else "k"
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(len(cases)), cases, rotation=20, ha="right", fontsize="small")
    axes.set_yticks(range(len(methods)), methods, fontsize="small")
    axes.grid(visible=False)


def _cell(run: Row, cost: int, limit: int) -> tuple[str, float]:
    """Return what a run is called, and the steps that its color stands for."""
    if run["steps"] is not None:
        return f"{run['steps'] * cost}", run["steps"] * cost
    if run.get("reached", 1.0) is None:
        return "diverged", np.nan
    return f"> {limit}", 10**_LONGEST


def tables(document: Row) -> list[Table]:
    """Return a rich table per problem: steps predicted / made / made with M again, and seconds with the set-up."""
    from rich.table import Table

    found = []
    for case in document["cases"]:
        table = Table(title=f"{case['name']}: to {case['wanted']:g} of the loss", title_justify="left")
        for title in ("", "κ", "set-up", "per step", "descent", "seconds", "Adam", "seconds", "LM", "seconds"):
            table.add_column(title, justify="right" if title else "left", no_wrap=True)
        for row in document["rows"]:
            if row["case"] != case["name"]:
                continue
            if row["status"] != "ok":
                table.add_row(row["method"], "refused")
                continue
            cells = [_number(row[key]) for key in ("kappa", "setup_matvecs", "step_matvecs")]
            for name in ("descent", "adam", "lm"):
                run = row[name]
                steps = _number(run["steps"])
                if name != "adam":
                    steps = f"{_number(run['predicted'])} / {steps}"
                if run.get("remade"):
                    steps += f" / {_number(run['remade']['steps'])}"
                cells += [steps, f"{run['seconds']:.2g}"]
            table.add_row(row["method"], *cells)
        found.append(table)
    return found


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value}" if isinstance(value, int) else f"{value:.3g}"
