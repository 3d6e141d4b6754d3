"""The choice of a route: a right one is found, a wrong one refused, and the reason is said."""

import pytest
import torch
from torch import nn

from precondlab.differentiation import ROUTES, linearize
from precondlab.differentiation.calculus import Pointwise
from precondlab.differentiation.choose import choose, finite_difference_error, verify
from precondlab.errors import NotDeterministic, WrongDerivative
from precondlab.map import Map
from precondlab.models import mlp
from precondlab.operators import Jacobian, tangent
from precondlab.space import Space

F64 = torch.float64
theta = {"a": torch.tensor([1.0, 2.0], dtype=F64)}
space = Space.of(theta)


def square(p):
    return p["a"] ** 2


class WrongTwice(torch.autograd.Function):
    """x² with the derivative 3x, forwards and backwards: the adjoint test cannot see it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] * g

    @staticmethod
    def jvp(ctx, t):
        return 3 * ctx.saved_tensors[0] * t


class NoSecondPass(torch.autograd.Function):
    """x², whose backward pass cannot be differentiated: the graph route has no Jv."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 2 * ctx.saved_tensors[0] * g

    @staticmethod
    def jvp(ctx, t):
        return 2 * ctx.saved_tensors[0] * t


def test_the_fastest_right_route_is_taken():
    assert choose(square, theta, space) == "graph"
    reasons = {name: verify(name, square, theta, space) for name in ROUTES}
    assert "not given block by block" in reasons.pop("jets")
    assert set(reasons.values()) == {None}


@pytest.mark.parametrize("name", ["graph", "functional", "dual"])
def test_a_named_route_is_taken_and_named(name):
    J = Jacobian(Map(square, theta), route=name)
    assert repr(J) == f"Jacobian[2×2, {name}]"
    torch.testing.assert_close(J.dense(), torch.diag(2 * theta["a"]))


def test_an_unsupported_route_falls_back():
    J = Jacobian(Map(lambda p: NoSecondPass.apply(p["a"]), theta))
    assert J.route != "graph"
    torch.testing.assert_close(J.dense(), torch.diag(2 * theta["a"]))
    with pytest.raises(WrongDerivative, match="graph: not supported here"):
        Jacobian(J.map, route="graph")


def test_consistently_wrong_derivatives_are_seen_by_finite_differences():
    wrong = lambda p: WrongTwice.apply(p["a"])  # noqa: E731
    route = linearize(wrong, theta, space, "graph")
    u, v = torch.randn(2, 1, dtype=F64), torch.randn(2, 1, dtype=F64)
    torch.testing.assert_close(u.T @ route.jvp(v), route.vjp(u).T @ v)
    with pytest.raises(WrongDerivative, match="away from finite differences") as error:
        choose(wrong, theta, space)
    assert all(f"{name}: " in str(error.value) for name in ROUTES)
    assert "write them from elementary operations" in str(error.value)


def test_a_large_block_does_not_hide_a_wrong_small_one():
    at = {"a": torch.tensor([1.0, 2.0], dtype=F64), "b": torch.tensor([0.5, -1.0], dtype=F64)}
    with pytest.raises(WrongDerivative, match="away from finite differences"):
        choose(lambda p: 1e4 * p["b"] + WrongTwice.apply(p["a"]), at, Space.of(at))
    assert choose(lambda p: 1e4 * p["b"] + p["a"] ** 2, at, Space.of(at)) == "graph"


def test_a_residual_that_is_small_by_cancellation_is_not_refused():
    """Where training has converged, only round-off is left of the residual; two ways to compute it do not agree."""
    model = mlp((1, 6, 1), seed=0)
    params, x = dict(model.named_parameters()), torch.rand(20, 1, dtype=F64)
    rows = Pointwise(model, lambda x, u, known: 1e4 * (u(x)[:, 0] - known), model(x)[:, 0].detach())
    J = Jacobian(Map({"": rows}, params, points={"": x}))
    assert J.value.norm() < 1e-9
    assert J.route == "jets"


def layer_norm_residual(functional):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 1)).double()
    x = torch.rand(6, 1, dtype=F64)

    def closure():
        y = x.clone().requires_grad_()
        (du,) = torch.autograd.grad(model(y).sum(), y, create_graph=True)
        return torch.autograd.grad(du.sum(), y, create_graph=True)[0]

    def second(p, x):
        u = lambda y: torch.func.functional_call(model, p, (y,)).sum()  # noqa: E731
        return torch.func.vmap(lambda y: torch.func.hessian(u)(y).trace())(x)

    if functional:
        return Map({"": second}, dict(model.named_parameters()), points={"": x})
    return Map.of_module(model, closure)


@pytest.mark.parametrize("functional", [False, True])
def test_layer_norm_at_third_order_is_never_silently_wrong(functional):
    r = layer_norm_residual(functional)
    try:
        J = Jacobian(r)
    except WrongDerivative as error:
        assert "LayerNorm at third order" in str(error)  # noqa: PT017
    else:
        v = J.domain.random()
        assert finite_difference_error(r, J.at, J.domain, v, J @ v) < 1e-4


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (
            lambda p: p["a"] * torch.rand(2, dtype=F64),
            NotDeterministic,
            "draw random points once, outside the residual",
        ),
        (lambda p: nn.functional.dropout(p["a"].repeat(9)), NotDeterministic, r"model\.eval\(\)"),
        (
            lambda p: torch.ones(2, dtype=F64),
            ValueError,
            r"does not depend on the parameters \['a'\].*\.detach\(\)",
        ),
        (lambda p: p["a"].detach() ** 2, ValueError, "does not depend on the parameters"),
        (
            lambda p: torch.tensor([p["a"].sum().item()], dtype=F64),
            ValueError,
            "does not depend on the parameters",
        ),
        (lambda p: p["a"].clamp(min=0).sqrt() / (p["a"] > 0), WrongDerivative, "not finite"),
    ],
)
def test_residuals_that_no_route_can_differentiate(function, kind, message):
    at = {"a": torch.zeros(2, dtype=F64)} if kind is WrongDerivative else theta
    with pytest.raises((kind, ValueError), match=message):
        choose(function, at, Space.of(at))


def test_infinite_derivatives_are_refused():
    with pytest.raises(WrongDerivative, match="its products are not finite"):
        Jacobian(Map(lambda p: p["a"].sqrt(), theta), at=torch.zeros(2, dtype=F64))


def test_a_residual_that_is_not_finite_at_the_point_is_not_called_random():
    with pytest.raises(ValueError, match="not finite at the point of linearization") as error:
        Jacobian(Map(lambda p: p["a"].sqrt(), theta), at=-torch.ones(2, dtype=F64))
    assert not isinstance(error.value, NotDeterministic)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(2)])
def test_a_tangent_map_refuses_training_mode(layer):
    model = nn.Sequential(nn.Linear(1, 2), layer)
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        tangent(model, torch.rand(4, 1))
    assert tangent(model.eval(), torch.rand(4, 1)).shape == (8, sum(p.numel() for p in model.parameters()))


def test_an_unknown_route_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'auto' or one of \['jets', 'graph', 'functional', 'dual'\], got 'fast'"):
        choose(square, theta, space, "fast")
