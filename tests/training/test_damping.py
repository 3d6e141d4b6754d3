"""Damped steps of all kinds against dense linear algebra."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import precondlab as pl
from precondlab.errors import Breakdown
from precondlab.operators import Dense
from precondlab.training.damping import krylov, linearization, singular, sketched


def draw(m, n, seed):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(m, k, dtype=torch.float64, generator=generator) for k in (n, 1))


sizes, seeds, dampings = st.integers(1, 9), st.integers(0, 2**31), st.floats(1e-6, 1e3)


@given(m=sizes, n=sizes, seed=seeds, damping=dampings)
def test_steps_and_predictions_are_those_of_the_normal_equations(m, n, seed, damping):
    J, r = draw(m, n, seed)
    r = r[:, 0]
    expected = -torch.linalg.solve(J.T @ J + damping * torch.eye(n, dtype=J.dtype), J.T @ r)
    tolerance = 1e-9 * max(1.0, (torch.linalg.matrix_norm(J, 2) ** 2 / damping).item())
    for model in (singular(Dense(J), r), krylov(Dense(J), r)):
        step = model.step(damping)
        assert (step - expected).norm() <= tolerance * expected.norm()
        drop = 0.5 * (r @ r - (r + J @ step).square().sum())
        assert model.predicted(damping) == pytest.approx(drop.item(), rel=1e-6, abs=1e-12)
        assert model.loss == pytest.approx(0.5 * (r @ r).item())


def test_small_singular_values_are_not_squared_away():
    U, V = (torch.linalg.qr(torch.randn(k, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(k))).Q
            for k in (20, 6))  # fmt: skip
    values = torch.logspace(0, -11, 6, dtype=torch.float64)
    model = singular(Dense(U @ torch.diag(values) @ V.T), U.sum(1))
    torch.testing.assert_close(model.values, values, rtol=1e-4, atol=0)
    torch.testing.assert_close(model.step(0.0), -V @ (1 / values), rtol=1e-4, atol=0)


def test_the_correction_is_that_of_the_normal_equations():
    J, r = draw(7, 4, 0)
    second = torch.arange(7.0, dtype=torch.float64)
    expected = -torch.linalg.solve(J.T @ J + 0.1 * torch.eye(4, dtype=J.dtype), J.T @ second)
    torch.testing.assert_close(singular(Dense(J), r[:, 0]).correction(0.1, second), expected)


@pytest.mark.parametrize("budget", [2**30, 20_000])
@pytest.mark.parametrize("width", [3, 30])  # fewer parameters than rows, and more
def test_networks_are_linearized_right_whole_and_in_pieces(budget, width):
    r = pl.problems.poisson(2).residual(pl.models.mlp((2, width, 1), seed=0), interior=40, boundary=12)
    model = linearization(r, solver="dense", memory_budget=budget)
    J = pl.Jacobian(r).dense()
    torch.testing.assert_close(model.values, torch.linalg.svdvals(J)[: model.rank])
    torch.testing.assert_close(model.step(1e-3), singular(Dense(J), r.value).step(1e-3))
    torch.testing.assert_close(model.residual, r.value)
    torch.testing.assert_close(model.jacobian.dense(), J)


def test_the_solver_is_chosen_by_size():
    r = pl.problems.poisson(1).residual(pl.models.mlp((1, 30, 1), seed=0), interior=100)
    assert linearization(r).solver == "dense"
    assert linearization(r, memory_budget=200_000, maxiter=5).solver == "krylov"
    assert linearization(r, solver="krylov", maxiter=5).rank == 5


def test_a_zero_residual_has_rank_zero_in_krylov_space():
    model = krylov(Dense(torch.eye(3)), torch.zeros(3))
    assert model.rank == 0
    assert model.step(1.0).abs().max() == 0


def test_products_that_are_not_finite_are_a_breakdown():
    with pytest.raises(Breakdown, match="not finite"):
        krylov(Dense(torch.full((2, 2), torch.inf)), torch.ones(2))
    with pytest.raises(Breakdown, match=r"residual r \(2 rows\) is not finite"):
        krylov(Dense(torch.eye(2)), torch.tensor([1.0, torch.nan]))


@pytest.mark.parametrize("solver", ["dense", "krylov"])
def test_a_residual_that_is_not_finite_at_the_parameters_is_named(solver):
    a = torch.ones(3)
    r = pl.Map(lambda p: p["a"].log(), {"a": a})
    a[0] = -1
    with pytest.raises(Breakdown, match=r"Map\[3 parameters.* is not finite at these parameters"):
        linearization(r, solver=solver)


@pytest.mark.parametrize("size", [49, 1000])
def test_a_sketch_of_everything_is_the_dense_solver(size):
    r = network(width=12)
    whole, dense = sketched(r, size=size), linearization(r, solver="dense")
    assert r.domain.size == 49 and r.codomain.size <= 2 * size
    torch.testing.assert_close(whole.values, dense.values)
    torch.testing.assert_close(whole.step(1e-3), dense.step(1e-3))
    assert whole.solver == "sketch"


@pytest.mark.parametrize("budget", [2**30, 20_000])  # rows whole and in pieces
def test_a_sketched_step_is_the_best_one_in_its_random_subspace(budget):
    r = network(width=30)  # 52 rows, 121 parameters
    J, b = pl.Jacobian(r).dense(), r.value
    model = sketched(r, size=40, memory_budget=budget, generator=torch.Generator().manual_seed(5))
    Q = model.basis
    torch.testing.assert_close(Q.T @ Q, torch.eye(Q.shape[1], dtype=Q.dtype))
    assert Q.shape[1] == 40
    expected = -Q @ torch.linalg.solve(Q.T @ J.T @ J @ Q + 0.1 * torch.eye(40, dtype=Q.dtype), Q.T @ J.T @ b)
    torch.testing.assert_close(model.step(0.1), expected)
    drop = 0.5 * (b.square().sum() - (b + J @ expected).square().sum())
    assert model.predicted(0.1) == pytest.approx(drop.item())
    other = sketched(r, size=40, generator=torch.Generator().manual_seed(6))
    assert (other.step(0.1) - expected).norm() > 0.1 * expected.norm()


def test_a_sketch_needs_a_size():
    with pytest.raises(ValueError, match="size should be ≥ 1, got 0"):
        sketched(network(width=3), size=0)


def network(width, interior=40):
    return pl.problems.poisson(2).residual(pl.models.mlp((2, width, 1), seed=0), interior=interior, boundary=12)


def sines(m=4000, n=12):
    """A map without points."""
    generator = torch.Generator().manual_seed(0)
    place = torch.randint(n, (m,), generator=generator)
    a = torch.randn(n, dtype=torch.float64, generator=generator)
    return pl.Map(lambda p: torch.sin(p["a"][place]) - 0.5, {"a": a})


def test_rows_that_cannot_be_had_in_parts_count_whole():
    r = sines()
    needed = 4 * 4000 * 13 * 8
    assert linearization(r, memory_budget=needed).solver == "dense"
    assert linearization(r, memory_budget=needed - 1).solver == "krylov"
    for solver in ("dense", "sketch"):
        with pytest.raises(ValueError, match=rf"need {needed:,} bytes at once.*block by block with points"):
            linearization(r, solver=solver, memory_budget=needed - 1)
    in_parts = pl.problems.poisson(1).residual(pl.models.mlp((1, 4, 1), seed=0), interior=4000)
    assert linearization(in_parts, memory_budget=needed - 1).solver == "dense"


def test_a_krylov_space_fits_the_budget():
    r = sines()
    assert linearization(r, solver="krylov").rank > 6
    assert linearization(r, memory_budget=6 * (4000 + 12) * 8).rank == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "spare"}, r"expected a solver of dense, krylov, sketch, or None .*, got 'spare'"),
        ({"maxiter": 0}, "maxiter should be ≥ 1, got 0"),
        ({"size": 0}, "size should be ≥ 1, got 0"),
        ({"memory_budget": 0}, "memory_budget should be ≥ 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        linearization(network(width=3), **options)
    with pytest.raises(ValueError, match="LevenbergMarquardt: " + message):
        pl.optim.LevenbergMarquardt(network(width=3), **options)
