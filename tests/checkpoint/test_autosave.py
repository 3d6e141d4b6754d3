"""Runs that are stopped and resumed end as runs that were not, bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import precondlab
from precondlab.checkpoint import Autosave, CheckpointError, load, save, saved
from precondlab.krylov.schur import GolubKahanSchur, KrylovSchur
from precondlab.map import Map
from precondlab.operators import Diagonal
from precondlab.spectrum import eigsh, svds
from precondlab.training.optimizers import LevenbergMarquardt


class Stop(Exception):
    pass


def stop_after(steps, callback):
    def call(solver):
        nonlocal steps
        callback(solver)
        steps -= 1
        if not steps:
            raise Stop

    return call


def diagonal(n=300, dtype=torch.float64):
    return Diagonal(torch.linspace(1, 2, n, dtype=dtype) ** 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
@pytest.mark.parametrize("solve", [eigsh, svds])
def test_a_run_stopped_again_and_again_ends_as_one_that_was_not(tmp_path, solve, dtype):
    A = diagonal(dtype=dtype)
    alone = solve(A, 3, ncv=12, num_matvecs=80)
    stops = 0
    while True:
        try:
            found = solve(A, 3, ncv=12, num_matvecs=80, callback=stop_after(6, Autosave(tmp_path, every=0)))
            break
        except Stop:
            stops += 1
    assert stops >= 8
    for name in ("values", "residuals"):
        assert (getattr(found, name) == getattr(alone, name)).all()
    for name in ("vectors",) if solve is eigsh else ("left", "right"):
        assert torch.equal(getattr(found, name), getattr(alone, name))
    assert found.num_matvecs == alone.num_matvecs


@pytest.mark.parametrize(("schur", "bases"), [(KrylovSchur, ["basis"]), (GolubKahanSchur, ["left", "right"])])
def test_a_decomposition_goes_on_after_losing_rank_and_restarting(tmp_path, schur, bases):
    """The random vectors that fill a block that loses rank come from the saved generator."""
    A = Diagonal(torch.tensor([1.0, 1, 1, 2, 2, 3, 5, 8, 8, 8], dtype=torch.float64))

    def new():
        return schur(A, A.domain.random(1), capacity=9)

    def advance(K, steps):
        for _ in range(steps):
            K.step()
            if getattr(K, bases[-1]).room < 1:
                K.restart(*(Y[:, -2:] for Y in K.ritz()[1:-1]))

    straight, first, second = new(), new(), new()
    advance(straight, 30)
    advance(first, 11)
    save(tmp_path, first.state_dict())
    second.load_state_dict(load(tmp_path))
    advance(second, 19)
    for basis in bases:
        assert torch.equal(getattr(second, basis).vectors, getattr(straight, basis).vectors)
    assert all((a == b).all() for a, b in zip(second.ritz(), straight.ritz(), strict=True))


def test_nothing_is_saved_before_it_is_time(tmp_path):
    eigsh(diagonal(), 2, num_matvecs=40, callback=Autosave(tmp_path / "none", every=1e6))
    assert not (tmp_path / "none").exists()
    eigsh(diagonal(), 2, num_matvecs=40, callback=Autosave(tmp_path / "all", every=0, keep=3))
    assert [path.name for path in saved(tmp_path / "all")] == [f"checkpoint-{n:06d}" for n in (38, 39, 40)]


@pytest.mark.parametrize("every", [-1, float("nan")])
def test_a_negative_interval_is_refused(every):
    with pytest.raises(ValueError, match="every should be"):
        Autosave("anywhere", every=every)


def test_the_folder_of_another_operator_or_start_is_refused(tmp_path):
    A = diagonal()
    eigsh(A, 2, callback=Autosave(tmp_path, every=0))
    other = Diagonal(A.forward(torch.ones(300, 1, dtype=torch.float64))[:, 0] + 1e-15)
    for operator, start in ((other, None), (A, torch.arange(300.0))):
        with pytest.raises(CheckpointError, match="belongs to something else"):
            eigsh(operator, 2, v0=start, callback=Autosave(tmp_path))
    with pytest.raises(CheckpointError, match="belongs to something else"):
        svds(A, 2, callback=Autosave(tmp_path))


def ours():
    params = {"w": torch.ones(3, dtype=torch.float64)}
    points = torch.linspace(-1, 1, 9, dtype=torch.float64)
    residual = Map(lambda p: torch.tanh(p["w"][0] * points + p["w"][1]) * p["w"][2] - points**3, params)
    return LevenbergMarquardt(residual), [params["w"]]


def theirs(kind, **options):
    def make():
        generator = torch.Generator().manual_seed(0)
        params = [torch.randn(4, 3, generator=generator).requires_grad_(), torch.ones(3, requires_grad=True)]
        return kind(params, **options), params

    return make


@pytest.mark.parametrize(
    "make",
    [
        ours,
        theirs(torch.optim.Adam, lr=0.01, amsgrad=True),
        theirs(torch.optim.SGD, lr=0.01, momentum=0.9),
        theirs(torch.optim.LBFGS, history_size=3, line_search_fn="strong_wolfe"),
        theirs(torch.optim.Adafactor),
        theirs(torch.optim.Rprop),
    ],
)
def test_optimizers_go_on_bit_for_bit(tmp_path, make):
    def train(optimizer, params, steps):
        def closure():
            optimizer.zero_grad()
            loss = sum((p.sin() ** 2).sum() + (p - 0.3).pow(4).sum() for p in params)
            if loss.requires_grad:
                loss.backward()
            return loss

        for _ in range(steps):
            optimizer.step(None if make is ours else closure)

    optimizer, straight = make()
    train(optimizer, straight, 9)
    optimizer, params = make()
    train(optimizer, params, 4)
    save(tmp_path, {"optimizer": optimizer.state_dict(), "params": params})
    optimizer, params = make()
    state = load(tmp_path)
    with torch.no_grad():
        for param, value in zip(params, state["params"], strict=True):
            param.copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    train(optimizer, params, 5)
    assert all(map(torch.equal, params, straight))


@pytest.mark.parametrize("kills", [5, pytest.param(int(os.environ.get("KILLS", "20")), marks=pytest.mark.slow)])
def test_killed_runs_resume_bit_for_bit_and_leave_nothing_unreadable(kills):
    """``KILLS=200 pytest -m slow`` is the long campaign; each kill is SIGKILL at a random time, saves included."""
    script = Path(__file__).with_name("kills.py")
    env = {**os.environ, "PYTHONPATH": str(Path(precondlab.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(kills), str(int.from_bytes(os.urandom(4)))]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count = json.loads(done.stdout)
    assert count["kills"] >= kills and count["unreadable"] == 0 and count["passed_over"] == 0
    assert count["equal"] == count["runs"]
