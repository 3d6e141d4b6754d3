"""Closed-form Taylor propagation against torch's graph, mpmath and finite differences."""

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import precondlab as pl
from precondlab.differentiation.calculus import Pointwise, apply, partials
from precondlab.differentiation.jets import LAYERS, Layer, Network, Unsupported
from precondlab.differentiation.jets.activations import SMOOTH, automatic, derivatives_of
from precondlab.differentiation.jets.algebra import JetAlgebra
from precondlab.symbol import Symbol

F64 = torch.float64


class Gated(nn.Module):
    """The modified MLP of Wang, Teng & Perdikaris, with a sine layer, a skip and a concatenation."""

    def __init__(self):
        super().__init__()
        self.u, self.v, self.a = nn.Linear(2, 6), nn.Linear(2, 6), nn.Linear(2, 6)
        self.b, self.out = nn.Linear(6, 6), nn.Linear(6, 1)

    def forward(self, x):
        u, v = torch.tanh(self.u(x)), torch.tanh(self.v(x))
        h = torch.sin(3.0 * self.a(x))
        h = h * u + (1 - h) * v
        h = h + torch.sigmoid(self.b(h)) - 0.5
        return -self.out(torch.cat([h[:, :2], h[:, 2:]], dim=-1)) / 2


class RandomFeatures(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("B", torch.randn(2, 5))
        self.net = pl.models.mlp((10, 6, 1), dtype=torch.float32)

    def forward(self, x):
        z = x @ self.B
        return self.net(torch.cat([z.sin(), z.cos()], -1)) * x[:, :1] ** 2


class Normalized(nn.Module):
    """``g (x − mean x) / √(var x + ε) + b`` written out: torch's LayerNorm has a wrong third derivative."""

    def __init__(self, width, center):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)
        self.bias = nn.Parameter(torch.randn(width)) if center else None

    def forward(self, x):
        if self.bias is not None:
            x = x - x.mean(-1, keepdim=True)
        y = x * torch.rsqrt((x * x).mean(dim=-1, keepdim=True) + 1e-5) * self.weight
        return y if self.bias is None else y + self.bias


def normalized(written=True):
    torch.manual_seed(0)
    norms = (Normalized(6, True), Normalized(5, False))
    if not written:
        norms = nn.LayerNorm(6), nn.RMSNorm(5, eps=1e-5)
    torch.manual_seed(1)
    first, second, third = nn.Linear(2, 6), nn.Linear(6, 5), nn.Linear(5, 1)
    return nn.Sequential(first, norms[0], nn.Tanh(), second, norms[1], nn.GELU(), third)


class Adaptive(nn.Module):
    """Trainable slopes and gates, a partition of unity and a parameter-free module in the middle."""

    class Share(nn.Module):
        def forward(self, x):
            return x.exp() / x.exp().sum(1, keepdim=True)

    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(2, 5), nn.Linear(5, 5), nn.Linear(5, 1)
        self.slope, self.gate = nn.Parameter(torch.tensor(1.3)), nn.Parameter(torch.randn(5))
        self.offset = nn.Parameter(torch.tensor([0.2]))
        self.share = self.Share()

    def forward(self, x):
        h = torch.tanh(self.slope * self.first(x))
        h = h + self.gate * torch.sin(self.second(h)) + self.offset
        return self.out(self.share(h) * 2 / (1 + h**2) + h**3)


def tied():
    model = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 1))
    model[4].weight = model[2].weight
    return model


def frozen():
    model = pl.models.mlp((2, 5, 5, 1))
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    return model


