"""Kill runs at random times, resume them, and compare with runs that were left alone: ``python kills.py 200 [seed]``.

Every run is a process of its own, forked from this one so that it starts at once, and killed by SIGKILL. After
each kill the folder is read. Prints one JSON document.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from precondlab.checkpoint import Autosave, CheckpointError, load, save, saved
from precondlab.map import Map
from precondlab.operators import Diagonal
from precondlab.spectrum import eigsh, svds
from precondlab.training.optimizers import LevenbergMarquardt

torch.set_num_threads(1)


def _operator() -> Diagonal:
    return Diagonal(torch.linspace(1, 2, 2000, dtype=torch.float64) ** 8)


def _callback(folder: Path | None) -> Autosave | None:
    return None if folder is None else Autosave(folder, every=0)


def eigenvalues(folder: Path | None) -> list:
    """A block Krylov–Schur run with restarts."""
    start = torch.randn(2000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = eigsh(_operator(), 4, which="BE", v0=start, ncv=12, num_matvecs=60, callback=_callback(folder))
    return [found.values, found.vectors, found.residuals, found.num_matvecs]


def singular_values(folder: Path | None) -> list:
    """A Golub–Kahan run with restarts."""
    found = svds(_operator(), 3, ncv=10, num_matvecs=30, callback=_callback(folder))
    return [found.values, found.left, found.right, found.residuals, found.num_matvecs]


def training(folder: Path | None) -> list:
    """Levenberg–Marquardt on a small network."""
    generator = torch.Generator().manual_seed(2)
    points = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
    shapes = {"hidden": (1, 10), "bias": (10,), "output": (10, 1)}
    params = {k: torch.randn(s, dtype=torch.float64, generator=generator) for k, s in shapes.items()}

    def residual(p: dict) -> torch.Tensor:
        return (torch.tanh(points @ p["hidden"] + p["bias"]) @ p["output"] - torch.sin(3 * points))[:, 0]

    optimizer = LevenbergMarquardt(Map(residual, params))
    losses = []
    if folder is not None and saved(folder):
        state = load(folder)
        losses = state["losses"]
        for name, value in state["params"].items():
            params[name].copy_(value)
        optimizer.load_state_dict(state["optimizer"])
    while len(losses) < 15:
        losses.append(optimizer.step().item())
        if folder is not None:
            save(folder, {"params": params, "optimizer": optimizer.state_dict(), "losses": losses})
    return [*params.values(), losses]


RUNS = [eigenvalues, singular_values, training]


def start(run, folder: Path | None, result: Path) -> int:
    """Fork a process that writes the digest of a run's result, and return its id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        digest = hashlib.sha256()
        for part in run(folder):
            digest.update(np.ascontiguousarray(part).tobytes())
        temporary = result.with_suffix(".part")
        temporary.write_text(digest.hexdigest())
        temporary.replace(result)
        status = 0
    finally:
        os._exit(status)


def wait(process: int) -> int:
    """Return how a process ended: 0, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def campaign(kills: int, seed: int) -> dict:
    """Run, kill and resume until so many processes were killed and their runs are done."""
    draw = random.Random(seed)
    count = dict.fromkeys(("kills", "inside_save", "runs", "equal", "readable", "unreadable", "passed_over"), 0)
    with tempfile.TemporaryDirectory() as root:
        alone, seconds = {}, {}
        for run in RUNS:
            for folder in (None, Path(root, f"{run.__name__}-saved")):  # left alone, and how long it takes with saves
                begin = time.monotonic()
                if wait(start(run, folder, Path(root, run.__name__))):
                    raise SystemExit(f"{run.__name__} failed without a kill")
                seconds[run] = time.monotonic() - begin
                alone.setdefault(run, Path(root, run.__name__).read_text())
        while count["kills"] < kills:
            run = RUNS[count["runs"] % len(RUNS)]
            folder, result = Path(root, f"run-{count['runs']}"), Path(root, "result")
            while not result.exists():
                process = start(run, folder, result)
                if count["kills"] < kills:
                    time.sleep(draw.uniform(0.1, 0.9) * seconds[run])
                    os.kill(process, signal.SIGKILL)
                ended = wait(process)
                if ended not in (0, -signal.SIGKILL):
                    raise SystemExit(f"{run.__name__} failed after a kill")
                if ended:
                    examine(folder, count)
            count["runs"] += 1
            count["equal"] += result.read_text() == alone[run]
            result.unlink()
    return count


def examine(folder: Path, count: dict[str, int]) -> None:
    """Count what a kill left behind."""
    count["kills"] += 1
    count["inside_save"] += any(folder.glob(".tmp-*"))
    if saved(folder):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                load(folder)
                count["readable"] += 1
            except CheckpointError:
                count["unreadable"] += 1
        count["passed_over"] += bool(caught)


if __name__ == "__main__":
    print(json.dumps(campaign(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)))
