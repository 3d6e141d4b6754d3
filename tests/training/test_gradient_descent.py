"""Preconditioned gradient descent as a torch optimizer."""

import copy
import itertools

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import aslinearoperator

import precondlab as pl
from precondlab.errors import Breakdown
from precondlab.operators import Dense, Diagonal


def make(seed=0):
    model = pl.models.mlp((1, 6, 1), seed=seed)
    return model, pl.problems.poisson(dim=1).residual(model, interior=20)


def test_without_a_preconditioner_it_is_torch_sgd_on_half_the_squared_residual():
    model, r = make()
    twin = copy.deepcopy(model)
    r_twin = pl.problems.poisson(dim=1).residual(twin, interior=20)
    sgd = torch.optim.SGD(twin.parameters(), lr=1e-2)
    optimizer = pl.optim.GradientDescent(r, lr=1e-2)
    for _ in range(5):
        sgd.zero_grad()
        raw = r_twin.raw(None)(dict(twin.named_parameters())) * r_twin.scale()
        expected = 0.5 * raw @ raw
        expected.backward()
        sgd.step()
        torch.testing.assert_close(optimizer.step(), expected.detach())
    torch.testing.assert_close(model.state_dict(), twin.state_dict())


def test_the_default_rate_is_stable_and_the_loss_falls():
    _, r = make(1)
    optimizer = pl.optim.GradientDescent(r)
    losses = [optimizer.step().item() for _ in range(50)]
    assert all(after <= before for before, after in itertools.pairwise(losses))


def test_gauss_newton_as_preconditioner_solves_a_linear_model_in_one_step():
    model = pl.models.fourier(4)
    problem = pl.problems.poisson(dim=1)
    r = problem.residual(model, interior=30)
    inverse = Dense(torch.linalg.inv(pl.Gram(pl.Jacobian(r)).dense()), positive=True)
    pl.optim.GradientDescent(r, lr=1.0, preconditioner=inverse).step()
    assert problem.error(model) < 1e-10


def test_a_preconditioner_may_be_scipys():
    residuals = [make()[1] for _ in range(2)]
    D = np.linspace(1, 2, residuals[0].domain.size)
    ours, scipys = Diagonal(torch.as_tensor(D)), aslinearoperator(np.diag(D))
    for r, M in zip(residuals, (ours, scipys), strict=True):
        pl.optim.GradientDescent(r, lr=1e-2, preconditioner=M).step()
    torch.testing.assert_close(residuals[0].value, residuals[1].value)


def test_it_obeys_the_torch_optim_protocol():
    _, r = make()
    optimizer = pl.optim.GradientDescent(r, lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    called = []
    optimizer.step(lambda: called.append(1))
    scheduler.step()
    assert called == [1]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    other = pl.optim.GradientDescent(make(2)[1], lr=1.0)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["lr"] == pytest.approx(0.05)


def test_a_loss_that_is_not_finite_leaves_the_parameters_alone():
    a = torch.tensor([1.0], requires_grad=True)
    r = pl.Map(lambda p: p["a"].log(), {"a": a})
    optimizer = pl.optim.GradientDescent(r, lr=1.0)
    with torch.no_grad():
        a.fill_(-1.0)
    with pytest.raises(Breakdown, match="lower lr"):
        optimizer.step()
    assert a.item() == -1.0


def test_bad_arguments_are_refused():
    _, r = make()
    with pytest.raises(ValueError, match="lr should be positive"):
        pl.optim.GradientDescent(r, lr=-1.0)
    with pytest.raises(ValueError, match="shape"):
        pl.optim.GradientDescent(r, lr=1.0, preconditioner=Diagonal(torch.ones(3)))
    with pytest.raises(TypeError, match="expected an Operator or a SciPy LinearOperator, got ndarray"):
        pl.optim.GradientDescent(r, lr=1.0, preconditioner=np.eye(r.domain.size))
    rootless = Dense(torch.eye(r.domain.size, dtype=torch.float64), positive=True)
    with pytest.raises(ValueError, match="pass lr"):
        pl.optim.GradientDescent(r, preconditioner=rootless)