BOX = ((-math.pi, math.pi), (-math.pi, math.pi))
NETWORKS = {
    "gated": Gated,
    "random features": RandomFeatures,
    "masked": lambda: pl.models.masked(pl.models.mlp((2, 6, 1)), pl.models.box_mask(BOX), lift=lambda x: x[:, :1] ** 2),
    "periodic": lambda: pl.models.periodic(pl.models.mlp((4, 6, 1)), (2 * math.pi, 2 * math.pi)),
    "fourier features": lambda: pl.models.fourier_mlp(2, (5,), domain=BOX, activation="gelu"),
    "normalized": normalized,
    "adaptive": Adaptive,
    "tied": tied,
    "frozen": frozen,
}
ORDERS = {
    1: pl.Symbol({(1, 0): 1.0, (0, 1): -2.0, (0, 0): 0.5}),
    2: pl.Symbol({(2, 0): 1.0, (1, 1): 0.3, (0, 2): -1.0, (0, 1): 1.0}),
    3: pl.Symbol({(3, 0): 1.0, (1, 2): -0.5, (0, 1): 1.0}),
    4: pl.Symbol({(4, 0): 1.0, (2, 2): 2.0, (0, 4): 1.0, (0, 0): -1.0}),
}


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def check_against_graph(r, tolerance):
    J, expected = pl.Jacobian(r, route="jets"), pl.Jacobian(r, route="graph").dense()
    m, n = J.shape
    assert relative(J.value, r.value) <= tolerance
    assert relative(J.dense(), expected) <= tolerance
    assert relative(J @ torch.eye(n, dtype=r.domain.dtype), expected) <= tolerance
    assert relative(J.H @ torch.eye(m, dtype=r.domain.dtype), expected.T) <= tolerance
    assert relative(pl.Gram(J) @ torch.eye(n, dtype=r.domain.dtype), expected.T @ expected) <= tolerance


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_and_order_is_the_graph_route(name, order):
    torch.manual_seed(0)
    model = NETWORKS[name]().double()
    x = torch.rand(40, 2, dtype=F64)
    rows = Pointwise(model, lambda x, u: apply(ORDERS[order], u, x))
    r = pl.Map({"": rows}, dict(model.named_parameters()), points={"": x}, quadrature={"": torch.rand(40)})
    check_against_graph(r, 1e-12)


