import itertools
import math

import pytest
import torch
from torch.func import functional_call, jvp, vmap

from precondlab import models
from precondlab.differentiation import calculus
from precondlab.differentiation.calculus import apply, partials
from precondlab.symbol import Symbol


def points(dim, count=6):
    return torch.rand(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5


def plane_wave(k):
    """cos(k·x), whose ∂^α is Π k^α cos(k·x + |α|π/2)."""
    k = torch.tensor(k, dtype=torch.float64)
    return lambda x: torch.cos(x @ k)[:, None], k


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_all_partials_up_to_fourth_order_of_a_plane_wave(dim):
    u, k = plane_wave([1.3, -0.7, 2.1][:dim])
    x = points(dim)
    orders = [alpha for alpha in itertools.product(range(5), repeat=dim) if sum(alpha) <= 4]
    found = partials(u, x, orders)
    assert list(found) == orders
    for alpha, value in found.items():
        expected = torch.prod(k ** torch.tensor(alpha)) * torch.cos(x @ k + sum(alpha) * math.pi / 2)
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("orders", [[(3, 1)], [(0, 2), (2, 0)], [(1, 0), (2, 2)], [(0, 0)], [(0, 3), (1, 0), (2, 1)]])
def test_any_subset_of_orders(orders):
    u, k = plane_wave([1.3, -0.7])
    x = points(2)
    for alpha, value in partials(u, x, orders).items():
        expected = torch.prod(k ** torch.tensor(alpha)) * torch.cos(x @ k + sum(alpha) * math.pi / 2)
        torch.testing.assert_close(value, expected)


def test_identically_vanishing_derivatives_are_zeros():
    x = points(2)
    constant = partials(lambda x: torch.ones_like(x[:, :1]), x, [(1, 0), (0, 2), (0, 0)])
    assert {alpha: value.tolist() for alpha, value in constant.items()} == {
        (1, 0): [0.0] * 6,
        (0, 2): [0.0] * 6,
        (0, 0): [1.0] * 6,
    }
    linear = partials(lambda x: 3 * x[:, 1:], x, [(0, 1), (1, 1), (0, 3)])
    assert {alpha: value.tolist() for alpha, value in linear.items()} == {
        (0, 1): [3.0] * 6,
        (1, 1): [0.0] * 6,
        (0, 3): [0.0] * 6,
    }


@pytest.mark.parametrize(
    ("orders", "passes"),
    [
        ([(1, 0), (0, 1)], 1),
        ([(0, 1), (2, 0)], 2),
        ([(2, 0), (0, 2)], 3),
        ([(2, 0), (1, 1)], 2),
        ([(4, 0), (3, 1)], 4),
        ([(0, 0)], 0),
        ([(2, 2), (4, 0), (0, 4)], 8),
    ],
)
def test_lower_derivatives_are_shared(orders, passes, monkeypatch):
    pulls = []

    def counting(function, x, has_aux):
        value, pull, aux = vjp(function, x, has_aux=has_aux)
        return value, lambda cotangent: pulls.append(1) or pull(cotangent), aux

    vjp = calculus.vjp
    monkeypatch.setattr(calculus, "vjp", counting)
    partials(plane_wave([1.0, 2.0])[0], points(2), orders)
    assert len(pulls) == passes


def test_a_symbol_is_applied_with_its_coefficients():
    u, k = plane_wave([1.3, -0.7])
    x = points(2)
    D = Symbol({(2, 0): -2.0, (0, 1): 3.0, (0, 0): 0.5})
    wave = torch.exp(1j * (x @ k))
    torch.testing.assert_close(apply(D, u, x), (D(k[None]) * wave).real)
    assert apply(0.0 * D, u, x).tolist() == [0.0] * 6


def test_derivatives_can_be_differentiated_forwards_backwards_and_batched():
    model = models.mlp((1, 4, 1), seed=0)
    x = points(1)
    params = {name: p.detach() for name, p in model.named_parameters()}

    def second(p):
        return apply(Symbol.derivative(2), lambda y: functional_call(model, p, (y,)), x)

    direction = {name: torch.ones_like(p) for name, p in params.items()}
    step = 1e-5
    ahead, behind = (second({n: p + s * direction[n] for n, p in params.items()}) for s in (step, -step))
    expected = (ahead - behind) / (2 * step)
    forward = jvp(second, (params,), (direction,))[1]
    torch.testing.assert_close(forward, expected, rtol=1e-6, atol=1e-8)

    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
    gradients = torch.autograd.grad(second(leaves).sum(), list(leaves.values()), allow_unused=True)
    backward = sum(g.sum() for g in gradients if g is not None)
    torch.testing.assert_close(backward, forward.sum())

    twice = {name: torch.stack([t, 2 * t]) for name, t in direction.items()}
    batched = vmap(lambda t: jvp(second, (params,), (t,))[1])(twice)
    torch.testing.assert_close(batched, torch.stack([forward, 2 * forward]))


def test_derivatives_under_no_grad():
    u, k = plane_wave([1.3])
    x = points(1)
    with torch.no_grad():
        found = partials(u, x, [(2,)])[2,]
    torch.testing.assert_close(found, -(k**2) * u(x)[:, 0])


@pytest.mark.parametrize(
    ("u", "x", "orders", "message"),
    [
        (torch.sin, torch.ones(3), [(1,)], r"\[N, d\]"),
        (torch.sin, torch.ones(3, 1), [(1, 0)], "1 coordinates"),
        (torch.sin, torch.ones(3, 1), [(-1,)], "≥ 0"),
        (torch.sin, torch.ones(3, 2), [(1, 0)], r"values \(3, 1\), got \(3, 2\)"),
        (lambda x: x[:, 0], torch.ones(3, 1), [(1,)], r"got \(3,\)"),
    ],
)
def test_mistakes_are_explained(u, x, orders, message):
    with pytest.raises(ValueError, match=message):
        partials(u, x, orders)
