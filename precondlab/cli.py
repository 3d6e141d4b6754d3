"""The command line."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import torch

try:
    import typer
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track
    from rich.table import Table as Grid
except ImportError as error:
    raise SystemExit("the command line needs typer and rich: pip install 'precondlab[cli]'") from error

from precondlab import demo as demonstration
from precondlab import preconditioners
from precondlab.factory import FactoryError, load_problem, load_residual
from precondlab.operators import Gram, Jacobian, Kernel
from precondlab.report import Table, draw_cumulative, draw_density, draw_measure, style
from precondlab.spectrum import Density, Measure, spectral_density, spectral_measure
from precondlab.spectrum import condition as condition_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Spectra and preconditioners for physics-informed training.",
)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
progress = Console(stderr=True)
_OPTIONAL = {  # extra → its package
    "plot": "matplotlib",
    "testing": "hypothesis",
    "checkpoint": "safetensors",
    "deepxde": "deepxde",
    "lightning": "lightning",
    "pina": "pina",
    "huggingface": "transformers",
}
console = Console()


@app.callback()
def main() -> None:
    """Spectra and preconditioners for physics-informed training."""
    torch.set_num_threads(1)  # more threads are slower on matrices of this size


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for pictures and demo.json.")] = Path("demo-output"),
    as_json: JsonFlag = False,
) -> None:
    """Recompute the tables of the theory, measured beside predicted, and draw spectra and training curves."""
    steps = demonstration.TABLES
    tables = [make() for make in track(steps, description="tables", console=progress, disable=not progress.is_terminal)]
    pictures = demonstration.draw(out)
    agrees = all(table.agrees for table in tables)
    document = {
        "ok": agrees,
        "tables": [table.to_dict() for table in tables],
        "pictures": [str(path) for path in pictures],
        "environment": environment(),
    }
    (out / "demo.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if as_json:
        _print_json(document)
    else:
        for table in tables:
            console.print(_grid(table))
        for path in [*pictures, out / "demo.json"]:
            console.print(f"wrote {path}")
        verdict = "every number agrees with theory" if agrees else "[bold red]some numbers disagree with theory"
        console.print(verdict)
    raise typer.Exit(0 if agrees else 1)


@app.command()
def condition(
    target: Annotated[str, typer.Argument(metavar="FILE.py:FACTORY", help="This runs the code in the file.")],
    num_matvecs: Annotated[int | None, typer.Option(min=1, help="Budget of products with A.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of gradient descent to predict.")] = 1000,
    out: Annotated[Path | None, typer.Option(help="Folder for pictures of spectrum and training.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Enclose the condition number of A = JᵀJ for a residual of your own.

    FACTORY takes no arguments and returns a pl.Map, or a pair (model, closure) whose closure returns
    the residual.
    """
    try:
        residual = load_residual(target)
        J = Jacobian(residual)
        result = condition_of(Gram(J), num_matvecs=num_matvecs)
        pictures = [] if out is None else demonstration.draw_residual(J, out, steps=steps)
    except (ArithmeticError, FactoryError, TypeError, ValueError) as error:
        progress.print(f"[bold red]error:[/] {escape(str(error))}")
        raise typer.Exit(2) from None
    document = result.to_dict() | {
        "operator": repr(Gram(J)),
        "residual": repr(residual),
        "loss": 0.5 * float(residual.value @ residual.value),
        "pictures": [str(path) for path in pictures],
        "environment": environment(),
    }
    if as_json:
        _print_json(document)
    else:
        grid = Grid(title=escape(repr(Gram(J))), show_header=False, title_justify="left")
        for name in ("estimate", "lower", "upper", "resolved", "rank", "size", "largest", "smallest"):
            grid.add_row(name, f"{getattr(result, name):.8g}")
        grid.add_row("noise floor", f"{result.noise_floor:.3g}")
        grid.add_row("products", str(result.num_matvecs))
        grid.add_row("method", result.method)
        grid.add_row("status", f"{result.status.name.lower()}: {result.status.advice}")
        console.print(grid)
        for path in pictures:
            console.print(f"wrote {path}")
    raise typer.Exit(0 if result.status.ok else 1)


