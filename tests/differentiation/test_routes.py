"""Every route, on every style of residual, against torch's own dense Jacobian."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from precondlab.differentiation import ROUTES, linearize
from precondlab.differentiation.choose import verify
from precondlab.space import Space
from precondlab.testing import tolerance
from precondlab.testing.strategies import generators, maps

F64 = torch.float64


def oracle(r):
    """Return the unweighted Jacobian by torch.autograd.functional, row by row."""
    theta = r.domain.ravel(r.params).detach()
    return torch.autograd.functional.jacobian(lambda t: r.raw(None)(r.domain.unravel(t)), theta)


@pytest.mark.parametrize("name", ROUTES)
@settings(max_examples=12)
@given(r=maps(), generator=generators(), k=st.sampled_from([1, 3, 18]))
def test_every_route_is_the_dense_jacobian(name, r, generator, k):
    if verify(name, r.raw(None), r.params, r.domain) is not None:
        assert name != "graph"  # which works for any torch code
        return
    route, J = linearize(r.raw(None), r.params, r.domain, name), oracle(r)
    V, U = r.domain.random(k, generator=generator), r.codomain.random(k, generator=generator)
    allowed = tolerance(F64, size=k, gain=J.norm().item() + r.value.norm().item() + 1)
    assert (route.jvp(V) - J @ V).norm() <= allowed * V.norm()
    assert (route.vjp(U) - J.T @ U).norm() <= allowed * U.norm()
    torch.testing.assert_close(route.value, r.raw(None)(dict(r.params)))


@settings(max_examples=8)
@given(r=maps(styles=["function", "blocks"], dtypes=[torch.float32]))
def test_single_precision_routes_agree(r):
    products = [
        linearize(r.raw(None), r.params, r.domain, name).jvp(r.domain.random(2)) for name in ("graph", "functional")
    ]
    assert (products[0] - products[1]).norm() <= tolerance(torch.float32, gain=products[0].norm().item() + 1)


def test_columns_without_a_batching_rule_go_one_by_one():
    class Plain(torch.autograd.Function):  # no vmap rule at all
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, g):
            return 3 * ctx.saved_tensors[0] ** 2 * g

    theta = {"a": torch.tensor([1.0, 2.0], dtype=F64)}
    route = linearize(lambda p: Plain.apply(p["a"]), theta, Space.of(theta), "graph")
    expected = torch.diag(3 * theta["a"] ** 2)
    torch.testing.assert_close(route.jvp(torch.eye(2, dtype=F64)), expected)
    torch.testing.assert_close(route.vjp(torch.eye(2, dtype=F64)), expected)


@pytest.mark.parametrize("name", ["graph", "functional", "dual"])
def test_scalar_parameters_and_parameters_without_influence(name):
    theta = {"s": torch.tensor(2.0, dtype=F64), "unused": torch.ones(3, dtype=F64)}
    x = torch.tensor([1.0, 5.0], dtype=F64)
    route = linearize(lambda p: p["s"] ** 2 * x, theta, Space.of(theta), name)
    expected = torch.cat([4 * x[:, None], torch.zeros(2, 3, dtype=F64)], dim=1)
    torch.testing.assert_close(route.jvp(torch.eye(4, dtype=F64)), expected)
    torch.testing.assert_close(route.vjp(torch.eye(2, dtype=F64)), expected.T)


def test_kept_bytes_grow_with_the_rows():
    theta = {"a": torch.ones(4, dtype=F64)}

    def size(n):
        x = torch.rand(n, 4, dtype=F64)
        return linearize(lambda p: torch.sin(x @ torch.sin(p["a"])), theta, Space.of(theta), "graph").kept_bytes

    per_row = (size(300) - size(100)) / 200
    assert 8 * (4 + 1) <= per_row <= 8 * (4 + 8)
