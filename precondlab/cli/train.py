"""``precondlab train``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import nn

from precondlab import demo
from precondlab.checkpoint import Autosave
from precondlab.cli.output import JsonFlag, console, environment, print_json, progress, refusals
from precondlab.factory import FactoryError, named_problem
from precondlab.map import Map
from precondlab.models import mlp, periodic
from precondlab.problems import Problem
from precondlab.training import Outcome, Session, optimizers
from precondlab.training.optimizers.minimizer import Minimizer

_OPTIMIZERS: dict[str, Callable[[Map], Minimizer]] = {
    "levenberg-marquardt": optimizers.LevenbergMarquardt,
    "spring": optimizers.Spring,
    "self-scaled-broyden": optimizers.SelfScaledBroyden,
    "lbfgs": optimizers.LBFGS,
    "newton-cg": optimizers.NewtonCG,
    "kfac": optimizers.KFAC,
    "gradient-descent": optimizers.GradientDescent,
}
_SAVED = 20.0  # seconds between checkpoints
_WRONG = (Outcome.BREAKDOWN, Outcome.DIVERGED, Outcome.OVERFITTED)


def train(
    target: Annotated[str, typer.Argument(metavar="PROBLEM", help="Name of a problem of the library.")],
    optimizer: Annotated[str, typer.Option(help=f"One of {', '.join(_OPTIMIZERS)}.")] = "levenberg-marquardt",
    width: Annotated[int, typer.Option(min=1, help="Width of the hidden layers.")] = 20,
    depth: Annotated[int, typer.Option(min=1, help="Number of hidden layers.")] = 2,
    points: Annotated[int, typer.Option(min=8, help="Points inside; an eighth as many for each condition.")] = 1500,
    every: Annotated[int, typer.Option(min=0, help="Steps after which points are drawn anew; 0 for never.")] = 0,
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="Gather new points where the residual is large.")
    ] = False,
    single: Annotated[int, typer.Option(min=0, help="First steps, taken in float32; the others are in float64.")] = 0,
    weight: Annotated[float, typer.Option(help="Weight λ of the equation against the conditions.")] = 0.01,
    steps: Annotated[int, typer.Option(min=1, help="Most steps.")] = 10_000,
    seconds: Annotated[float, typer.Option(min=0.1, help="Most seconds.")] = 60.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the network and the points.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for history, picture and checkpoints to go on from.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Train a tanh network on a problem with a known solution, and say how far it got and why it stopped.

    With --out the same command goes on where it was interrupted; larger --steps or --seconds go on where it ended.
    """
    with refusals():
        if optimizer not in _OPTIMIZERS:
            raise FactoryError(f"expected an optimizer of {', '.join(_OPTIMIZERS)}; got {optimizer!r}")
        if adaptive and not every:
            raise FactoryError(
                "--adaptive gathers points where the residual is large when they are drawn: give --every"
            )
        problem = named_problem(target)
        model = _network(problem, (width,) * depth, seed)

        def sample(number: int) -> Map:
            return problem.residual(
                model,
                interior=points,
                boundary=max(points // 8, 2 * problem.dim),
                weights={"interior": weight},
                seed=1000 * seed + number,
                adaptive=adaptive and number > 0,  # validation is on points that never change
            )

        session = Session(
            model, _OPTIMIZERS[optimizer], sample, error=lambda: problem.error(model), every=every, single=single
        )
        status = _train(session, out, steps=steps, seconds=seconds)
        error = problem.error(model, 40_000)
    document: dict[str, Any] = {
        "ok": status not in _WRONG,
        "problem": target,
        "optimizer": optimizer,
        "parameters": sum(p.numel() for p in model.parameters()),
        "residual": repr(session.optimizer.residual),
        "error": error,
        "steps": session.steps,
        "seconds": session.seconds,
        "status": status.name.lower(),
        "advice": status.advice,
        "environment": environment(),
    }
    written: list[Path] = []
    if out is not None:
        written = [demo.draw_history(session.history, out), out / "training.json"]
        text = json.dumps(document | {"history": session.history}, indent=1, ensure_ascii=False)
        written[1].write_text(text + "\n", encoding="utf-8")
    if as_json:
        print_json(document | {"files": [str(path) for path in written]})
    else:
        grid = Table(title=escape(repr(problem)), show_header=False, title_justify="left")
        grid.add_row("relative L² error", f"{error:.3g}")
        for name in ("loss", "validation"):
            known = [row[name] for row in session.history if row[name] is not None]
            grid.add_row(name, f"{known[-1]:.3g}" if known else "–")
        grid.add_row("parameters", str(document["parameters"]))
        grid.add_row("steps, seconds", f"{session.steps}, {session.seconds:.3g}")
        grid.add_row("stopped", f"{status.name.lower()}: {status.advice}")
        console.print(grid)
        for path in written:
            console.print(f"wrote {path}")
    raise typer.Exit(0 if document["ok"] else 1)


def _network(problem: Problem, hidden: tuple[int, ...], seed: int) -> nn.Module:
    """Return a tanh network, periodic in the coordinates in which the problem is."""
    periods: list[float | None] = [None] * problem.dim
    for condition in problem.conditions:
        for axis, shift in enumerate(condition.shift or ()):
            periods[axis] = shift or periods[axis]
    inputs = sum(1 if period is None else 2 for period in periods)
    network = mlp((inputs, *hidden, 1), seed=seed)
    return periodic(network, periods) if any(periods) else network


def _train(session: Session, out: Path | None, *, steps: int, seconds: float) -> Outcome:
    columns = (BarColumn(), TextColumn("step {task.fields[step]}, loss {task.fields[loss]}"), TimeElapsedColumn())
    with Progress(*columns, console=progress, disable=not progress.is_terminal, transient=True) as bar:
        save = None if out is None else Autosave(out / "checkpoints", every=_SAVED)
        if save is not None:
            save(session)
        task = bar.add_task("", total=1.0, step=session.steps, loss="–")

        def show(session: Session) -> None:
            part = max(session.steps / steps, session.seconds / seconds)
            bar.update(task, completed=part, step=session.steps, loss=f"{session.history[-1]['loss']:.2e}")

        callbacks: list[Callable[[Session], object]] = [show] if save is None else [show, save]
        status = session.run(steps=steps, seconds=seconds, callbacks=callbacks)
        if save is not None:
            save.every = 0.0
            save(session)
    return status