@app.command()
def precondition(
    target: Annotated[str, typer.Argument(metavar="PROBLEM", help="Name of a problem, or FILE.py:FACTORY.")],
    frequencies: Annotated[int, typer.Option(min=1, help="Highest frequency of the Fourier series, for a name.")] = 20,
    budget: Annotated[int, typer.Option(min=2, help="Products each candidate may spend.")] = 500,
    damping: Annotated[float, typer.Option(min=0.0, help="Added to A; positive for a singular A.")] = 0.0,
    out: Annotated[Path | None, typer.Option(help="Folder for a picture of the spectra before and after.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Try the preconditioners that apply to A = JᵀJ and rank them by what a solution costs."""
    try:
        more = {}
        if ":" in target:
            residual = load_residual(target)
        else:
            problem, model, residual = load_problem(target, frequencies=frequencies)
            if getattr(problem, "symbol", None) is not None:
                more["symbol"] = preconditioners.symbol(problem, model)
        A = Gram(Jacobian(residual))
        found = preconditioners.design(A, budget=budget, candidates=more, damping=damping)
        pictures = [] if out is None else [demonstration.draw_design(A, found, out)]
    except (ArithmeticError, FactoryError, TypeError, ValueError) as error:
        progress.print(f"[bold red]error:[/] {escape(str(error))}")
        raise typer.Exit(2) from None
    if as_json:
        _print_json(found.to_dict() | {"pictures": [str(path) for path in pictures], "environment": environment()})
    else:
        console.print(f"{A!r}\n\n{found}", markup=False, highlight=False, soft_wrap=True)
        for path in pictures:
            console.print(f"wrote {path}")
    raise typer.Exit(0 if found.best.status.ok else 1)


@app.command()
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
    try:
        residual = load_residual(target)
        J = Jacobian(residual)
        density = spectral_density(Gram(J), num_matvecs=num_matvecs, num_probes=num_probes)
        measure = spectral_measure(Kernel(J), start=J.value, num_matvecs=num_matvecs) if J.value.any() else None
        pictures = [] if out is None else _draw_spectrum(density, measure, out)
    except (ArithmeticError, FactoryError, TypeError, ValueError) as error:
        progress.print(f"[bold red]error:[/] {escape(str(error))}")
        raise typer.Exit(2) from None
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
        _print_json(document)
        return
    grid = Grid(title=escape(repr(Gram(J))), show_header=False, title_justify="left")
    grid.add_row("largest Ritz value", f"{largest:.8g}")
    grid.add_row("trace", escape(str(trace)))
    grid.add_row("effective rank tr A / λmax", f"{effective:.4g} of {density.size}")
    for name, count in counts.items():
        low, high = count.interval()
        grid.add_row(f"eigenvalues {name}", f"{max(low, 0):.4g} … {min(high, density.size):.4g}")
    console.print(grid)
    if measure is not None:
        seen = Grid("Ritz value", "±", "share of the loss", title="Seen from the residual", title_justify="left")
        for node, radius, weight in list(zip(measure.nodes, measure.residuals, measure.weights, strict=True))[:-11:-1]:
            seen.add_row(f"{node:.8g}", f"{radius:.1e}", f"{weight / measure.mass:.3g}")
        console.print(seen)
    for path in pictures:
        console.print(f"wrote {path}")


@app.command()
def doctor(as_json: JsonFlag = False) -> None:
    """Say what a result depends on besides its inputs: versions, threads, device, optional packages."""
    optional = {extra: find_spec(package) is not None for extra, package in _OPTIONAL.items()}
    document = environment() | {"optional": optional}
    if as_json:
        _print_json(document)
    else:
        grid = Grid(show_header=False)
        for name, value in environment().items():
            grid.add_row(name, str(value))
        for extra, present in optional.items():
            grid.add_row(extra, "installed" if present else escape(f"missing: pip install 'precondlab[{extra}]'"))
        console.print(grid)


bench = typer.Typer(no_args_is_help=True, help="Measure precondlab beside the arithmetic bound and other libraries.")
app.add_typer(bench, name="bench")


@bench.callback()
def benchmarks() -> None:
    """Measure precondlab beside the arithmetic bound and other libraries."""


@bench.command()
def products(
    out: Annotated[Path, typer.Option(help="Folder for products.json and pictures.")] = Path("bench-output"),
    peers: Annotated[Path, typer.Option(help="Interpreter with the other libraries (make peers).")] = Path(
        ".venv-peers/bin/python"
    ),
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of timing; 5 or more to be quoted.")] = 7,
    quick: Annotated[bool, typer.Option("--quick", help="A tiny network: only that everything works.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Time products with JᵀJ in every way, as a ratio to the arithmetic bound."""
    from precondlab.bench import products as benchmark
    from precondlab.bench import show

    found = peers.absolute() if peers.exists() else None  # not resolve(): the link is what makes it a venv
    document = benchmark.run(quick=quick, rounds=rounds, peers=found, report=progress.print)
    pictures = show.draw(document, out)
    _finish("products", document, out, pictures, show.tables(document), as_json)


@bench.command()
def coverage(
    out: Annotated[Path, typer.Option(help="Folder for coverage.json and its picture.")] = Path("bench-output"),
    runs: Annotated[int, typer.Option(min=1, help="Number of intervals; 10000 or more to be quoted.")] = 10_000,
    as_json: JsonFlag = False,
) -> None:
    """Count how often intervals for κ hold, over the gallery of known spectra and drawn ones."""
    from precondlab.bench import coverage as campaign

    document = campaign.run(runs=runs, report=progress.print)
    picture = campaign.draw(document, out)
    _finish("coverage", document, out, [picture], [campaign.table(document)], as_json)


@bench.command(name="preconditioners")
def compare_preconditioners(
    out: Annotated[Path, typer.Option(help="Folder for preconditioners.json and its picture.")] = Path("bench-output"),
    budget: Annotated[int, typer.Option(min=2, help="Products each candidate may spend.")] = 500,
    as_json: JsonFlag = False,
) -> None:
    """Try every preconditioner on every problem: κ, set-up, predicted and real steps."""
    from precondlab.bench import preconditioners as workshop

    document = workshop.run(budget=budget, report=progress.print)
    picture = workshop.draw(document, out)
    _finish("preconditioners", document, out, [picture], workshop.tables(document), as_json)


@bench.command()
def spectra(
    out: Annotated[Path, typer.Option(help="Folder for spectra.json and its picture.")] = Path("bench-output"),
    peers: Annotated[Path, typer.Option(help="Interpreter with the other libraries (make peers).")] = Path(
        ".venv-peers/bin/python"
    ),
    only: Annotated[list[str] | None, typer.Option(help="Name of a study; all by default.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small operators: only that everything works.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Compute condition numbers, eigenvalues and densities in every library, checked against the truth."""
    from precondlab.bench import spectra as benchmark
    from precondlab.bench import spectra_show as show

    try:
        studies = benchmark.select(only or (), quick=quick)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    found = peers.absolute() if peers.exists() else None
    document = benchmark.run(quick=quick, studies=studies, peers=found, report=progress.print)
    picture = show.draw(document, out)
    _finish("spectra", document, out, [picture], show.tables(document), as_json)


def _finish(
    name: str, document: dict[str, Any], out: Path, pictures: list[Path], tables: list[Grid], as_json: bool
) -> NoReturn:
    """Write the document of a benchmark, show it, and exit with whether it is what it claims."""
    path = out / f"{name}.json"
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if as_json:
        _print_json(document)
    else:
        for table in tables:
            console.print(table)
        for written in [*pictures, path]:
            console.print(f"wrote {written}")
    raise typer.Exit(0 if document["ok"] else 1)


def environment() -> dict[str, Any]:
    """Return versions, threads and devices: what a number depends on besides its inputs."""
    import numpy
    import scipy

    import precondlab

    return {
        "precondlab": precondlab.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
    }


def _grid(table: Table) -> Grid:
    grid = Grid(title=escape(table.title), title_justify="left")
    grid.add_column("")
    grid.add_column("theory", justify="right")
    grid.add_column("measured", justify="right")
    grid.add_column("")
    for row in table.rows:
        mark = "[green]✓" if row.agrees else "[bold red]✗"
        grid.add_row(escape(row.quantity), row.theory, f"{row.measured:.8g}", mark)
    return grid


def _draw_spectrum(density: Density, measure: Measure | None, out: Path) -> list[Path]:
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


def _print_json(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
