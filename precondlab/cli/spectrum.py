"""``precondlab spectrum``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from precondlab.cli.output import JsonFlag, console, environment, print_json, refusals
from precondlab.factory import load_residual
from precondlab.operators import Gram, Jacobian, Kernel
from precondlab.report import draw_cumulative, draw_density, draw_measure, style
from precondlab.spectrum import Density, Measure, spectral_density, spectral_measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def spectrum(
    target: Annotated[str, typer.Argument(metavar="FILE.py:FACTORY", help="This runs the code in the file.")],
    num_matvecs: Annotated[int, typer.Option(min=1, help="Products per probe.")] = 80,
    num_probes: Annotated[int, typer.Option(min=1, help="Random probes.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Folder for pictures of density, counts and measure.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Estimate how the eigenvalues of A = JᵀJ are distributed, and how much of the loss each carries.

    FACTORY is as in `condition`. Counts are given with an interval of 95 %.
    """
    with refusals():
        residual = load_residual(target)
        J = Jacobian(residual)
        density = spectral_density(Gram(J), num_matvecs=num_matvecs, num_probes=num_probes)
        measure = spectral_measure(Kernel(J), start=J.value, num_matvecs=num_matvecs) if J.value.any() else None
        pictures = [] if out is None else _draw(density, measure, out)
    largest = float(density.nodes.max())
    counts = {f"above {share:g} λmax": density.count(share * largest) for share in (1e-1, 1e-3, 1e-6, 1e-9)}
    trace = density.moments(1)[1]
    effective = trace.value / largest if largest > 0 else 0.0
    document = {
        "ok": True,
        "operator": repr(Gram(J)),
        "size": density.size,
        "largest": largest,
        "trace": trace.to_dict(),
        "effective_rank": effective,
        "counts": {name: count.to_dict() for name, count in counts.items()},
        "density": density.to_dict(),
        "measure": None if measure is None else measure.to_dict(),
        "pictures": [str(path) for path in pictures],
        "environment": environment(),
    }
    if as_json:
        print_json(document)
        return
    grid = Table(title=escape(repr(Gram(J))), show_header=False, title_justify="left")
    grid.add_row("largest Ritz value", f"{largest:.8g}")
    grid.add_row("trace", escape(str(trace)))
    grid.add_row("effective rank tr A / λmax", f"{effective:.4g} of {density.size}")
    for name, count in counts.items():
        low, high = count.interval()
        grid.add_row(f"eigenvalues {name}", f"{max(low, 0):.4g} … {min(high, density.size):.4g}")
    console.print(grid)
    if measure is not None:
        seen = Table("Ritz value", "±", "share of the loss", title="Seen from the residual", title_justify="left")
        for node, radius, weight in list(zip(measure.nodes, measure.residuals, measure.weights, strict=True))[:-11:-1]:
            seen.add_row(f"{node:.8g}", f"{radius:.1e}", f"{weight / measure.mass:.3g}")
        console.print(seen)
    for path in pictures:
        console.print(f"wrote {path}")


def _draw(density: Density, measure: Measure | None, out: Path) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    draw: dict[str, Callable[[Axes], object]] = {}
    if density.nodes.max() > density.tolerance:
        draw = {
            "density": lambda axes: draw_density(axes, density),
            "count": lambda axes: draw_cumulative(axes, density),
        }
    if measure is not None:
        draw["measure"] = lambda axes: draw_measure(axes, measure)
    with style() as plt:
        for name, function in draw.items():
            figure, axes = plt.subplots()
            function(axes)
            figure.savefig(out / f"{name}.png")
            plt.close(figure)
    return [out / f"{name}.png" for name in draw]
