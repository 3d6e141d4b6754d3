"""Levenberg–Marquardt: its steps against dense least squares, its rule, and the torch.optim protocol."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch

import precondlab as pl
from precondlab.errors import Breakdown


def make(seed=0, interior=60, boundary=16):
    model = pl.models.mlp((2, 8, 1), seed=seed)
    return model, pl.problems.poisson(dim=2).residual(model, interior=interior, boundary=boundary, seed=seed)


def test_a_network_solves_poisson():
    problem = pl.problems.poisson(dim=1)
    model = pl.models.mlp((1, 12, 1), seed=0)
    optimizer = pl.optim.LevenbergMarquardt(problem.residual(model, interior=80, weights={"interior": 1e-2}))
    losses = [optimizer.step().item() for _ in range(40)]
    assert losses[-1] < 1e-6 * losses[0]
    assert problem.error(model) < 1e-3


@pytest.mark.parametrize("seed", range(2))
def test_a_sine_network_finds_the_frequencies_of_plane_waves(seed):
    problem = pl.problems.helmholtz_sines((1, 2))
    options = {"interior": 600, "boundary": 100, "weights": {"interior": 1e-3}, "seed": seed}
    fixed = pl.models.random_features(50, domain=problem.domain, scale=9.0, seed=seed)
    pl.training.solve_linear(problem.residual(fixed, **options))
    assert problem.error(fixed) > 1e-3
    model = pl.models.siren((50,), domain=problem.domain, scale=9.0, seed=seed)
    optimizer = pl.optim.LevenbergMarquardt(problem.residual(model, **options))
    for _ in range(40):
        optimizer.step()
        if problem.error(model) < 1e-9:
            break
    assert problem.error(model) < 1e-9


def test_a_linear_model_is_solved_in_a_few_steps():
    model = pl.models.fourier(4)
    problem = pl.problems.poisson(dim=1)
    optimizer = pl.optim.LevenbergMarquardt(problem.residual(model, interior=30))
    for _ in range(5):
        optimizer.step()
    assert problem.error(model) < 1e-12


@pytest.mark.parametrize("solver", ["dense", "krylov", "sketch"])
def test_every_step_keeps_its_promise(solver):
    _, r = make()
    optimizer = pl.optim.LevenbergMarquardt(r, solver=solver, ratio=0.3, maxiter=40, size=38)
    for _ in range(8):
        before = r.value
        loss = optimizer.step().item()
        done = optimizer.diagnostics
        after = 0.5 * r.value.square().sum().item()
        assert loss == pytest.approx(0.5 * before.square().sum().item(), rel=1e-12)
        assert after == pytest.approx(done.reached, rel=1e-9)
        assert done.accepted and done.ratio >= 0.3
        assert done.solver == solver


def test_sketched_steps_learn_what_dense_ones_learn():
    problem = pl.problems.poisson(dim=2)
    model = pl.models.mlp((2, 20, 20, 1), seed=0)  # 501 parameters
    r = problem.residual(model, interior=900, boundary=120, weights={"interior": 1e-2})
    optimizer = pl.optim.LevenbergMarquardt(r, solver="sketch", size=200)
    losses = [optimizer.step().item() for _ in range(40)]
    assert losses[-1] < 1e-6 * losses[0]
    assert problem.error(model) < 1e-2


def test_the_step_is_the_damped_least_squares_solution_where_the_map_is_linear():
    generator = torch.Generator().manual_seed(3)
    M = torch.randn(9, 4, dtype=torch.float64, generator=generator)
    b = torch.randn(9, dtype=torch.float64, generator=generator)
    a = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = pl.optim.LevenbergMarquardt(pl.Map(lambda p: M @ p["a"] - b, {"a": a}))
    optimizer.step()
    mu = optimizer.diagnostics.damping
    augmented = np.vstack([M.numpy(), math.sqrt(mu) * np.eye(4)])
    expected = np.linalg.lstsq(augmented, np.concatenate([b.numpy(), np.zeros(4)]), rcond=None)[0]
    assert np.abs(a.detach().numpy() - expected).max() <= 1e-12 * np.abs(expected).max()
    assert optimizer.diagnostics.ratio == pytest.approx(1)


def test_rosenbrock_is_solved_through_its_valley():
    a = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    r = pl.Map(lambda p: torch.stack([10 * (p["a"][1] - p["a"][0] ** 2), 1 - p["a"][0]]), {"a": a})
    optimizer = pl.optim.LevenbergMarquardt(r)
    for _ in range(25):
        optimizer.step()
    assert (a - 1).abs().max() < 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_a_damping_far_too_small_is_left_behind_in_few_trials(seed):
    steps = []
    for before in (1e-12, None):
        _, r = make(seed)
        optimizer = pl.optim.LevenbergMarquardt(r)
        optimizer.solver = {**optimizer.solver, "damping": before or 2 * steps[0].damping}
        optimizer.step()
        steps.append(optimizer.diagnostics)
    far, near = steps
    assert far.ratio >= 0.075
    assert far.trials <= 20 < math.log2(far.damping / 1e-12)
    assert near.trials == 2  # half the damping, which is tried first, fails: the step is the longest on the grid
    assert near.damping == far.damping


def test_at_a_minimum_no_step_is_taken_and_said_so():
    a = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    optimizer = pl.optim.LevenbergMarquardt(pl.Map(lambda p: torch.stack([p["a"] - 2, p["a"] * 0 + 1]), {"a": a}))
    assert optimizer.step().item() == 0.5
    assert optimizer.diagnostics.limit == "stationary"
    assert not optimizer.diagnostics.accepted
    assert a.item() == 2.0


def test_rank_deficiency_is_reported_and_harmless():
    a = torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)
    optimizer = pl.optim.LevenbergMarquardt(pl.Map(lambda p: (p["a"].sum() - 5) * torch.ones(3).double(), {"a": a}))
    for _ in range(4):
        optimizer.step()
    assert optimizer.diagnostics.rank == 1
    torch.testing.assert_close(a.detach(), torch.full((2,), 2.5, dtype=torch.float64))


def test_rows_beyond_the_memory_budget_give_the_same_steps():
    _, whole = make()
    _, pieces = make()
    one = pl.optim.LevenbergMarquardt(whole)
    other = pl.optim.LevenbergMarquardt(pieces, memory_budget=60_000)
    for _ in range(3):
        torch.testing.assert_close(one.step(), other.step(), rtol=1e-6, atol=0)


def test_the_learning_rate_is_a_factor_of_the_step():
    (_, whole), (_, part) = make(), make()
    one, other = pl.optim.LevenbergMarquardt(whole), pl.optim.LevenbergMarquardt(part, lr=0.25)
    before = one.point()
    one.step()
    other.step()
    torch.testing.assert_close(other.point() - before, 0.25 * (one.point() - before))
    assert other.diagnostics.length == pytest.approx(0.25 * one.diagnostics.length)
    assert other.diagnostics.ratio == one.diagnostics.ratio
    assert other.diagnostics.reached == pytest.approx(0.5 * part.value.square().sum().item())


def valley():
    """Rosenbrock's function on the floor of its valley: the first step follows it, the chord to its end does not."""
    a = torch.tensor([-1.2, 1.44], dtype=torch.float64, requires_grad=True)
    return pl.Map(lambda p: torch.stack([10 * (p["a"][1] - p["a"][0] ** 2), 1 - p["a"][0]]), {"a": a})


