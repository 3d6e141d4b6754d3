"""Direct solution of linear models, against closed forms and other solvers."""

import numpy as np
import pytest
import torch

import precondlab as pl
from precondlab.errors import Breakdown
from precondlab.training import LinearStatus, equilibrated, fit_features, solve_linear


def affine(M, b):
    a = torch.zeros(M.shape[1], dtype=torch.float64, requires_grad=True)
    return a, pl.Map(lambda p: M @ p["a"] - b, {"a": a})


@pytest.mark.parametrize(("m", "n", "rank"), [(12, 5, 5), (12, 5, 3), (4, 7, 4)])
def test_the_solution_is_the_one_of_smallest_norm(m, n, rank):
    generator = torch.Generator().manual_seed(m + rank)
    M = torch.randn(m, rank, dtype=torch.float64, generator=generator) @ torch.randn(
        rank, n, dtype=torch.float64, generator=generator
    )
    b = torch.randn(m, dtype=torch.float64, generator=generator)
    a, r = affine(M, b)
    fit = solve_linear(r)
    expected = np.linalg.pinv(M.numpy(), rcond=1e-10) @ b.numpy()
    assert np.abs(a.detach().numpy() - expected).max() <= 1e-10 * np.abs(expected).max()
    assert fit.rank == rank
    assert fit.status.ok
    assert fit.loss == pytest.approx(0.5 * (M.numpy() @ expected - b.numpy()) @ (M.numpy() @ expected - b.numpy()))


def test_rows_in_pieces_give_the_same_solution():
    problem = pl.problems.poisson_sines()
    solutions = []
    for budget in (2**30, 100_000):
        model = pl.models.random_features(40, domain=problem.domain, scale=3.0)
        solve_linear(problem.residual(model, interior=150, boundary=60), memory_budget=budget, rcond=1e-8)
        solutions.append(model(torch.full((1, 2), 0.4, dtype=torch.float64)).item())
    assert solutions[0] == pytest.approx(solutions[1], rel=1e-6)


def test_newton_solves_a_nonlinear_equation():
    problem = pl.problems.fisher()
    model = pl.models.random_features(80, domain=problem.domain, scale=3.0)
    fit = solve_linear(equilibrated(problem.residual(model, interior=250, boundary=90)))
    assert fit.status.ok
    assert fit.iterations > 2
    assert problem.error(model) < 1e-4


def test_what_newton_cannot_do_is_said():
    a = torch.tensor([0.9], dtype=torch.float64, requires_grad=True)
    r = pl.Map(lambda p: p["a"] ** 2 + 1, {"a": a})
    assert solve_linear(r, maxiter=1).status is LinearStatus.ITERATIONS
    assert solve_linear(r, maxiter=200).loss == pytest.approx(0.5, rel=1e-2)


def test_weights_that_equilibrate_make_the_longest_sampled_row_a_unit():
    problem = pl.problems.two_waves()
    model = pl.models.random_features(30, domain=problem.domain, scale=5.0)
    J = pl.Jacobian(equilibrated(problem.residual(model, interior=40, boundary=20, weights={"initial": 7.0})))
    for name in ("interior", "boundary", "initial"):
        assert J.block(name).dense().norm(dim=1).max().item() == pytest.approx(1)


@pytest.mark.parametrize("name", ["poisson_sines", "heat_rod", "advection"])
def test_a_good_scale_is_found_without_the_solution(name):
    problem = pl.problems.advection(5.0) if name == "advection" else getattr(pl.problems, name)()
    fit = fit_features(problem, width=150)
    assert problem.error(fit.model) < 1e-6
    assert fit.fit.status.ok
    assert len(fit.tried) > 6
    assert fit.validation < 1e-5


def test_the_search_for_a_scale_stays_among_scales_that_make_sense():
    """Too few features for a wave are best made flat in one direction, which has no end."""
    fit = fit_features(pl.problems.two_waves(), width=250)
    assert min(min(scale) for scale in fit.tried) >= 1
    assert len(fit.tried) < 60


def test_a_scale_that_is_given_is_taken():
    fit = fit_features(pl.problems.poisson_sines(), width=60, scale=(3.0, 3.0))
    assert fit.scale == (3.0, 3.0)
    assert fit.tried == {}


def test_bad_input_is_refused():
    a = torch.zeros(9000, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="use fewer features"):
        solve_linear(pl.Map(lambda p: p["a"][:2], {"a": a}))
    b = torch.ones(1, dtype=torch.float64, requires_grad=True)
    r = pl.Map(lambda p: p["a"].log(), {"a": b})
    with torch.no_grad():
        b.fill_(-1.0)
    with pytest.raises(Breakdown, match="not finite"):
        solve_linear(r)
    assert b.item() == -1.0
