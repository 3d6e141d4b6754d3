"""Closed-form derivatives of the Fourier model against automatic differentiation."""

import torch
from hypothesis import given
from hypothesis import strategies as st

import precondlab as pl
from precondlab.differentiation import calculus

orders = st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 2)), st.floats(-2, 2), min_size=1, max_size=3)


@given(coefficients=orders, seed=st.integers(0, 2**31))
def test_derivatives_of_the_series_are_those_of_autograd(coefficients, seed):
    generator = torch.Generator().manual_seed(seed)
    model = pl.models.fourier((2, 1), domain=((0.0, 2.0), (-1.0, 3.0)), scale=torch.rand(15, generator=generator))
    with torch.no_grad():
        model.coefficients.normal_(generator=generator)
    x = torch.rand(5, 2, dtype=torch.float64, generator=generator)
    D = pl.Symbol(coefficients)
    expected = calculus.apply(D, lambda x: model(x), x)
    assert (model(x, D)[:, 0] - expected).abs().max() <= 1e-11 * (1 + expected.abs().max())


def test_the_hard_boundary_basis_keeps_its_constants_only_in_the_value():
    model = pl.models.fourier(3, boundary="zero")
    with torch.no_grad():
        model.coefficients.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    D = pl.Symbol({(2,): -1.0, (0,): 0.5})
    torch.testing.assert_close(model(x, D)[:, 0], calculus.apply(D, lambda x: model(x), x))
