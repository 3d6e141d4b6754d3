"""Maps: values, blocks, weights, rows, and the errors that a user's residual can end in."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

import precondlab as pl
from precondlab.differentiation.calculus import apply
from precondlab.errors import NotDeterministic
from precondlab.map import Map
from precondlab.operators import Jacobian
from precondlab.testing.strategies import maps

F64 = torch.float64
theta = {"a": torch.tensor([1.0, 2.0], dtype=F64)}
x = torch.linspace(0, 1, 5, dtype=F64)


def by_blocks(**options):
    residual = {"in": lambda p, x: x * p["a"].sum() ** 2, "out": lambda p, x: x - p["a"][0]}
    return Map(residual, theta, points={"in": x, "out": x[:2]}, **options)


@settings(max_examples=10)
@given(maps())
def test_rows_evaluated_in_parts_are_the_whole(r):
    assert r.value.shape == (r.codomain.size,)
    assert torch.equal(r(), r(r.params))
    flat = r.domain.ravel({k: v.detach() for k, v in r.params.items()})
    torch.testing.assert_close(r(flat), r(), rtol=1e-12, atol=1e-12)  # other places in memory, other round-off
    if r.chunkable:
        whole = r.raw(None)(dict(r.params))
        for name, part in r.codomain.slices.items():
            rows = [r.raw({name: slice(i, i + 1)})(dict(r.params)) for i in range(part.stop - part.start)]
            torch.testing.assert_close(torch.cat(rows), whole[part])


def test_weights_and_quadrature_enter_as_square_roots():
    quadrature = {"in": torch.arange(5, dtype=F64)}
    r = by_blocks(quadrature=quadrature, weights={"out": 4.0})
    expected = torch.cat([quadrature["in"].sqrt() * x * 9, 2 * (x[:2] - 1)])
    torch.testing.assert_close(r.value, expected)
    torch.testing.assert_close(r.reweighted({"in": 9.0}).value[:5], 3 * expected[:5])
    torch.testing.assert_close(r.value, expected)  # the original is unchanged
    assert (r.reweighted({"in": 9.0}).weights, r.weights) == (
        {"in": 9.0, "out": 4.0},
        {"in": 1.0, "out": 4.0},
    )


def test_only_tensors_that_require_a_gradient_are_moved():
    params = {"a": torch.ones(2, requires_grad=True), "b": torch.ones(3)}
    r = Map(lambda p: p["a"].sum() * p["b"], params)
    assert (list(r.params), list(r.frozen), r.domain.size) == (["a"], ["b"], 2)
    assert repr(r) == "Map[2 parameters → {residual: 3}, 1 frozen tensors]"
    assert Jacobian(r).dense().shape == (3, 2)
    model = nn.Linear(1, 1)
    model.bias.requires_grad_(False)
    assert Map.of_module(model, lambda: model(torch.ones(2, 1))).domain.size == 1


def test_a_closure_sees_the_point_and_leaves_the_model_alone():
    model = nn.Linear(1, 1).double()
    before = {name: value.clone() for name, value in model.named_parameters()}
    r = Map.of_module(model, lambda: {"fit": model(x[:, None])[:, 0]})
    torch.testing.assert_close(r(torch.tensor([2.0, 3.0], dtype=F64)), 2 * x + 3)
    Jacobian(r, at=torch.tensor([2.0, 3.0], dtype=F64)).dense()
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert all(value.grad is None for value in model.parameters())


@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode])
def test_a_classic_residual_under_disabled_gradients(grad):
    model = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1)).double()

    def closure():
        y = x[:, None].clone().requires_grad_()
        return torch.autograd.grad(model(y).sum(), y, create_graph=True)[0]

    expected = Jacobian(Map.of_module(model, closure)).dense()
    with grad():
        torch.testing.assert_close(Jacobian(Map.of_module(model, closure)).dense(), expected)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: Map(lambda p: x, {}), ValueError, "non-empty dict of parameter tensors"),
        (lambda: Map(lambda p: x, [x]), ValueError, r"got list \(use dict\(model.named_parameters\(\)\)\)"),
        (
            lambda: Map(lambda p: x, {"a": torch.ones(1, dtype=torch.int64)}),
            TypeError,
            "'a'.*floating-point.*int64",
        ),
        (lambda: Map(lambda p: x, {"a": 1.0}), TypeError, "'a'.*floating-point.*float"),
        (lambda: Map(lambda p: x, {"a": torch.ones(1).half()}), TypeError, r"float16.*model\.double"),
        (
            lambda: Map(lambda p: x, {**theta, "b": torch.ones(1)}),
            ValueError,
            "one dtype on one device.*float32",
        ),
        (lambda: Map(lambda p: x, {**theta, "b": x.to("meta")}), ValueError, "one dtype on one device.*meta"),
        (
            lambda: Map(lambda p: None, theta),
            TypeError,
            "should be a tensor, got NoneType; return a tensor or a dict",
        ),
        (
            lambda: Map(lambda p: {"b": 1.0}, theta),
            TypeError,
            "residual block 'b' should be a tensor, got float",
        ),
        (lambda: Map(lambda p: {}, theta), ValueError, "no rows; give it at least one point"),
        (
            lambda: Map(lambda p: p["a"].float(), theta),
            TypeError,
            r"float32.*float64.*points\.to\(torch\.float64\)",
        ),
        (
            lambda: Map(lambda p: p["a"].to("meta"), theta),
            TypeError,
            "on meta but the parameters are.*on cpu",
        ),
        (
            lambda: Map(lambda p: {"b": p["a"] / 0, "c": p["a"]}, theta),
            ValueError,
            "2 of 2 residual rows in block 'b' are not finite; check the points and parameters",
        ),
        (
            lambda: by_blocks(weights={"i": 1.0}),
            ValueError,
            r"unknown blocks \['i'\]; the residual has \['in', 'out'\]",
        ),
        (lambda: by_blocks(weights={"in": -1.0}), ValueError, "finite and ≥ 0, got {'in': -1.0}"),
        (lambda: by_blocks().reweighted({"in": np.inf}), ValueError, "finite and ≥ 0"),
        (lambda: by_blocks(quadrature={"in": x[:2]}), ValueError, "'in' needs one weight per point"),
        (lambda: by_blocks(quadrature={"in": -x - 1}), ValueError, "'in' must be ≥ 0"),
        (lambda: Map({"in": lambda p, x: x}, theta), ValueError, r"\['in'\].*give points for each block"),
        (
            lambda: Map(lambda p: x, theta, points={"in": x}),
            ValueError,
            "need a residual given block by block",
        ),
        (
            lambda: Map({"in": lambda p, x: x.sum()}, theta, points={"in": x}),
            ValueError,
            r"'in' should have one row per point \(5\), got shape \(\)",
        ),
        (lambda: by_blocks()({"b": x}), ValueError, r"expected the blocks \['a'\], got \['b'\]"),
        (lambda: by_blocks()({"a": x}), ValueError, r"block 'a' should have shape \(2,\), got \(5,\)"),
        (lambda: by_blocks()(x), ValueError, r"size 2, got \(5,\)"),
        (
            lambda: Map.of_module(nn.Tanh(), lambda: x),
            ValueError,
            "Tanh has no trainable parameter.*requires_grad_",
        ),
    ],
)
def test_mistakes_end_in_one_clear_error(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(2), nn.RReLU()])
def test_layers_that_change_in_training_mode_are_refused(layer):
    model = nn.Sequential(nn.Linear(1, 2), layer)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"training mode and its layers \['1'\].*model\.eval\(\)"):
        Map.of_module(model, lambda: model(torch.ones(3, 1)))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    model.eval()
    assert Map.of_module(model, lambda: model(torch.ones(3, 1))).codomain.size == 6


class Counting(nn.Linear):
    """A layer that counts its calls in a buffer."""

    def __init__(self):
        super().__init__(1, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


def test_a_closure_that_changes_buffers_is_refused_and_undone():
    model = Counting()
    with pytest.raises(NotDeterministic, match=r"changes the buffers \['calls'\].*model\.eval\(\)"):
        Map.of_module(model, lambda: model(torch.ones(2, 1)))
    assert model.calls == 0


def test_an_error_inside_a_residual_undoes_its_buffers_too():
    model = Counting()
    with pytest.raises(TypeError, match="should be a tensor, got float"):
        Map.of_module(model, lambda: model(torch.ones(2, 1)).sum().item())
    assert model.calls == 0


def test_what_is_known_at_the_points_goes_with_their_rows():
    calls = []

    def source(x):
        calls.append(len(x))
        return (3 * x).sin()

    D = -pl.Symbol.laplacian(1)
    problem = pl.problems.Problem(
        "rod", ((0.0, 1.0),), D, (pl.problems.Condition("ends", ((0, 0.0),), target=lambda x: 0 * x),), source=source
    )
    model = pl.models.mlp((1, 5, 1), seed=0)
    r = problem.residual(model, interior=70)
    before = list(calls)
    rows = pl.Pointwise(model, lambda x, u: apply(D, u, x) - source(x)[:, 0])
    expected = pl.Map({"interior": rows}, r.params, points={"interior": r.points["interior"]})
    part = {"interior": slice(3, 60, 7)}
    root = r._quadrature["interior"]
    torch.testing.assert_close(r.raw(part)(r.params), expected.raw(part)(r.params) * root[part["interior"]])
    for route in ("jets", "graph"):
        found = pl.Jacobian(r, route=route, memory_budget=6_000).dense()[:70]
        torch.testing.assert_close(found, root[:, None] * pl.Jacobian(expected).dense(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(r.value[:70], root * expected.value)
    del calls[:]
    r.value, pl.Jacobian(r)
    assert before == [70] and calls == []
