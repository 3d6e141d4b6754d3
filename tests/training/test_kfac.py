"""KFAC: its steps against the dense quadratic model, and what it learns."""

import pytest
import torch

import precondlab as pl
from precondlab.errors import Breakdown


def make(sizes=(2, 12, 12, 1), interior=60, boundary=16):
    model, problem = pl.models.mlp(sizes, seed=0), pl.problems.poisson(dim=sizes[0])
    return problem, model, problem.residual(model, interior=interior, boundary=boundary)


def test_each_full_step_minimizes_the_quadratic_model_in_its_plane():
    _, _, r = make()
    optimizer = pl.optim.KFAC(r)
    previous, full = None, 0
    for _ in range(8):
        J, g = pl.Jacobian(r).dense(), pl.Jacobian(r).backward(r.value.detach()[:, None])[:, 0]
        M = pl.preconditioners.kfac(pl.Gram(pl.Jacobian(r)), damping=optimizer.solver["factor"] * half_square(r))
        before = optimizer.point()
        optimizer.step()
        done, delta = optimizer.diagnostics, optimizer.point() - before
        plane = [M.forward(g[:, None])[:, 0]] + ([] if previous is None else [previous])
        if done.limit == "model":
            full += 1
            slope = g + J.T @ (J @ delta) + done.damping * delta
            for p in plane:
                assert abs(slope @ p) <= 1e-8 * g.norm() * p.norm()
            gain = -(g @ delta + 0.5 * (J @ delta).square().sum() + 0.5 * done.damping * delta @ delta)
            assert done.ratio == pytest.approx((done.loss - done.reached) / gain.item(), rel=1e-6)
        expected = -done.rate * plane[0] + (done.momentum * plane[1] if len(plane) > 1 else 0)
        if done.limit == "model":
            torch.testing.assert_close(delta, expected, rtol=1e-6, atol=1e-9)
        assert done.reached == pytest.approx(half_square(r), rel=1e-9)
        previous = delta
    assert full >= 4


def half_square(r):
    return 0.5 * r.value.square().sum().item()


def test_it_learns_in_few_steps_what_a_quasi_newton_method_does_not():
    problem, model, r = make(interior=200, boundary=40)
    optimizer = pl.optim.KFAC(r)
    losses = [optimizer.step().item() for _ in range(60)]
    assert losses[-1] < 1e-3 * losses[0] and problem.error(model) < 2e-2
    _, model, r = make(interior=200, boundary=40)
    descent = pl.optim.LBFGS(r)
    for _ in range(60):
        loss = descent.step().item()
    assert loss > 10 * losses[-1]


def test_the_damping_follows_the_ratio():
    _, _, r = make()
    optimizer = pl.optim.KFAC(r, damping=4.0)
    for _ in range(20):
        before = optimizer.solver["factor"]
        optimizer.step()
        done, now = optimizer.diagnostics, optimizer.solver["factor"]
        if done.trials == 1 and done.ratio > 0.75:
            assert now == before / 2
        elif done.trials > 1 or done.ratio <= 0.25:
            assert now == before * 2
        else:
            assert now == before


def test_weights_outside_linear_layers_and_bad_dampings_are_refused():
    r = pl.problems.poisson(dim=1).residual(pl.models.fourier(3), interior=20)
    optimizer = pl.optim.KFAC(r)
    before = optimizer.point()
    with pytest.raises(ValueError, match=r"give the residual as pl\.Pointwise"):
        optimizer.step()
    torch.testing.assert_close(optimizer.point(), before, rtol=0, atol=0)
    with pytest.raises(ValueError, match="damping > 0, got 0"):
        pl.optim.KFAC(r, damping=0)


def test_a_loss_that_is_not_finite_leaves_everything_as_it_was():
    _, _, r = make()
    optimizer = pl.optim.KFAC(r)
    optimizer.step()
    point = optimizer.point()
    with torch.no_grad():
        optimizer.move(torch.full_like(point, float("nan")))
    with pytest.raises(Breakdown, match="not finite"):
        optimizer.step()
    with torch.no_grad():
        optimizer.move(point)
    assert optimizer.step().item() == pytest.approx(half_square_at(point))


def half_square_at(point):
    _, _, r = make()
    return 0.5 * r(point).square().sum().item()
