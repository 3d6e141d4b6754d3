"""The document of the benchmark as pictures and as tables on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from precondlab.report import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

__all__ = ["draw", "tables"]

Row = dict[str, Any]


def draw(document: Row, out: Path) -> list[Path]:
    """Draw ratios to the bound and memory, and the studies; return the files ``products*.png``.

    Raises ImportError with the extra to install if matplotlib is missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = []
    with style() as plt:
        cases = document["cases"]
        heights = [1.0 + 0.42 * max(1, len(_timed(case))) for case in cases]
        figure, grid = plt.subplots(
            len(cases), 2, figsize=(11, sum(heights) + 0.6), squeeze=False, height_ratios=heights, width_ratios=(2, 1)
        )
        for (left, right), case in zip(grid, cases, strict=True):
            _draw_case(left, right, case)
        written.append(_save(figure, out / "products.png"))
        if document["scaling"]:
            figure, grid = plt.subplots(2, 2, figsize=(9, 6.4), sharex="col")
            for column, axis in enumerate(("parameters", "points")):
                rows = [row for row in document["scaling"] if row["axis"] == axis and row["status"] == "ok"]
                _draw_scaling(grid[0][column], grid[1][column], axis, rows)
            written.append(_save(figure, out / "products-scaling.png"))
        if any(row["status"] == "ok" for row in document["orders"]):
            figure, axes = plt.subplots()
            _draw_orders(axes, document["orders"])
            written.append(_save(figure, out / "products-orders.png"))
        plt.close("all")
    return written


def _save(figure: Any, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path)
    return path


def _timed(case: Row) -> list[Row]:
    return [row for row in case["rows"] if row["status"] == "ok"]


def _draw_case(left: Axes, right: Axes, case: Row) -> None:
    """Draw bars of one case: product and block beside each other, memory to their right."""
    rows = sorted(_timed(case), key=lambda row: -row["product"]["ratio"])
    places = range(len(rows))
    targets = {target["figure"]: target["target"] for target in case["targets"]}
    for shift, kind, color, label in (
        (0.2, "product", "C0", "one vector"),
        (-0.2, "block", "C5", "block of 16, per vector"),
    ):
        ratios = [row[kind]["ratio"] for row in rows]
        below = [max(0.0, row[kind]["ratio"] - row[kind]["ratio_min"]) for row in rows]
        above = [max(0.0, row[kind]["ratio_max"] - row[kind]["ratio"]) for row in rows]
        at = [place + shift for place in places]
        left.barh(at, ratios, 0.38, color=color, label=label, xerr=[below, above], error_kw={"lw": 0.8})
        if kind in targets:
            left.axvline(targets[kind], color=color, linestyle="--", linewidth=1.2, label=f"target {targets[kind]:g}")
    left.axvline(1, color="k", linewidth=1, label="bound")
    left.set_xlim(0, 1.1 * max([1.0, *(row[kind]["ratio"] for row in rows for kind in ("product", "block"))]))
    left.set_yticks(list(places), [row["way"] for row in rows])
    left.set(xlabel="time / bound", title=f"{case['case']['name']}: {case['parameters']:,} parameters")
    left.legend(fontsize="small", loc="best", frameon=True, framealpha=0.9)
    right.barh(list(places), [row["memory_mb"] or 0 for row in rows], 0.6, color="C2")
    if "memory_mb" in targets:
        right.axvline(targets["memory_mb"], color="k", linestyle="--", linewidth=1.2)
    right.set_yticks(list(places), [""] * len(rows))
    right.set(xlabel="MB above base, one vector", xscale="symlog", title="memory")
    right.set_xlim(left=0)


