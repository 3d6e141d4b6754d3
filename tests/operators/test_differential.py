"""Differential operators on coefficients and grids; J = (√W D) ∘ T."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import precondlab as pl
from precondlab import Symbol
from precondlab.operators import Diagonal, Differential, Gram, Jacobian, Kernel, Multiplier

BOX = [(0.0, 2 * math.pi), (-1.0, 1.0)]
orders = st.dictionaries(st.tuples(st.integers(0, 4), st.integers(0, 3)), st.integers(-3, 3), min_size=1, max_size=3)


def plane_wave(points, k, shift):
    return torch.cos(points @ k + shift)


@given(coefficients=orders, k=st.tuples(st.integers(-3, 3), st.integers(-3, 3)), shift=st.floats(0, 6))
def test_periodic_grid_has_the_plane_waves_as_eigenfunctions(coefficients, k, shift):
    symbol = Symbol(coefficients)
    D = Differential(symbol, (9, 8), BOX)
    wave = torch.tensor([float(k[0]), math.pi * k[1]], dtype=torch.float64)
    sigma = symbol(wave[None])[0]
    expected = sigma.real * plane_wave(D.points, wave, shift) - sigma.imag * torch.sin(D.points @ wave + shift)
    scale = 1 + sum(abs(c) * 3.0 ** a[0] * 12.0 ** a[1] for a, c in coefficients.items())
    assert (D @ plane_wave(D.points, wave, shift) - expected).abs().max() <= 1e-12 * scale


@pytest.mark.parametrize("periodic", [False, (True, False), (False, True)])
def test_mixed_grids_differentiate_smooth_functions(periodic):
    symbol = Symbol({(2, 0): 1.0, (1, 1): 0.5, (0, 2): -2.0, (0, 0): 3.0})
    D = Differential(symbol, (24, 24), [(0.0, 2 * math.pi), (0.0, 2 * math.pi)], periodic=periodic)
    x, y = D.points.T
    u = torch.cos(x) * torch.sin(y)
    expected = -u - 0.5 * torch.sin(x) * torch.cos(y) + 2 * u + 3 * u
    torch.testing.assert_close(D @ u, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("periodic", [True, False, (False, True)])
def test_contract(periodic):
    D = Differential(Symbol({(1, 2): 1.0, (3, 0): -0.5}), (6, 5), BOX, periodic=periodic)
    pl.testing.check_operator(D)


@given(coefficients=orders)
def test_multiplier_is_the_derivative_of_the_model(coefficients):
    symbol = Symbol(coefficients)
    model = pl.models.fourier((2, 1), domain=BOX)
    D = Multiplier(symbol, model.wavevectors, model.phases)
    pl.testing.check_operator(D)
    theta = torch.linspace(-1, 1, 15, dtype=torch.float64)
    x = torch.rand(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = torch.func.functional_call(model, {"coefficients": theta}, (x, symbol))
    assert (model.features(x) @ (D @ theta) - values[:, 0]).abs().max() <= 1e-11 * (1 + values.abs().max())
    squares = Gram(D).dense()
    expected = torch.diag(symbol(model.wavevectors).abs() ** 2)
    assert (squares - expected).abs().max() <= 1e-12 * (1 + expected.max())


def test_jacobian_is_the_weighted_operator_after_the_tangent_map():
    problem, model = pl.problems.helmholtz(omega=3.0), pl.models.fourier(4)
    D = Differential(problem.symbol, (24,), problem.domain)
    W = Diagonal(torch.full((24,), 2 * math.pi / 24, dtype=torch.float64))
    T = pl.tangent(model, D.points)
    expected = (W.sqrt @ D @ T).dense()
    r = pl.Map(
        {"interior": lambda p, x: torch.func.functional_call(model, p, (x, problem.symbol))},
        dict(model.named_parameters()),
        points={"interior": D.points},
        quadrature={"interior": W.entries},
    )
    torch.testing.assert_close(Jacobian(r).dense(), expected, rtol=0, atol=1e-11)


def test_condition_number_of_the_operator_composed_with_the_kernel():
    """κ(A) from parameters equals κ(𝒜 ∘ TT*) from functions, where the features are independent."""
    model = pl.models.fourier(3, scale=torch.linspace(1, 2, 7))
    D = Differential(-Symbol.derivative(2) + Symbol.derivative(0), (16,), [(-math.pi, math.pi)])
    h = 2 * math.pi / 16
    T = pl.tangent(model, D.points)
    A = Gram(h**0.5 * D @ T)
    on_functions = torch.linalg.eigvals((D.H @ D @ Kernel(h**0.5 * T)).dense()).real.sort(descending=True).values[:7]
    assert pl.condition(A).estimate == pytest.approx((on_functions[0] / on_functions[-1]).item(), rel=1e-9)
    K = torch.linalg.eigvalsh(Kernel(A.J).dense()).flip(0)
    torch.testing.assert_close(K[:7], torch.linalg.eigvalsh(A.dense()).flip(0))
    assert K[7:].abs().max() < 1e-12 * K[0]


def test_mistakes_are_refused():
    symbol = Symbol({(1, 0): 1.0})
    with pytest.raises(ValueError, match="2 directions"):
        Differential(symbol, (4,), BOX)
    with pytest.raises(ValueError, match="lack their sine or cosine"):
        Multiplier(Symbol.derivative(1), torch.tensor([[1.0]]), torch.tensor([0.0]))
