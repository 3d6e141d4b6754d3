"""Symbols: an expression and its value on plane waves, as a ring."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precondlab.symbol import Symbol

INDEX = st.tuples(st.integers(0, 3), st.integers(0, 3))
SYMBOLS = st.dictionaries(INDEX, st.integers(-3, 3).map(float), min_size=1, max_size=4).map(Symbol)
WAVES = torch.tensor([[0.0, 0.0], [1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)


@given(SYMBOLS, SYMBOLS, st.integers(-3, 3))
def test_the_value_is_a_ring_homomorphism(a, b, c):
    close = torch.testing.assert_close
    close((a + b)(WAVES), a(WAVES) + b(WAVES))
    close((a - b)(WAVES), a(WAVES) - b(WAVES))
    close((a * b)(WAVES), a(WAVES) * b(WAVES))
    close((c * a)(WAVES), c * a(WAVES))
    assert (a * b).coefficients == (b * a).coefficients
    assert (a * b).order <= a.order + b.order


@given(SYMBOLS)
def test_the_value_is_what_autograd_makes_of_a_plane_wave(a):
    k = torch.tensor([1.3, -0.7], dtype=torch.float64)
    x = torch.tensor([0.2, 0.4], dtype=torch.float64, requires_grad=True)
    real, imaginary = torch.cos(k @ x), torch.sin(k @ x)

    def derivative(u, alpha):
        for axis, order in enumerate(alpha):
            for _ in range(order):
                u = torch.autograd.grad(u, x, create_graph=True)[0][axis]
        return u

    Du = sum(
        c * torch.complex(derivative(real, alpha), derivative(imaginary, alpha)) for alpha, c in a.coefficients.items()
    )
    expected = a(k[None])[0] * torch.complex(real, imaginary)
    torch.testing.assert_close(torch.as_tensor(Du, dtype=torch.complex128), expected)


def test_laplacian_is_minus_the_square_of_the_wave_number():
    assert torch.allclose(Symbol.laplacian(2)(WAVES), -(WAVES**2).sum(1).to(torch.complex128))
    assert Symbol.laplacian(3).order == 2
    assert repr(Symbol.laplacian(2) * 3.0) == "Symbol(3∂²₁ + 3∂²₂)"


def test_what_cancels_is_gone():
    zero = Symbol.derivative(2) - Symbol.derivative(2)
    assert (zero.coefficients, zero.order, zero.dim, repr(zero)) == ({}, 0, 1, "Symbol(0)")
    assert not zero(WAVES[:, :1]).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Symbol({}), "one order of differentiation per space dimension"),
        (lambda: Symbol({(1,): 1.0, (1, 0): 1.0}), "multi-indices of one length"),
        (lambda: Symbol({(-1,): 1.0}), "orders of differentiation are ≥ 0"),
        (lambda: Symbol.derivative(1) + Symbol.derivative(1, 0), "multi-indices of one length"),
        (lambda: Symbol.derivative(1)(torch.ones(3)), r"shape \[n, 1\], got \(3,\)"),
        (lambda: Symbol.derivative(1)(torch.ones(3, 2)), r"shape \[n, 1\], got \(3, 2\)"),
    ],
)
def test_mistakes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_composition_needs_one_dimension():
    with pytest.raises(ValueError, match="1 and 2 space dimensions"):
        Symbol.derivative(1) * Symbol.derivative(1, 0)


def test_sums_with_other_things_are_type_errors():
    with pytest.raises(TypeError):
        Symbol.derivative(1) + 1