def _draw_scaling(top: Axes, bottom: Axes, axis: str, rows: list[Row]) -> None:
    sizes = [row[axis] for row in rows]
    if not rows:
        return
    top.loglog(sizes, [row["seconds"] for row in rows], "o-", label="measured")
    top.loglog(sizes, [rows[-1]["seconds"] * size / sizes[-1] for size in sizes], "k:", label="linear")
    top.set(ylabel="seconds per product", title=f"against {axis}")
    top.legend()
    bottom.loglog(sizes, [max(row["memory_mb"], 0.1) for row in rows], "o-", color="C2", label="measured")
    bottom.axhline(rows[0]["budget_mb"], color="k", linestyle="--", linewidth=1.2, label="memory budget")
    bottom.set(ylabel="MB above base", xlabel=axis)
    bottom.legend()


def _draw_orders(axes: Axes, rows: list[Row]) -> None:
    for route in dict.fromkeys(row["route"] for row in rows):
        found = [row for row in rows if row["route"] == route and row["status"] == "ok"]
        if found:
            axes.plot([row["order"] for row in found], [row["seconds"] for row in found], "o-", label=route)
    axes.set(xlabel="order k of the derivative", ylabel="seconds per product", title="One product for $u^{(k)}$")
    axes.set_xticks(sorted({row["order"] for row in rows}))
    axes.set_ylim(bottom=0)
    axes.legend()


def tables(document: Row) -> list[Table]:
    """Return rich tables: one per case, one per study."""
    found = [_case_table(case) for case in document["cases"]]
    if document["scaling"]:
        columns = ("parameters", "points", "seconds", "ratio", "setup_seconds", "memory_mb", "detail")
        title = f"How cost grows with size, memory budget {_number(document['scaling'][0]['budget_mb'])} MB"
        found.append(_study_table(title, columns, document["scaling"]))
    if document["orders"]:
        columns = ("order", "route", "seconds", "ratio", "setup_seconds", "memory_mb", "detail")
        found.append(_study_table("How cost grows with the order of ∂ᵏu", columns, document["orders"]))
    return found


def _case_table(case: Row) -> Table:
    from rich.markup import escape
    from rich.table import Table

    bound = case["bound"]
    title = (
        f"{case['case']['name']}: {case['parameters']:,} parameters, bound {1e3 * bound['seconds']:.3g} ms "
        f"at {bound['gflops_per_second']:.3g} GFlop/s"
    )
    goals = [
        f"{target['figure']} {_number(target['measured'])} ≤ {target['target']:g} {'✓' if target['met'] else '✗'}"
        for target in case["targets"]
    ]
    gains = [f"{each['speedup']:.2g}× {each['way']} ({each['kind']})" for each in case["comparisons"]]
    notes = ["targets: " + ", ".join(goals), "precondlab is " + ", ".join(gains) if gains else ""]
    table = Table(title=escape(title), title_justify="left", caption_justify="left")
    table.add_column("time / bound", no_wrap=True)
    for name in ("A v", "min–max", "block", "MB", "MB block", "set-up s", "100 A v s"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in case["rows"]:
        if row["status"] != "ok":
            table.add_row(escape(row["way"]), f"[yellow]{row['status']}")
            notes.append(f"{row['way']}: {row['reason']}")
            continue
        one, block = row["product"], row["block"]
        table.add_row(
            escape(row["way"]),
            f"{one['ratio']:.2f}",
            f"{one['ratio_min']:.3g}–{one['ratio_max']:.3g}",
            f"{block['ratio']:.2f}",
            _number(row["memory_mb"]),
            _number(row["block_memory_mb"]),
            _number(row["setup_seconds"]),
            _number(row["hundred_seconds"]),
        )
    table.caption = escape("\n".join(filter(None, notes)))
    return table


def _study_table(title: str, columns: tuple[str, ...], rows: list[Row]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in columns:
        heading = {"setup_seconds": "set-up s", "memory_mb": "MB", "ratio": "/ bound"}.get(name, name)
        table.add_column(heading, justify="left" if name == "detail" else "right")
    for row in rows:
        shown = row if row["status"] == "ok" else {**row, "detail": f"{row['status']}: {row['reason']}"}
        table.add_row(*(escape(_number(shown.get(name, ""))) for name in columns))
    return table


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
