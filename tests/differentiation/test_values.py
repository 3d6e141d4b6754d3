"""Values at many θ by the primal pass of jets, against the map's own nested reverse mode."""

import math

import pytest
import torch
from torch import nn

import precondlab as pl
from precondlab.differentiation import values
from precondlab.differentiation.calculus import Pointwise, apply, partials
from precondlab.differentiation.jets import Unsupported
from precondlab.differentiation.jets import values as module
from precondlab.differentiation.jets.algebra import JetAlgebra
from precondlab.differentiation.jets.sparse import below, compose, coordinates, dense, multiply
from precondlab.differentiation.jets.values import Values
from precondlab.symbol import Symbol

F64 = torch.float64


def elsewhere(r, seed):
    """Return θ away from the parameters of a map."""
    theta = r.domain.ravel({name: p.detach() for name, p in r.params.items()})
    return theta + 0.1 * torch.randn(theta.shape, dtype=theta.dtype, generator=torch.Generator().manual_seed(seed))


def check(r, tolerance=1e-13, points=3):
    """Compare with the map at several θ by one evaluator: relative to the residual's largest part."""
    found = values(r.raw(None), {name: p.detach() for name, p in r.params.items()}, r.domain, "jets")
    for seed in range(points):
        theta = elsewhere(r, seed)
        expected = r.unweighted(r.domain.unravel(theta))
        ours = found(r.domain.unravel(theta))
        assert ours.shape == expected.shape and not ours.requires_grad
        for rows in r.codomain.slices.values():
            assert (ours[rows] - expected[rows]).norm() <= tolerance * expected[rows].norm()