def test_normalizations_of_torch_are_the_written_out_ones():
    dense = []
    for written in (True, False):
        model = normalized(written).double()
        with torch.no_grad():
            for i, p in enumerate(model.parameters()):
                p.copy_(torch.linspace(-1, 2, p.numel(), dtype=F64).add(0.1 * i).sin().reshape(p.shape))
        rows = Pointwise(model, lambda x, u: apply(ORDERS[2], u, x))
        x = torch.rand(10, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
        r = pl.Map({"": rows}, dict(model.named_parameters()), points={"": x})
        dense.append(pl.Jacobian(r, route="graph" if written else "jets").dense())
    assert relative(dense[1], dense[0]) <= 1e-12


@pytest.mark.parametrize("activation", ["tanh", "gelu", "silu", "sigmoid", "softplus", "mish", nn.Softsign, nn.ELU])
@pytest.mark.parametrize("make", [pl.problems.poisson, pl.problems.burgers, pl.problems.kdv, pl.problems.helmholtz])
def test_every_activation_and_problem(activation, make):
    problem = make()
    model = pl.models.mlp((problem.dim, 6, 6, 1), activation=activation, seed=0)
    check_against_graph(problem.residual(model, interior=20, boundary=6), 1e-12)


class Shifted:
    """Rows that take a field at several constant shifts of their points, nonlinearly."""

    def __call__(self, x, u):
        D, far = Symbol.laplacian(2), x + x.new_tensor([0.3, -1.0])
        return torch.stack([apply(D, u, far) * u(x)[:, 0] - u(x - 0.5)[:, 0] ** 2, u(far)[:, 0] - u(x)[:, 0]], dim=1)


@pytest.mark.parametrize("budget", [2**30, 3_000])
def test_rows_at_shifted_points(budget):
    model = pl.models.mlp((2, 7, 6, 1), seed=0)
    x = torch.rand(70, 2, dtype=F64)
    r = pl.Map({"": Pointwise(model, Shifted())}, dict(model.named_parameters()), points={"": x})
    J, truth = pl.Jacobian(r, memory_budget=budget), pl.Jacobian(r, route="graph")
    assert J.route == "jets"
    V, U = r.domain.random(5), r.codomain.random(5)
    for ours, theirs in (
        (J @ V, truth @ V),
        (J.H @ U, truth.H @ U),
        (J.dense(), truth.dense()),
        (J.value, truth.value),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_periodicity_of_a_network_that_is_not_periodic_takes_jets():
    model = pl.models.mlp((2, 8, 8, 1), seed=0)
    r = pl.problems.advection().residual(model, interior=30, boundary=12)
    assert len(r.codomain.shapes) == 3  # the network does not satisfy the condition by itself
    check_against_graph(r, 1e-12)


def test_points_that_are_no_constant_shift_take_another_route():
    model = pl.models.mlp((1, 5, 1), seed=0)
    rows = Pointwise(model, lambda x, u: u(2 * x)[:, 0] - u(x)[:, 0])
    r = pl.Map({"": rows}, dict(model.named_parameters()), points={"": torch.rand(9, 1, dtype=F64)})
    assert pl.Jacobian(r).route == "graph"


def test_single_precision():
    model = pl.models.mlp((2, 8, 8, 1), dtype=torch.float32, seed=0)
    check_against_graph(pl.problems.poisson(dim=2).residual(model, interior=30, boundary=8), 1e-5)


@pytest.mark.parametrize("budget", [100_000, 150_000, 13_000_000])
def test_a_memory_budget_changes_nothing_but_memory(budget):
    model = pl.models.mlp((2, 16, 16, 1), seed=0)
    r = pl.problems.poisson(dim=2).residual(model, interior=3000, boundary=8)
    whole, small = pl.Jacobian(r, route="jets"), pl.Jacobian(r, route="jets", memory_budget=budget)
    assert sum(route.kept_bytes for _, _, route in small._chunks(slice(0, r.codomain.size))) <= budget
    assert "rebuilt" in repr(small) and ("100% rebuilt" in repr(small)) == (budget < 10**6)
    v = r.domain.random()
    torch.testing.assert_close(pl.Gram(small) @ v, pl.Gram(whole) @ v)
    with pytest.raises(ValueError, match="too small for one row, which needs about"):
        pl.Jacobian(r, route="jets", memory_budget=10)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_kept_moves_into_one_piece(name):
    model = NETWORKS[name]().double()
    params = {key: p.detach() for key, p in model.named_parameters()}
    space = pl.Space.of(params)
    moved = Network(model, list(params)).linearize(params, JetAlgebra([{(2, 0): 1.0}]), torch.rand(7, 2, dtype=F64))
    changes = {key: value[None] for key, value in space.unravel(space.random()).items()}
    before, size = moved.tangent(changes), moved.kept_bytes
    moved.pack()
    assert len({t.untyped_storage().data_ptr() for t in moved._kept()}) == 1
    assert size <= moved.kept_bytes < size + 64 * len(moved._kept())
    assert torch.equal(moved.tangent(changes), before)


def test_third_derivatives_of_a_small_network_to_forty_digits():
    """∂u_xxx/∂θ of a 1-2-1 tanh network by mpmath."""
    theta = [0.7, -1.3, 0.2, 0.4, 1.1, -0.6, 0.3]
    point = 0.37

    def third(*t):
        tanhs = [mpmath.tanh(t[j] * point + t[2 + j]) for j in (0, 1)]
        return sum(t[4 + j] * t[j] ** 3 * -2 * (1 - T**2) * (1 - 3 * T**2) for j, T in enumerate(tanhs)) + 0 * t[6]

    with mpmath.workdps(40):
        orders = [[int(i == j) for j in range(7)] for i in range(7)]
        expected = [float(mpmath.diff(third, tuple(theta), tuple(order))) for order in orders]
    model = pl.models.mlp((1, 2, 1))
    rows = Pointwise(model, lambda x, u: apply(pl.Symbol.derivative(3), u, x))
    with torch.no_grad():
        for p, values in zip(model.parameters(), (theta[:2], theta[2:4], theta[4:6], theta[6:]), strict=True):
            p.copy_(torch.tensor(values, dtype=F64).reshape(p.shape))
    r = pl.Map({"": rows}, dict(model.named_parameters()), points={"": torch.tensor([[point]], dtype=F64)})
    found = pl.Jacobian(r, route="jets").dense()[0]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=F64), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    "function", [f for f in SMOOTH if not isinstance(f, type) and "relu" not in f.__name__], ids=lambda f: f.__name__
)
def test_derivatives_of_elementary_functions(function):
    z = torch.linspace(-2, 2, 10, dtype=F64)
    for found, expected in zip(SMOOTH[function](z, 5), automatic(function)(z, 5), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10, equal_nan=True)