def test_a_fraction_of_a_step_that_does_not_reduce_the_loss_is_not_taken():
    whole, part = pl.optim.LevenbergMarquardt(valley()), pl.optim.LevenbergMarquardt(valley(), lr=0.25)
    before = whole.point()
    for optimizer in (whole, part):
        optimizer.step()
    chord = before + 0.25 * (whole.point() - before)
    assert whole.residual(chord).norm() > whole.residual(before).norm()
    assert torch.equal(part.point(), whole.point()) and part.diagnostics == whole.diagnostics
    losses = [part.step().item() for _ in range(20)]
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))


def test_a_schedule_may_end_at_zero_but_not_exceed_the_whole_step():
    optimizer = pl.optim.LevenbergMarquardt(valley())
    before, (group,), state = optimizer.point(), optimizer.param_groups, copy.deepcopy(optimizer.solver)
    for lr in (1.5, -0.5, math.nan):
        group["lr"] = lr
        with pytest.raises(ValueError, match="fraction of the step found and should be at most 1, got"):
            optimizer.step()
        assert torch.equal(optimizer.point(), before) and optimizer.solver == state
    group["lr"] = 0.0
    optimizer.step()
    assert torch.equal(optimizer.point(), before) and optimizer.diagnostics.length == 0
    with pytest.raises(ValueError, match="should be at most 1, got 2"):
        pl.optim.LevenbergMarquardt(valley(), lr=2.0)