PROBLEMS = {
    "poisson": (lambda: pl.problems.poisson(dim=2), "tanh"),
    "five dimensions": (lambda: pl.problems.poisson_cosines(5), "tanh"),
    "heat": (pl.problems.heat_rod, "gelu"),
    "burgers": (pl.problems.burgers, "tanh"),
    "third order": (pl.problems.kdv, "silu"),
    "fourth order": (pl.problems.biharmonic, "sigmoid"),
    "reaction": (pl.problems.logistic, "softplus"),
    "shifts of points": (pl.problems.advection, "tanh"),
    "wave": (pl.problems.two_waves, "mish"),
    "allen-cahn": (pl.problems.phase_separation, "tanh"),
    "nonlinear": (pl.problems.nonlinear_poisson, "tanh"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_values_are_those_of_the_map_on_every_problem(name):
    make, activation = PROBLEMS[name]
    problem = make()
    model = pl.models.mlp((problem.dim, 9, 7, 1), activation=activation, seed=0)
    r = problem.residual(model, interior=60, boundary=20, weights={"interior": 0.3}, seed=1)
    check(r)


class Everything(nn.Module):
    """Frozen random features, gates, skips, means, slices, quotients, powers, a norm, a trainable slope and offset."""

    def __init__(self):
        super().__init__()
        self.register_buffer("B", torch.randn(2, 3))
        self.first, self.gate, self.last = nn.Linear(8, 6), nn.Linear(2, 6), nn.Linear(9, 1)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.norm, self.slope, self.offset = (
            nn.LayerNorm(6),
            nn.Parameter(torch.tensor(1.3)),
            nn.Parameter(torch.rand(6)),
        )

    def forward(self, x):
        z = x @ self.B
        h = torch.tanh(self.slope * self.first(torch.cat([z.sin(), z.cos(), torch.tanh(self.frozen(x))], -1)))
        h = h * torch.sigmoid(self.gate(x)) + (1 - h) * torch.sin(self.gate(x)) + self.offset
        h = h - h.mean(-1, keepdim=True)  # torch's own normalization has a wrong third derivative
        h = h * torch.rsqrt((h * h).mean(-1, keepdim=True) + 0.1) / (2 + h**2) - 0.5
        return self.last(
            torch.cat([h[:, :4], x, h[:, 3:].mean(-1, keepdim=True), h.sum(-1, keepdim=True), x[:, :1]], -1)
        )


ORDERS = {
    0: lambda x, u: u(x)[:, 0] - x[:, 0],
    1: lambda x, u: apply(Symbol({(1, 0): 1.0, (0, 1): -2.0}), u, x),
    2: lambda x, u: apply(Symbol({(2, 0): 1.0, (1, 1): 0.3, (0, 1): 1.0, (0, 0): -1.0}), u, x),
    3: lambda x, u: apply(Symbol({(3, 0): 1.0, (1, 2): -0.5}), u, x) * u(x)[:, 0],
    4: lambda x, u: torch.stack([apply(Symbol({(4, 0): 1.0, (2, 2): 2.0}), u, x), partials(u, x, [(0, 2)])[0, 2]], 1),
}


@pytest.mark.parametrize("size", [1, 40, 2**16])
@pytest.mark.parametrize("order", ORDERS)
def test_every_operation_and_order_in_groups_of_any_size(monkeypatch, order, size):
    monkeypatch.setattr(module, "_CACHE", size * 9)
    torch.manual_seed(order)
    model = Everything().double()
    x = torch.rand(83 if size > 1 else 5, 2, dtype=F64)
    params = dict(model.named_parameters())
    r = pl.Map({"": Pointwise(model, ORDERS[order])}, params, points={"": x}, quadrature={"": torch.rand(len(x))})
    check(r, points=2, tolerance=1e-12 if order > 2 else 1e-13)


@pytest.mark.parametrize(
    "kind", ["periodic", "masked", "fourier features", "siren", "fourier", "random features", "kan"]
)
def test_every_kind_of_model(kind):
    problem = pl.problems.helmholtz_sines((1, 2))
    box = problem.domain
    model = {
        "periodic": lambda: pl.models.periodic(pl.models.mlp((4, 8, 1), seed=0), (2.0, 2.0)),
        "masked": lambda: pl.models.masked(pl.models.mlp((2, 8, 1), seed=0), pl.models.box_mask(box)),
        "fourier features": lambda: pl.models.fourier_mlp(2, (8,), domain=box, activation="gelu"),
        "siren": lambda: pl.models.siren((9, 7), domain=box, scale=5.0, seed=0),
        "fourier": lambda: pl.models.fourier_mlp(2, (8,), domain=box),
        "random features": lambda: pl.models.random_features(20, domain=box, scale=4.0, seed=0),
        "kan": lambda: pl.models.kan((2, 4, 1), domain=box, seed=0),
    }[kind]()
    check(problem.residual(model, interior=50, boundary=20, seed=0), tolerance=1e-12)


@pytest.mark.parametrize("size", [4, 2**16])
def test_blocks_of_several_orders_with_known_numbers(monkeypatch, size):
    monkeypatch.setattr(module, "_CACHE", size * 6)
    model, x = pl.models.mlp((1, 6, 5, 1), seed=0), torch.linspace(0, 1, 31, dtype=F64)[:, None]
    points, rows = {"third": x, "first": x[::2], "value": x[:1]}, {}
    for name, order in zip(points, (3, 1, 0), strict=True):
        D = Symbol.derivative(order)
        rows[name] = Pointwise(model, lambda x, u, k, D=D: apply(D, u, x) * u(x)[:, 0] - k, known=points[name][:, 0])
    check(pl.Map(rows, dict(model.named_parameters()), points=points, quadrature={"first": torch.rand(16)}))


def test_single_precision():
    r = pl.problems.poisson(dim=2).residual(pl.models.mlp((2, 8, 8, 1), dtype=torch.float32, seed=0), interior=30)
    check(r, 2e-6)


@pytest.mark.parametrize("budget", [0, 10_000, 2**30])
def test_what_is_fixed_is_computed_once_if_there_is_room(budget):
    """A feature map without parameters is called once per group of points, or in every evaluation."""
    calls = []

    class Features(nn.Module):
        def forward(self, x):
            calls.append(len(x))
            return torch.cat([x.sin(), x.cos(), (2 * x).sin()], dim=1)

    model = nn.Sequential(Features(), nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 1)).double()
    rows = Pointwise(model, lambda x, u: apply(Symbol.laplacian(2), u, x) + u(x)[:, 0] ** 2)
    x = torch.rand(200, 2, dtype=F64)
    r = pl.Map({"": rows}, dict(model.named_parameters()), points={"": x})
    found = values(r.raw(None), {k: p.detach() for k, p in r.params.items()}, r.domain, "jets", memory_budget=budget)
    for seed in range(3):
        theta = elsewhere(r, seed)
        before = len(calls)
        ours = found(r.domain.unravel(theta))
        used = len(calls) - before
        expected = r(theta)
        assert (ours - expected).norm() <= 1e-13 * expected.norm()
        assert (used > 0) == (seed == 0 or budget < 200 * 6 * 8 * 4)


def test_frozen_parameters_and_known_numbers_are_those_given():
    model = pl.models.mlp((2, 6, 6, 1), seed=0)
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    check(pl.problems.poisson(dim=2).residual(model, interior=30, boundary=8))
    r = pl.problems.poisson(dim=2).residual(model, interior=30, boundary=8).fixed()
    expected = r.value
    with torch.no_grad():
        model[0].weight.mul_(1.5)
    check(r)
    found = values(r.raw(None), {k: p.detach() for k, p in r.params.items()}, r.domain, "jets")
    torch.testing.assert_close(found(r.params) * r.scale(), expected, rtol=1e-12, atol=1e-12)


def test_what_has_no_closed_form_is_refused_by_name():
    x = torch.rand(9, 2, dtype=F64)
    soft = nn.Sequential(nn.Linear(2, 4), nn.Softmax(-1), nn.Tanh(), nn.Linear(4, 1)).double()
    r = pl.problems.poisson(dim=2).residual(soft, interior=9, boundary=4)
    with pytest.raises(Unsupported, match="the layer Softmax"):
        values(r.raw(None), r.params, r.domain, "jets")
    r = pl.Map({"": lambda p, x: x @ p["a"]}, {"a": torch.rand(2, dtype=F64)}, points={"": x})
    with pytest.raises(Unsupported, match=r"not a pl\.Pointwise"):
        values(r.raw(None), r.params, r.domain, "jets")
    assert torch.equal(values(r.raw(None), r.params, r.domain, "graph")(r.params), r.value)


def test_sparse_jets_are_the_dense_ones():
    """Products and compositions of some channels, with zero and constant ones, against the whole algebra."""
    algebra = JetAlgebra([{(2, 0): 1.0, (0, 2): -0.5}, {(1, 2): 1.0}, {(4, 0): 1.0}])
    x = torch.rand(5, 2, dtype=F64)
    u = coordinates(algebra, x)
    assert torch.equal(dense(algebra, u), algebra.coordinates(x))
    assert {len(part) for k, part in u.items() if k} == {1}
    v = {k: part for k, part in enumerate(torch.rand(algebra.size, 5, 2, dtype=F64)) if k % 3 != 1}
    for k in range(algebra.size):
        kept = below(algebra, [k])
        few = [{i: jet[i] for i in kept if i in jet} for jet in (u, v)]
        product = dense(algebra, {0: v[0], **multiply(algebra, [0, k], *few)})
        torch.testing.assert_close(product[k], algebra.multiply(dense(algebra, u), dense(algebra, v))[k])
        sine = lambda z, order: [torch.sin(z + r * math.pi / 2) for r in range(order + 1)]  # noqa: E731
        for jet, some in ((u, few[0]), (v, few[1])):
            whole = dense(algebra, jet)
            expected = algebra.compose(sine(whole[0], algebra.order + 1), whole)[0]
            found = dense(algebra, compose(algebra, [0, k], sine, some))
            torch.testing.assert_close(found[[0, k]], expected[[0, k]], rtol=1e-12, atol=1e-12)


def test_a_layer_without_rules_for_some_channels_takes_its_primal_pass():
    problem = pl.problems.poisson(dim=2)
    model = nn.Sequential(nn.Linear(2, 3), pl.models.kan((3, 3), domain=((-1.0, 1.0),) * 3, seed=0), nn.Linear(3, 1))
    r = problem.residual(model.double(), interior=20, boundary=8)
    assert isinstance(values(r.raw(None), r.params, r.domain, "jets"), Values)
    check(r, tolerance=1e-12)
