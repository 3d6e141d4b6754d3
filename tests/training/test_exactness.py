"""Steps of each optimizer against formulas evaluated independently."""

import math
from functools import partial

import numpy as np
import pytest
import torch

import precondlab as pl
from precondlab.errors import NotPositive
from precondlab.operators import Diagonal
from precondlab.training.optimizers.broyden import self_scaled_broyden
from precondlab.training.optimizers.lbfgs import inverse_hessian
from precondlab.training.optimizers.line_search import strong_wolfe


def least_squares(m=12, n=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    M = torch.randn(m, n, dtype=torch.float64, generator=generator)
    b = torch.randn(m, dtype=torch.float64, generator=generator)
    a = torch.zeros(n, dtype=torch.float64, requires_grad=True)
    return M, b, a, pl.Map(lambda p: M @ p["a"] - b, {"a": a})


def network(seed=0):
    model = pl.models.mlp((1, 6, 1), seed=seed)
    return model, pl.problems.poisson(dim=1).residual(model, interior=20)


def pair(n, seed, *, H=None):
    """Return a positive H, and s, y with sᵀy > 0."""
    generator = torch.Generator().manual_seed(seed)
    B, s, y = (torch.randn(n, k, dtype=torch.float64, generator=generator) for k in (n, 1, 1))
    s, y = s[:, 0], y[:, 0]
    H = B @ B.T + 0.1 * torch.eye(n, dtype=B.dtype) if H is None else H
    return H, s, y if s @ y > 0 else -y


def published(H, s, y, b):
    """The update of Urbán, Stefanou & Pons (their formulas, in NumPy)."""
    N = len(s)
    Hy, ys = H.dot(y), np.dot(y, s)
    yHy = np.dot(y, Hy)
    hk = yHy / ys
    ak = hk * b - 1
    rhokm = min(1, hk * (1 - np.sqrt(np.abs(ak) / (1 + ak))))
    thetakm, thetakp = (rhokm - 1) / ak, 1 / rhokm
    thetak = max(thetakm, min(thetakp, (1 - b) / b))
    sigmak = 1 + thetak * ak
    sigmaknm1 = np.abs(sigmak) ** (1 / (1 - N))
    shrink = min(1, 1 / b)
    tauk = min(shrink * sigmaknm1, sigmak) if thetak <= 0 else shrink * min(sigmaknm1, 1 / thetak)
    phik = (1 - thetak) / (1 + ak * thetak)
    v = np.sqrt(yHy) * (s / ys - Hy / yHy)
    return (H - np.outer(Hy, Hy) / yHy + phik * np.outer(v, v)) / tauk + np.outer(s, s) / ys


@pytest.mark.parametrize("n", [2, 3, 8])
@pytest.mark.parametrize("seed", range(8))
def test_self_scaled_broyden_is_the_published_formula_and_keeps_what_it_must(n, seed):
    H, s, y = pair(n, seed)
    b = (s @ torch.linalg.solve(H, s) / (s @ y)).item()
    updated = self_scaled_broyden(H, s, y, b)
    expected = published(H.numpy(), s.numpy(), y.numpy(), b)
    np.testing.assert_allclose(updated.numpy(), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
    torch.testing.assert_close(updated @ y, s, rtol=0, atol=1e-9 * expected.max())  # secant equation
    assert torch.equal(updated, updated.T)
    assert torch.linalg.eigvalsh(updated)[0] > 0


def test_self_scaled_broyden_where_the_formula_divides_by_zero():
    H, s, _ = pair(3, 0)
    for b in (0.5, 1.0, 2.0):
        y = torch.linalg.solve(H, s) / b  # Hy ∥ s, so a = 0
        updated = self_scaled_broyden(H, s, y, b)
        torch.testing.assert_close(updated @ y, s)
        assert torch.linalg.eigvalsh(updated)[0] > 0
    one = self_scaled_broyden(torch.eye(1), torch.tensor([2.0]), torch.tensor([1.0]), 2.0)
    torch.testing.assert_close(one, torch.tensor([[2.0]]))
    assert self_scaled_broyden(-torch.eye(2), torch.ones(2), torch.ones(2), 1.0) is None


def test_broyden_in_training_satisfies_the_secant_equation_of_its_last_step():
    _, r = network()
    optimizer = pl.optim.SelfScaledBroyden(r)
    for _ in range(6):
        before = optimizer.evaluate(optimizer.point())
        H = optimizer.solver["inverse"]
        optimizer.step()
        after = optimizer.evaluate(optimizer.point())
        s, y = after.point - before.point, after.gradient - before.gradient
        updated = optimizer.solver["inverse"]
        assert (updated @ y - s).norm() <= 1e-8 * s.norm()
        if H is not None:
            b = (s @ torch.linalg.solve(H, s) / (s @ y)).item()
            expected = published(H.numpy(), s.numpy(), y.numpy(), b)
            np.testing.assert_allclose(updated.numpy(), expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("kind", [pl.optim.SelfScaledBroyden, pl.optim.LBFGS])
def test_quasi_newton_starts_afresh_when_its_memory_misleads(kind):
    _, r = network()
    optimizer = kind(r)
    for _ in range(4):
        optimizer.step()
    if kind is pl.optim.LBFGS:
        optimizer.solver["changes"] = [-y for y in optimizer.solver["changes"]]
        optimizer.solver["first"] *= -1
    else:
        optimizer.solver["inverse"] = -optimizer.solver["inverse"]
    loss = optimizer.step().item()
    done = optimizer.diagnostics
    assert done.restarts == 1 and done.memory == 0 and done.accepted
    assert done.reached < loss


def test_lbfgs_is_the_dense_bfgs_inverse():
    n, steps, changes = 5, [], []
    H = 0.3 * torch.eye(n, dtype=torch.float64)
    for seed in range(4):
        _, s, y = pair(n, seed, H=H)
        steps.append(s)
        changes.append(y)
        V = torch.eye(n, dtype=H.dtype) - torch.outer(y, s) / (s @ y)
        H = V.T @ H @ V + torch.outer(s, s) / (s @ y)
    g = torch.arange(1.0, n + 1, dtype=torch.float64)
    torch.testing.assert_close(inverse_hessian(steps, changes, g, 0.3), H @ g)


def test_lbfgs_goes_on_where_the_loss_is_tiny():
    model = pl.models.mlp((1, 6, 1), seed=0)
    weights = {"interior": 1e-12, "boundary": 1e-12}
    optimizer = pl.optim.LBFGS(pl.problems.poisson(dim=1).residual(model, interior=20, weights=weights))
    first = optimizer.step().item()
    for _ in range(60):
        optimizer.step()
    assert optimizer.diagnostics.reached < 1e-2 * first
    assert optimizer.diagnostics.memory == 50


@pytest.mark.parametrize("kind", [pl.optim.SelfScaledBroyden, pl.optim.LBFGS, pl.optim.NewtonCG])
def test_at_a_minimum_it_says_that_no_step_helps(kind):
    M, b, a, r = least_squares()
    optimizer = kind(r)
    for _ in range(60):
        optimizer.step()
    expected = np.linalg.lstsq(M.numpy(), b.numpy(), rcond=None)[0]
    np.testing.assert_allclose(a.detach().numpy(), expected, atol=1e-6)
    assert optimizer.diagnostics.limit == "stationary"
    assert not optimizer.diagnostics.accepted


def test_the_line_search_meets_both_wolfe_conditions():
    _, r = network()
    optimizer = pl.optim.LBFGS(r)
    start = optimizer.evaluate(optimizer.point())
    for factor in (1e-4, 1.0, 1e3):
        d = -factor * start.gradient
        found = strong_wolfe(optimizer.evaluate, start, d)
        slope = (start.gradient @ d).item()
        assert found.limit == "wolfe"
        assert found.end.loss <= start.loss + 1e-4 * found.length * slope
        assert abs((found.end.gradient @ d).item()) <= 0.9 * abs(slope)
    assert strong_wolfe(optimizer.evaluate, start, start.gradient).limit == "stationary"


def test_the_line_search_comes_back_from_where_the_loss_is_no_number():
    a = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    optimizer = pl.optim.SelfScaledBroyden(pl.Map(lambda p: p["a"].sqrt() - 1e-2, {"a": a}))  # a < 0 is not a number
    for _ in range(30):
        optimizer.step()
    assert a.item() == pytest.approx(1e-4, rel=1e-5)
    with torch.no_grad():
        a.fill_(0.5)
    start = optimizer.evaluate(optimizer.point())
    found = strong_wolfe(optimizer.evaluate, start, torch.tensor([-2.0], dtype=torch.float64))  # a = −1.5 comes first
    assert found.limit == "wolfe" and found.trials < 10


def test_newton_cg_solves_least_squares_in_one_step():
    M, b, a, r = least_squares()
    optimizer = pl.optim.NewtonCG(r, damping=0.0, rtol=1e-13)
    optimizer.step()
    expected = np.linalg.lstsq(M.numpy(), b.numpy(), rcond=None)[0]
    np.testing.assert_allclose(a.detach().numpy(), expected, rtol=1e-10)
    assert optimizer.diagnostics.limit == "damping" and optimizer.diagnostics.trials == 1


def test_newton_cg_takes_the_damped_step():
    _, r = network()
    J, value = pl.Jacobian(r).dense(), r.value
    optimizer = pl.optim.NewtonCG(r, damping=0.5, rtol=1e-12, rank=5)
    start = optimizer.point()
    mu = 0.25 * (value @ value)
    expected = -torch.linalg.solve(J.T @ J + mu * torch.eye(J.shape[1], dtype=J.dtype), J.T @ value)
    optimizer.step()
    assert optimizer.diagnostics.damping == pytest.approx(mu.item())
    length = optimizer.diagnostics.length / expected.norm().item()
    torch.testing.assert_close(optimizer.point() - start, length * expected, rtol=1e-7, atol=1e-10)


def test_newton_cg_makes_its_sketch_again_when_it_is_old():
    _, r = network()
    optimizer = pl.optim.NewtonCG(r, every=3)
    ages = []
    for _ in range(7):
        optimizer.step()
        ages.append(optimizer.diagnostics.age)
    assert ages == [0, 1, 2, 0, 1, 2, 0]


def test_preconditioned_sgd_is_preconditioned_gradient_descent():
    problem = pl.problems.poisson(dim=1)
    models = [pl.models.fourier(6) for _ in range(2)]
    residuals = [problem.residual(model, interior=30) for model in models]
    M = pl.preconditioners.symbol(problem, models[0])
    plain = pl.optim.GradientDescent(residuals[0], lr=0.5, preconditioner=M)
    sgd = torch.optim.SGD(models[1].parameters(), lr=0.5)
    wrapped = pl.optim.Preconditioned(residuals[1], sgd, make=lambda A: M)
    for _ in range(6):
        torch.testing.assert_close(wrapped.step(), plain.step(), rtol=1e-12, atol=0)
        torch.testing.assert_close(wrapped.point(), plain.point(), rtol=1e-12, atol=1e-14)
    assert all(p.grad is None for p in models[1].parameters())


def test_preconditioned_momentum_is_torch_momentum_in_other_coordinates():
    M, b, a, r = least_squares()
    scale = torch.linspace(0.1, 0.3, 5, dtype=torch.float64)
    hat = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    inner = torch.optim.SGD([hat], lr=0.1, momentum=0.9)
    base = torch.optim.SGD([a], lr=0.1, momentum=0.9)
    optimizer = pl.optim.Preconditioned(r, base, make=lambda A: Diagonal(scale**2))
    for _ in range(8):
        optimizer.step()
        inner.zero_grad()
        (0.5 * (M @ (scale * hat) - b).square().sum()).backward()
        inner.step()
    torch.testing.assert_close(a, scale * hat, rtol=1e-10, atol=0)


def test_the_preconditioner_is_made_again_by_count_and_by_drift():
    def ages(lr, **options):
        a = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
        r = pl.Map(lambda p: p["a"] ** 2, {"a": a})
        made = []
        make = lambda A: made.append(A) or Diagonal(torch.tensor([0.1]).double())  # noqa: E731
        optimizer = pl.optim.Preconditioned(r, torch.optim.SGD([a], lr=lr), make=make, **options)
        found = []
        for _ in range(5):
            optimizer.step()
            found.append(optimizer.diagnostics.age)
        assert found.count(0) == len(made)
        return found, optimizer.diagnostics

    assert ages(1e-2, every=2)[0] == [0, 1, 0, 1, 0]
    assert ages(1e-2, every=None)[0] == [0, 1, 2, 3, 4]
    found, done = ages(1e-6, every=None, drift=0.5)
    assert found == [0, 1, 2, 3, 4] and 0 < done.drift < 1e-3
    assert ages(1e-1, every=None, drift=0.1)[0].count(0) > 1


def test_spring_without_momentum_is_the_damped_step_of_least_norm():
    _, r = network()
    J, value = pl.Jacobian(r).dense(), r.value
    optimizer = pl.optim.Spring(r, lr=0.3, damping=1e-2, momentum=0.0)
    start = optimizer.point()
    kernel = J @ J.T + 1e-2 * torch.eye(len(J), dtype=J.dtype)
    optimizer.step()
    torch.testing.assert_close(optimizer.point() - start, -0.3 * J.T @ torch.linalg.solve(kernel, value))


@pytest.mark.parametrize("kind", [pl.optim.LBFGS, pl.optim.SelfScaledBroyden])
def test_the_learning_rate_is_the_first_length_tried(kind):
    moved = []
    for lr in (1.0, 0.25):
        optimizer = kind(network()[1], lr=lr)
        start = optimizer.point()
        optimizer.step()
        assert optimizer.diagnostics.trials == 1
        moved.append(optimizer.point() - start)
    torch.testing.assert_close(moved[1], 0.25 * moved[0])
    for _ in range(3):
        H, before = optimizer.solver.get("inverse"), optimizer.evaluate(optimizer.point())
        optimizer.step()
        s = optimizer.point() - before.point
        y = optimizer.evaluate(optimizer.point()).gradient - before.gradient
        if H is not None:
            b = (s @ torch.linalg.solve(H, s) / (s @ y)).item()
            expected = published(H.numpy(), s.numpy(), y.numpy(), b)
            np.testing.assert_allclose(
                optimizer.solver["inverse"].numpy(), expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max()
            )


@pytest.mark.parametrize("clip", [None, 0.02])
@pytest.mark.parametrize("largest", [4096, 3])  # decomposed, and in a Krylov space
def test_spring_is_its_formula(clip, largest, monkeypatch):
    monkeypatch.setattr("precondlab.training.optimizers.spring._LARGEST_DENSE", largest)
    _, r = network()
    eta, lam, mu = 0.1, 1e-1, 0.7
    optimizer = pl.optim.Spring(r, lr=eta, damping=lam, momentum=mu, clip=clip)
    phi = torch.zeros(r.domain.size, dtype=torch.float64)
    for k in range(1, 6):
        J, value, start = pl.Jacobian(r).dense(), r.value, optimizer.point()
        kernel = J @ J.T + lam * torch.eye(len(J), dtype=J.dtype)
        phi = mu * phi + J.T @ torch.linalg.solve(kernel, value - mu * J @ phi)
        psi = phi / math.sqrt(1 - mu ** (2 * k))
        rate = eta if clip is None else min(eta, clip / psi.norm().item())
        optimizer.step()
        torch.testing.assert_close(optimizer.point(), start - rate * psi, rtol=1e-7, atol=1e-9)
        assert optimizer.diagnostics.limit == ("rate" if rate == eta else "clip")


def test_losses_and_gradients_of_many_points_are_summed_piece_by_piece(monkeypatch):
    _, r = network()
    whole = pl.optim.LBFGS(r).evaluate(r.domain.ravel(r.params).detach())
    monkeypatch.setattr("precondlab.training.optimizers.minimizer._POINTS", 7)
    pieces = pl.optim.LBFGS(r).evaluate(r.domain.ravel(r.params).detach())
    assert pieces.loss == pytest.approx(whole.loss, rel=1e-12)
    torch.testing.assert_close(pieces.gradient, whole.gradient)
    torch.testing.assert_close(whole.gradient, pl.Jacobian(r).dense().T @ r.value)


def test_bad_arguments_are_refused():
    model, r = network()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    make = pl.preconditioners.jacobi
    with pytest.raises(ValueError, match="memory of at least one pair"):
        pl.optim.LBFGS(r, memory=0)
    many = pl.Map(lambda p: p["a"][:3], {"a": torch.zeros(400_000, requires_grad=True)})
    with pytest.raises(ValueError, match=r"need 1,280,000,000,000 bytes for 400,000 parameters.*use LBFGS"):
        pl.optim.SelfScaledBroyden(many)
    with pytest.raises(ValueError, match="momentum in"):
        pl.optim.Spring(r, momentum=1.0)
    with pytest.raises(ValueError, match="damping ≥ 0"):
        pl.optim.NewtonCG(r, damping=-1.0)
    with pytest.raises(TypeError, match="expected a torch optimizer"):
        pl.optim.Preconditioned(r, torch.optim.SGD, make=make)
    with pytest.raises(ValueError, match="takes no gradient from outside"):
        pl.optim.Preconditioned(r, torch.optim.LBFGS(model.parameters()), make=make)
    with pytest.raises(ValueError, match="every should be ≥ 1"):
        pl.optim.Preconditioned(r, sgd, make=make, every=0)
    with pytest.raises(ValueError, match="and no others"):
        pl.optim.Preconditioned(r, torch.optim.SGD(network()[0].parameters(), lr=0.1), make=make)
    with pytest.raises(ValueError, match="make should return an operator on"):
        pl.optim.Preconditioned(r, sgd, make=lambda A: Diagonal(torch.ones(3).double())).step()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    negative = partial(torch.full, (r.domain.size,), -1.0, dtype=torch.float64)
    with pytest.raises(NotPositive, match="should be positive"):
        pl.optim.Preconditioned(r, sgd, make=lambda A: Diagonal(negative())).step()
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
