"""Networks that jets read rightly, or leave to another route with a reason; and operators at one fixed point."""

import logging
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import precondlab as pl
from precondlab.differentiation.calculus import Pointwise, apply
from precondlab.differentiation.jets import Network, Unsupported
from precondlab.differentiation.jets.activations import automatic, elu, softplus
from precondlab.symbol import Symbol
from precondlab.testing import check_operator

F64 = torch.float64
X = torch.linspace(-1, 1, 60, dtype=F64).reshape(30, 2).sin()


def laplacian(x, u):
    return apply(Symbol.laplacian(2), u, x)


def rows(model, x=X, function=laplacian, params=None):
    return pl.Map({"": Pointwise(model, function)}, params or dict(model.named_parameters()), points={"": x})


def check_against_graph(J):
    truth = pl.Jacobian(J.map, route="graph")
    torch.testing.assert_close(J.value, truth.value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(J.dense(), truth.dense(), rtol=1e-11, atol=1e-11)
    v = J.domain.random()
    torch.testing.assert_close(J @ v, truth @ v, rtol=1e-11, atol=1e-11)


class Net(nn.Module):
    """A network of two linear layers and what a test puts around them."""

    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(2, 5), nn.Linear(5, 1), nn.Linear(4, 1)
        self.power, self.W = Power(), nn.Parameter(torch.randn(2, 5))
        self.M, self.v, self.t = (nn.Parameter(torch.randn(shape)) for shape in ((5, 5), (5,), ()))
        self.register_buffer("tag", torch.randn(1, 2))
        self.register_buffer("B", torch.randn(2, 5))
        self._forward = forward
        self.double()

    def twice(self, y):
        return (y + self.v) * y

    def forward(self, x):
        return self._forward(self, x)


class Power(nn.Module):
    def forward(self, x, exponent):
        return x**exponent


READ = {
    "keyword": lambda net, x: net.b(torch.tanh(net.a(input=x))),
    "softplus": lambda net, x: net.b(F.softplus(net.a(x))),
    "sharper softplus": lambda net, x: net.b(F.softplus(net.a(x), 2.0, threshold=3)),
    "silu": lambda net, x: net.b(F.silu(net.a(x))),
    "elu": lambda net, x: net.b(F.elu(net.a(x), alpha=0.5)),
    "buffer": lambda net, x: net.b(torch.tanh(x @ net.B)),
    "x @ W + v": lambda net, x: net.b((torch.tanh(x @ net.W + net.v) @ net.M).sin()),
    "v + x @ M.T": lambda net, x: net.b((net.v + net.a(x) @ net.M.T).tanh() @ net.M),
    "matmul, mm": lambda net, x: net.b((net.t + torch.matmul(torch.mm(x, net.W), net.M.transpose(-2, -1))).tanh()),
    "methods": lambda net, x: net.b(torch.add(net.a(x).matmul(net.M.t()), net.v).tanh()),
    "addmm": lambda net, x: net.b(torch.addmm(net.v, x, net.W).tanh()),
    "linear": lambda net, x: net.b(F.linear(F.linear(x, net.W.T, bias=net.v).tanh(), net.M, -0.5 * net.v)),
    "linear without bias": lambda net, x: net.b(F.linear(net.a(x).tanh(), -net.M / 3)),
    "shifts": lambda net, x: net.b((net.v - net.a(x)).tanh() - net.t + 2 * net.v),
    "slopes": lambda net, x: net.b(torch.tanh(10.0 * net.t * net.a(x)) * -net.v),
    "product taken twice": lambda net, x: net.b(net.twice(x @ net.W).tanh()),
}
LEFT = {
    "buffer joined": (
        lambda net, x: net.c(torch.cat([x, net.tag.expand(len(x), 2)], -1)).tanh(),
        "torch.fx cannot read|argument",
    ),
    "second argument": (lambda net, x: net.b(torch.tanh(net.a(net.power(x, 2)))), "2 where a result"),
    "computed weight": (lambda net, x: net.b((x @ (net.W * net.v)).tanh()), "mul with a parameter"),
    "weight first": (lambda net, x: net.b((net.W.T @ x.T).T.tanh()), "getattr"),
    "part of a parameter": (lambda net, x: net.b(net.a(x).tanh() * net.M[1, 0:5]), "getitem with a parameter"),
    "slope zero": (lambda net, x: net.b((net.a(x) + 0 * net.t).tanh()), "mul with a parameter"),
    "keywords": (lambda net, x: net.b(torch.tanh(torch.add(input=net.a(x), other=1))), "with keywords"),
    "loop over points": (lambda net, x: net.b(torch.stack([net.a(y).tanh() for y in x])), "torch.fx cannot read"),
}


@pytest.mark.parametrize("name", READ)
def test_networks_that_are_read(name):
    J = pl.Jacobian(rows(Net(READ[name])))
    assert J.route == "jets"
    check_against_graph(J)


def test_a_matrix_of_ones_own_is_a_linear_layer():
    """Products by one step per layer; kernel and KFAC know the layer, however often its matrix is used."""
    model = Net(lambda net, x: (((x @ net.W + net.v).tanh() @ net.M.T).tanh() @ net.M + net.v).tanh() @ net.b.weight.T)
    params = {name: p for name, p in model.named_parameters() if name in ("W", "M", "v", "b.weight")}
    assert len(Network(model, list(params)).steps) == 7
    J = pl.Jacobian(rows(model, function=lambda x, u: laplacian(x, u) + u(x)[:, 0] ** 2, params=params))
    assert J.route == "jets"
    check_against_graph(J)
    matrix = J.dense()
    torch.testing.assert_close(pl.Kernel(J).formed().dense(), matrix @ matrix.T, rtol=1e-10, atol=1e-10)
    found = torch.zeros_like(matrix)
    for place, names, a, g in J.layers():
        for (name,), block in [(names, torch.einsum("cnq,cnp->nqp", g, a))]:
            found[place, J.domain.slices[name]] += block.flatten(1)
    torch.testing.assert_close(found, matrix, rtol=1e-10, atol=1e-10)
    check_operator(pl.preconditioners.kfac(pl.Gram(J), damping=1e-3))


@pytest.mark.parametrize("name", LEFT)
def test_networks_that_are_not_read_take_another_route_with_its_reason(name, caplog):
    forward, reason = LEFT[name]
    with caplog.at_level(logging.INFO, "precondlab"):
        J = pl.Jacobian(rows(Net(forward)))
    assert J.route == "graph"
    assert re.search(f"route 'jets' refused: not supported here .*({reason})", caplog.text)
    check_against_graph(J)


def test_an_input_that_is_no_result_of_a_layer_is_named():
    model = Net(lambda net, x: net.c(torch.cat([x, net.tag], -1)).tanh())
    with pytest.raises(Unsupported, match="tag where a result of an earlier layer should be"):
        Network(model, [name for name, _ in model.named_parameters()])


def test_parameters_that_the_map_does_not_have_are_those_of_the_model():
    model = pl.models.mlp((2, 6, 6, 1), seed=0)
    last = {name: p for name, p in model.named_parameters() if name.startswith("4")}
    J = pl.Jacobian(rows(model, params=last))
    assert J.route == "jets"
    check_against_graph(J)


def test_one_name_of_tied_weights_is_enough():
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    model[2].weight = model[0].weight
    for name in ("0.weight", "2.weight"):
        J = pl.Jacobian(rows(model, params={name: model[0].weight}))
        assert J.route == "jets"
        check_against_graph(J)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (softplus(), nn.Softplus()),
        (softplus(2.5, 5.0), nn.Softplus(2.5, 5.0)),
        (elu(), nn.ELU()),
        (elu(0.7), nn.ELU(0.7)),
    ],
)
def test_activations_with_settings(ours, theirs):
    z = torch.cat([torch.linspace(-9.1, 8.9, 37, dtype=F64), torch.tensor([30.0, 19.9, 20.1, -40.0], dtype=F64)])
    for r, (found, expected) in enumerate(zip(ours(z, 4), automatic(theirs)(z, 4), strict=True)):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12, msg=f"derivative {r}")