@settings(max_examples=20)
@given(
    functionals=st.lists(
        st.dictionaries(
            st.tuples(st.integers(0, 2), st.integers(0, 2)).filter(any), st.integers(1, 3), min_size=1, max_size=3
        ),
        min_size=1,
        max_size=2,
    ),
    seed=st.integers(0, 2**31),
)
def test_the_algebra_is_leibniz_rule(functionals, seed):
    """Products of jets are jets of products; the transpose is the transpose; composition is the chain rule."""
    generator = torch.Generator().manual_seed(seed)
    algebra = JetAlgebra(functionals)
    a, b = (torch.rand(3, 3, dtype=F64, generator=generator) for _ in range(2))
    x = torch.rand(4, 2, dtype=F64, generator=generator)

    def polynomial(c):
        return lambda x: torch.einsum("ij,ni,nj->n", c, *(x[:, k, None] ** torch.arange(3) for k in (0, 1)))[:, None]

    def jets(u):
        known = partials(u, x, [(0, 0), *{alpha for F in algebra.channels for alpha in F}])
        return torch.stack([known[(0, 0)], *(sum(c * known[a] for a, c in F.items()) for F in algebra.channels)])

    u, v = polynomial(a), polynomial(b)
    U, V = jets(u), jets(v)
    torch.testing.assert_close(algebra.multiply(U, V), jets(lambda x: u(x) * v(x)), rtol=1e-9, atol=1e-9)
    W = torch.rand(V.shape, dtype=F64, generator=generator)
    left, right = (algebra.multiply(U, V) * W).sum(), (V * algebra.multiply_adjoint(U, W)).sum()
    torch.testing.assert_close(left, right)
    value, slope = algebra.compose(SMOOTH[torch.sin](U[0], algebra.order + 1), U)
    torch.testing.assert_close(value, jets(lambda x: torch.sin(u(x))), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(slope, jets(lambda x: torch.cos(u(x))), rtol=1e-8, atol=1e-8)


class Gain(nn.Module):
    """y = g x with one trainable number."""

    def __init__(self):
        super().__init__()
        self.g = nn.Parameter(torch.tensor([1.7], dtype=F64))

    def forward(self, x):
        return self.g[0] * x


class GainLayer(Layer):
    def __init__(self, g, name):
        self.g, self.name = g, name

    def primal(self, algebra, *inputs):
        self.X = inputs[0]
        return self.g * self.X

    def tangent(self, algebra, *tangents, params):
        moved = self.X.unsqueeze(2) * params[self.name]
        return moved if tangents[0] is None else moved + self.g * tangents[0]

    def adjoint(self, algebra, w, *, wanted, gradients):
        gradients[self.name] += (w * self.X.unsqueeze(2)).sum((0, 1, 3)).unsqueeze(1)
        return [self.g * w if wanted[0] else None]


class GainLayerWithRows(GainLayer):
    def rows(self, w):
        return {self.name: (w * self.X).sum((0, 2)).unsqueeze(1)}


@pytest.mark.parametrize("layer", [GainLayer, GainLayerWithRows])
def test_a_layer_of_ones_own_is_one_class_with_three_methods(monkeypatch, layer):
    model = nn.Sequential(nn.Linear(2, 4), Gain(), nn.Tanh(), nn.Linear(4, 1)).double()
    r = pl.problems.poisson(dim=2).residual(model, interior=20, boundary=4)
    assert pl.Jacobian(r).route == "graph"
    monkeypatch.setitem(LAYERS, Gain, lambda module, params, names: layer(params[names[id(module.g)]], "1.g"))
    assert pl.Jacobian(r).route == "jets"
    check_against_graph(r, 1e-12)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(2, 4), nn.Softmax(-1), nn.Linear(4, 1)), "the layer Softmax"),
        (nn.Sequential(nn.Linear(2, 4), nn.Hardsigmoid(), nn.Linear(4, 1)), "the layer Hardsigmoid"),
        (nn.Bilinear(2, 2, 1), "more than one input"),
    ],
)
def test_unknown_layers_are_named_and_another_route_is_taken(model, message):
    with pytest.raises(Unsupported, match=message):
        Network(model, [name for name, _ in model.named_parameters()])


def test_the_fallback_is_visible():
    model = nn.Sequential(nn.Linear(2, 4), nn.Softmax(-1), nn.Tanh(), nn.Linear(4, 1)).double()
    assert pl.Jacobian(pl.problems.poisson(dim=2).residual(model, interior=9, boundary=4)).route == "graph"
    assert derivatives_of(nn.RReLU()) is None
    kinked = pl.models.mlp((2, 4, 1), activation=nn.ReLU, seed=0)
    with pytest.warns(UserWarning, match="ReLU.*smooth activation"):
        r = pl.problems.poisson(dim=2).residual(kinked, interior=9, boundary=4)
    assert pl.Jacobian(r).route == "graph"


def test_a_module_whose_hooks_change_its_output_is_not_trusted():
    model = pl.models.mlp((2, 4, 1), seed=0)
    model[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    r = pl.problems.poisson(dim=2).residual(model, interior=9, boundary=4)
    assert pl.Jacobian(r).route == "graph"


def test_a_module_that_only_calls_a_known_function_is_read_as_it():
    class Wave(torch.nn.Module):
        def forward(self, z):
            return torch.sin(z)

    class Faster(torch.nn.Module):
        def forward(self, z):
            return torch.sin(2 * z)

    assert derivatives_of(Wave()) is SMOOTH[torch.sin]
    assert derivatives_of(Faster()) is None