def test_the_solver_is_loaded_with_the_state():
    sketched = pl.optim.LevenbergMarquardt(make()[1], solver="sketch", size=5)
    other = pl.optim.LevenbergMarquardt(make()[1])
    other.load_state_dict(sketched.state_dict())
    assert torch.equal(other.step(), sketched.step())
    assert other.diagnostics.solver == "sketch" and torch.equal(other.point(), sketched.point())


def test_state_dict_resumes_bit_for_bit():
    model, r = make(1)
    optimizer = pl.optim.LevenbergMarquardt(r)
    for _ in range(3):
        optimizer.step()
    twin, r_twin = make(2, interior=60)
    r_twin = pl.problems.poisson(dim=2).residual(twin, interior=60, boundary=16, seed=1)
    resumed = pl.optim.LevenbergMarquardt(r_twin)
    twin.load_state_dict(model.state_dict())
    resumed.load_state_dict(optimizer.state_dict())
    for _ in range(3):
        assert torch.equal(optimizer.step(), resumed.step())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_deep_copy_goes_its_own_way():
    model, r = make(1)
    optimizer = pl.optim.LevenbergMarquardt(r)
    optimizer.step()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    twin = copy.deepcopy(optimizer)
    losses = [twin.step().item() for _ in range(2)]
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert [optimizer.step().item() for _ in range(2)] == losses


def test_a_closure_is_called_and_the_residual_can_be_replaced():
    model, r = make()
    optimizer = pl.optim.LevenbergMarquardt(r)
    called = []
    optimizer.step(lambda: called.append(torch.is_grad_enabled()))
    assert called == [True]
    optimizer.residual = pl.problems.poisson(dim=2).residual(model, interior=50, boundary=16, seed=7)
    optimizer.step()
    with pytest.raises(ValueError, match="same model"):
        optimizer.residual = make(1)[1]


def test_a_loss_that_is_not_finite_leaves_the_parameters_alone():
    a = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    optimizer = pl.optim.LevenbergMarquardt(pl.Map(lambda p: p["a"].log() - 1, {"a": a}))
    optimizer.step()
    with torch.no_grad():
        a.fill_(-1.0)
    with pytest.raises(Breakdown, match="not finite"):
        optimizer.step()
    assert a.item() == -1.0


def test_a_trial_that_is_not_finite_is_a_trial_that_failed():
    a = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    optimizer = pl.optim.LevenbergMarquardt(pl.Map(lambda p: p["a"].sqrt() - 3e-4, {"a": a}))  # a < 0 is not a number
    for _ in range(60):
        optimizer.step()
    assert a.item() == pytest.approx(9e-8, rel=1e-6)


def test_bad_arguments_are_refused():
    _, r = make()
    with pytest.raises(ValueError, match=r"ratios should be in \(0, 1\)"):
        pl.optim.LevenbergMarquardt(r, ratio=1.5)
    other = pl.Map(lambda p: p["a"], {"a": torch.ones(2, requires_grad=True)})
    with pytest.raises(ValueError, match="other parameters"):
        pl.optim.LevenbergMarquardt(r).load_state_dict(pl.optim.LevenbergMarquardt(other).state_dict())