@pytest.mark.parametrize("layer", [nn.Softplus(threshold=5), nn.Softplus(), nn.Softplus(3.0, 4.0), nn.ELU(0.5)])
def test_both_sides_of_a_threshold(layer):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 5), layer, nn.Dropout(0.1), nn.Linear(5, 1)).double().eval()
    x = torch.rand(480, 1, dtype=F64)
    x[1::2] += 40
    J = pl.Jacobian(rows(model, x, lambda x, u: apply(Symbol.derivative(2), u, x) + u(x)[:, 0]))
    assert J.route == "jets"
    check_against_graph(J)


@pytest.mark.parametrize("at", [None, "another point"])
def test_rows_outside_the_sample_are_compared(at):
    """A hook that jets do not see changes the network at points which the sample of rows does not meet."""
    model = pl.models.mlp((1, 5, 1), seed=0)
    x = torch.rand(480, 1, dtype=F64)
    x[1::2] += 10
    model.register_forward_hook(lambda module, inputs, output: torch.where(inputs[0] > 5, 2 * output, output))
    r = rows(model, x, lambda x, u: u(x)[:, 0])
    point = None if at is None else {name: 1.1 * p.detach() for name, p in r.params.items()}
    assert pl.Jacobian(r, at=point).route == "graph"
    with pytest.raises(pl.errors.WrongDerivative, match="jets: its value is not that of the residual"):
        pl.Jacobian(r, at=point, route="jets")


