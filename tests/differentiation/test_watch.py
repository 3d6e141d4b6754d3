"""What a map refuses, or warns of, before anything is differentiated."""

import warnings

import pytest
import torch
from torch import nn

import precondlab as pl
from precondlab.differentiation.calculus import Pointwise, apply
from precondlab.symbol import Symbol

F64 = torch.float64
X = torch.linspace(0.1, 1, 60, dtype=F64).reshape(30, 2)


def network(*middle):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 5), *middle, nn.Linear(5, 1)).double()


def pointwise(model, rows=lambda x, u: apply(Symbol.laplacian(2), u, x) + u(x)[:, 0]):
    return pl.Map({"": Pointwise(model, rows)}, dict(model.named_parameters()), points={"": X})


def closure(model):
    def residual():
        x = X.clone().requires_grad_()
        (du,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        (ddu,) = torch.autograd.grad(du[:, 0].sum(), x, create_graph=True)
        return ddu[:, 0] + model(x)[:, 0]

    return pl.Map.of_module(model, residual)


def problem(model):
    return pl.problems.poisson(dim=2).residual(model, interior=30, boundary=8)


def function(model):
    def rows(p, x):
        return torch.func.functional_call(model, p, (x,))[:, 0]

    return pl.Map({"": rows}, dict(model.named_parameters()), points={"": X})


STYLES = {"pointwise": pointwise, "closure": closure, "problem": problem}


class TorchReLU(nn.Module):
    def forward(self, x):
        return torch.relu(x)


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
@pytest.mark.parametrize("layer", [nn.ReLU(), TorchReLU(), nn.LeakyReLU(), nn.ReLU6()], ids=lambda a: type(a).__name__)
def test_second_derivatives_of_relu_warn_once(style, layer):
    model = network(layer)
    with pytest.warns(UserWarning, match="ReLU.*smooth activation") as caught:
        style(model)
    assert [w.filename for w in caught] == [__file__]


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_hardswish_has_a_second_derivative(style):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        style(network(nn.Hardswish()))


def test_first_derivatives_of_relu_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        r = pointwise(network(nn.ReLU()), lambda x, u: apply(Symbol({(1, 0): 1.0}), u, x))
        pl.Jacobian(r)


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_a_layer_without_second_derivative_is_named(style):
    with pytest.raises(ValueError, match="torch has no second derivative of hardsigmoid; take a smooth activation"):
        style(network(nn.Hardsigmoid()))


def test_a_derivative_missing_only_in_the_parameters_is_named_too():
    r = pointwise(network(nn.Hardsigmoid()), lambda x, u: apply(Symbol({(1, 0): 1.0}), u, x))
    with pytest.raises(ValueError, match="no derivative in its parameters: torch has no second derivative of hardsigm"):
        pl.Jacobian(r)


@pytest.mark.parametrize("style", [pointwise, function, closure])
@pytest.mark.parametrize("layer", [nn.BatchNorm1d(5), nn.Dropout(0.5)], ids=["norm", "dropout"])
def test_training_mode_is_refused_before_any_buffer_changes(style, layer):
    model = network(layer.train(), nn.Tanh())
    before = {name: value.clone() for name, value in model.named_buffers()}
    with pytest.raises(ValueError, match=r"training mode and its layers.*model\.eval\(\)"):
        style(model)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    model.eval()
    v = (J := pl.Jacobian(style(model))).domain.random()
    torch.testing.assert_close(J @ v, pl.Jacobian(J.map, route="graph") @ v)


@pytest.mark.parametrize("points", [30, 4000])
def test_rows_that_depend_on_other_points_are_refused(points):
    model, x = network(nn.Tanh()), torch.rand(points, 2, dtype=F64)
    params = dict(model.named_parameters())
    mixing = {
        "mean": Pointwise(model, lambda x, u: u(x)[:, 0] - u(x)[:, 0].mean()),
        "length": lambda p, x: torch.func.functional_call(model, p, (x,)) / len(x) ** 0.5,
        "pair": lambda p, x: torch.func.functional_call(model, p, (x,)) * torch.ones(points, 1, dtype=F64),
    }
    for name, rows in mixing.items():
        with pytest.raises(ValueError, match=r"one by one.*as one function"):
            pl.Map({name: rows}, params, points={name: x})


def test_round_off_of_a_small_residual_is_not_taken_for_mixing():
    model, x = pl.models.mlp((2, 30, 30, 1), seed=0), torch.rand(4000, 2, dtype=F64)
    with torch.no_grad():
        known = torch.cat([model(part) for part in x.split(7)])[:, 0]
    rows = Pointwise(model, lambda x, u, known: u(x)[:, 0] - known, known)
    r = pl.Map({"": rows}, dict(model.named_parameters()), points={"": x})
    assert r.value.norm() < 1e-11
