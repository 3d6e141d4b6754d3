"""DeepXDE's own Poisson example, analyzed through its unmodified ``data.pde``."""

import numpy as np
import pytest
import torch

import precondlab as pl

dde = pytest.importorskip("deepxde", reason="needs the extra 'deepxde'")
if dde.backend.backend_name != "pytorch":
    pytest.skip("DeepXDE runs on another backend; set DDE_BACKEND=pytorch", allow_module_level=True)

from precondlab.integrations import deepxde  # noqa: E402


@pytest.fixture
def poisson():
    """-u″ = π² sin πx on (-1, 1), as in DeepXDE's documentation."""
    before = dde.config.real(np).__name__
    dde.config.set_default_float("float64")
    dde.config.set_random_seed(0)

    def pde(x, y):
        dy_xx = dde.grad.hessian(y, x)
        return -dy_xx - np.pi**2 * torch.sin(np.pi * x)

    geometry = dde.geometry.Interval(-1, 1)
    condition = dde.icbc.DirichletBC(geometry, lambda x: np.sin(np.pi * x), lambda _, on_boundary: on_boundary)
    data = dde.data.PDE(geometry, pde, condition, 16, 2, num_test=100)
    net = dde.nn.FNN([1] + [10] * 2 + [1], "tanh", "Glorot uniform")
    model = dde.Model(data, net)
    model.compile("adam", lr=1e-3, loss_weights=[1.0, 7.0], verbose=0)
    yield model
    dde.config.set_default_float(before)


def host_losses(model):
    X, y, aux = model.data.train_next_batch()
    _, losses = model.outputs_losses_train(X, y, aux)
    return losses.detach()


def test_residual_is_the_hosts_loss(poisson):
    r = deepxde.residual(poisson)
    assert list(r.codomain.slices) == ["interior", "DirichletBC"]
    blocks = [r.value[rows].square().sum().item() for rows in r.codomain.slices.values()]
    np.testing.assert_allclose(blocks, host_losses(poisson), rtol=1e-12)


def test_jacobian_agrees_with_finite_differences(poisson):
    r = deepxde.residual(poisson)
    J = pl.Jacobian(r)
    theta = r.domain.ravel(r.params).detach()
    v = r.domain.random(generator=torch.Generator().manual_seed(1))
    h = 1e-5
    difference = (r(theta + h * v) - r(theta - h * v)) / (2 * h)
    assert (J @ v - difference).norm() <= 1e-8 * difference.norm()


def test_gradient_is_the_hosts_gradient(poisson):
    r = deepxde.residual(poisson)
    J = pl.Jacobian(r)
    ours = 2 * (J.H @ r.value)
    X, y, aux = poisson.data.train_next_batch()
    _, losses = poisson.outputs_losses_train(X, y, aux)
    theirs = torch.autograd.grad(losses.sum(), list(poisson.net.parameters()), allow_unused=True)
    flat = torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).reshape(-1)
            for p, g in zip(poisson.net.parameters(), theirs, strict=True)
        ]
    )
    assert (ours - flat).norm() <= 1e-12 * flat.norm()


def test_condition_reports_a_singular_operator_with_its_rank(poisson):
    result = pl.condition(pl.Gram(pl.Jacobian(deepxde.residual(poisson))))
    rows = deepxde.residual(poisson).codomain.size
    assert not result.status.ok
    assert result.upper == float("inf")
    assert 1 <= result.rank <= rows < result.size


def test_training_continues_and_moves_the_map(poisson):
    r = deepxde.residual(poisson)
    before = r.value
    poisson.train(iterations=3, verbose=0, display_every=10)
    assert not torch.equal(r.value, before)
    np.testing.assert_allclose(r.value.square().sum().item(), host_losses(poisson).sum().item(), rtol=1e-12)


def test_external_variables_are_refused(poisson):
    poisson.external_trainable_variables = [dde.Variable(1.0)]
    with pytest.raises(ValueError, match="register them"):
        deepxde.residual(poisson)