@pytest.mark.parametrize("budget", [2**30, 100_000])
@pytest.mark.parametrize("route", ["jets", "graph", "functional", "dual"])
def test_an_operator_stays_at_its_points_weights_and_buffers(route, budget):
    model = Net(lambda net, x: net.b(torch.tanh(net.a(x) + x @ net.B)))
    model.a.weight.requires_grad_(False)
    x = torch.rand(200, 2, dtype=F64)
    known = torch.rand(200, dtype=F64)
    block = Pointwise(model, lambda x, u, known: known * u(x)[:, 0] ** 2, known)
    params = {name: p for name, p in model.named_parameters() if name[0] in "ab"}
    J = pl.Jacobian(pl.Map({"": block}, params, points={"": x}), route=route, memory_budget=budget)
    v = J.domain.random()
    before, value = J @ v, J.value
    for tensor in (x, known, model.B, model.a.weight.data, model.b.weight.data):
        tensor.mul_(1.5)
    assert torch.equal(J @ v, before) and torch.equal(J.value, value)
    u = J.codomain.random()
    torch.testing.assert_close(u @ before, (J.H @ u) @ v)
    moved = J.moved(J.at)  # of the same map as it is now
    assert not torch.allclose(moved @ v, before)


@pytest.mark.parametrize("route", ["graph", "functional", "dual"])
def test_an_operator_of_a_module_stays_at_its_weights_and_buffers(route):
    model = Net(lambda net, x: net.b(torch.tanh(net.a(x) + x @ net.B)))
    model.a.weight.requires_grad_(False)
    J = pl.Jacobian(pl.Map.of_module(model, lambda: model(X)), route=route)
    v = J.domain.random()
    before = J @ v
    for tensor in (model.B, model.a.weight.data, model.b.weight.data):
        tensor.mul_(1.5)
    assert torch.equal(J @ v, before)


def test_points_that_require_gradients_keep_jets():
    J = pl.Jacobian(rows(pl.models.mlp((2, 5, 1), seed=0), X.clone().requires_grad_()))
    assert J.route == "jets"
    check_against_graph(J)
