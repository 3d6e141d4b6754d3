"""Convolutions by the graph route: every setting against dense derivatives, and no work that nobody asked for."""

import pytest
import torch
from torch import nn

import precondlab as pl
from precondlab.operators.plan import Flops

F64 = torch.float64
LAYERS = {
    "plain": lambda: nn.Conv2d(2, 4, 3),
    "no bias": lambda: nn.Conv2d(2, 4, 3, bias=False),
    "settings": lambda: nn.Conv2d(2, 4, (2, 3), stride=(2, 1), padding=(1, 2), dilation=2),
    "groups": lambda: nn.Conv2d(2, 4, 3, groups=2, padding="same"),
    "transposed": lambda: nn.ConvTranspose2d(2, 4, 3, stride=2, output_padding=1),
    "line": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(2, 4, 5), nn.Unflatten(2, (4, 8))),
    "volume": lambda: nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv3d(1, 4, 2), nn.Flatten(1, 2)),
}


def network(name):
    torch.manual_seed(0)
    first = nn.Conv2d(1, 2, 3, padding=1, bias=name != "no bias")
    layers = first, nn.Tanh(), LAYERS[name](), nn.SiLU(), nn.Flatten(), nn.LazyLinear(3), nn.Tanh()
    model = nn.Sequential(*layers).double()
    model(torch.zeros(1, 1, 6, 6, dtype=F64))
    return model


def check(J, expected):
    n, (few, many) = J.shape[1], (J.domain.random(1), J.domain.random(7))
    torch.testing.assert_close(J @ few, expected @ few)
    torch.testing.assert_close(J @ many, expected @ many)
    torch.testing.assert_close(J.H @ (J @ many), expected.T @ (expected @ many))
    torch.testing.assert_close(J @ torch.eye(n, dtype=F64), expected)


def dense(r):
    theta = r.domain.ravel(r.params).detach()
    return torch.autograd.functional.jacobian(lambda t: r.raw(None)(r.domain.unravel(t)), theta)


@pytest.mark.parametrize("frozen", ["", "weight", "bias", "0."])
@pytest.mark.parametrize("name", LAYERS)
def test_products_with_convolutions(name, frozen):
    model, x = network(name), torch.rand(3, 1, 6, 6, dtype=F64)
    for key, p in model.named_parameters():
        p.requires_grad_(not (frozen and frozen in key) or key.startswith("5."))
    r = pl.Map.of_module(model, lambda: model(x))
    check(pl.Jacobian(r, route="graph"), dense(r))


@pytest.mark.parametrize("name", ["plain", "no bias", "settings"])
def test_residuals_that_differentiate_convolutions(name):
    model, x = network(name), torch.rand(2, 1, 6, 6, dtype=F64, requires_grad=True)

    def residual():
        (slope,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        (curve,) = torch.autograd.grad(slope.square().sum(), x, create_graph=True)
        return curve.flatten(1).sum(1)

    r = pl.Map.of_module(model, residual)
    check(pl.Jacobian(r, route="graph"), dense(r))


def test_residuals_that_are_gradients_of_weights():
    """There both products walk nodes of differentiated convolutions that need all their adjoints."""
    model, x = network("plain"), torch.rand(2, 1, 6, 6, dtype=F64)

    def residual(params):
        given = {name: p if p.requires_grad else p.clone().requires_grad_() for name, p in params.items()}
        loss = torch.func.functional_call(model, given, (x,)).square().sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(given.values()), create_graph=True)])

    r = pl.Map(residual, dict(model.named_parameters()))
    check(pl.Jacobian(r, route="graph"), dense(r))


@pytest.mark.parametrize("bias", [True, False])
def test_a_tangent_costs_what_it_takes(bias):
    """``W ∗ ẋ`` and ``Ẇ ∗ x``; without a bias the adjoint of x comes with it."""
    layer = nn.Conv2d(1, 4, 3, bias=bias), nn.Tanh(), nn.Conv2d(4, 5, 3, bias=bias)
    model, x = nn.Sequential(*layer).double(), torch.rand(2, 1, 9, 9, dtype=F64)
    J = pl.Jacobian(pl.Map.of_module(model, lambda: model(x)), route="graph")
    v = J.domain.random()
    J @ v  # records the graph
    first, second = (2 * 2 * size**2 * a * b * 9 for size, a, b in ((7, 1, 4), (5, 4, 5)))
    with Flops() as counter:
        J @ v
    assert counter.total == (first + 2 * second if bias else 2 * first + 3 * second)
