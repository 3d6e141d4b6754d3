"""``precondlab bench training``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from precondlab.cli.output import JsonFlag, finish, progress, refusals


def training(
    out: Annotated[Path, typer.Option(help="Folder for training.json, which is gone on with, and its picture.")] = Path(
        "bench-output"
    ),
    only: Annotated[list[str] | None, typer.Option(help="Name of a problem; all by default.")] = None,
    way: Annotated[list[str] | None, typer.Option(help="Name of a way to train; all by default.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, 3 or more to be quoted.")] = 3,
    seconds: Annotated[float | None, typer.Option(help="Processor seconds of a run; else the problem's.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, on a core each.")] = 1,
    again: Annotated[bool, typer.Option("--again", help="Repeat runs that the file holds.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train on the problems of the literature in every way on one budget: error against time.

    Interrupt it at any moment: the same command goes on, and draws what there is.
    """
    from precondlab.bench import training as benchmark
    from precondlab.bench import training_show as show
    from precondlab.bench.training_cases import select

    with refusals():
        document = benchmark.run(
            cases=select(only or ()),
            ways=benchmark.select_ways(way or ()),
            seeds=seeds,
            seconds=seconds,
            jobs=jobs,
            path=out / "training.json",
            again=again,
            report=progress.print,
        )
    finish("training", document, out, [show.draw(document, out)], show.tables(document), as_json)
