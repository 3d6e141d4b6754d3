"""The Cole–Hopf solution against independent quadrature, differences and limits."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import roots_hermite

from precondlab import problems

PI = math.pi


def at(viscosity, x, t):
    return problems.burgers(viscosity).exact(torch.tensor([[x, t]], dtype=torch.float64)).item()


def hermite(viscosity, x, t, nodes=240):
    z, w = roots_hermite(nodes)
    y = x - 2 * math.sqrt(viscosity * t) * z
    log = -np.cos(PI * y) / (2 * PI * viscosity)
    f = w * np.exp(log - log.max())
    return -(f @ np.sin(PI * y)) / f.sum()


@pytest.mark.parametrize("viscosity", [0.01 / PI, 0.05])
@pytest.mark.parametrize(("x", "t"), [(0.3, 0.2), (-0.05, 0.7), (0.01, 0.99), (0.9, 0.5), (1.0, 0.4)])
def test_against_gauss_hermite_quadrature(viscosity, x, t):
    assert at(viscosity, x, t) == pytest.approx(hermite(viscosity, x, t), abs=1e-12)


@pytest.mark.parametrize(
    ("viscosity", "x", "t"), [(2e-4, 0.3, 0.2), (2e-4, 0.002, 0.9), (1.0, -0.05, 0.7), (1.0, 0.01, 0.99)]
)
def test_against_adaptive_quadrature_at_extreme_viscosities(viscosity, x, t):
    reach = max(1.2, 14 * math.sqrt(viscosity * t))

    def exponent(eta):
        return -np.cos(PI * (x - eta)) / (2 * PI * viscosity) - eta**2 / (4 * viscosity * t)

    eta = np.linspace(-reach, reach, 200001)
    top = exponent(eta).max()
    near = eta[exponent(eta) > top - 60]  # elsewhere the integrand is below rounding
    panels = np.linspace(near[0], near[-1], 400)

    def integral(g):
        def integrand(eta):
            return g(eta) * np.exp(exponent(eta) - top)

        return math.fsum(quad(integrand, a, b, epsabs=1e-16)[0] for a, b in itertools.pairwise(panels))

    expected = -integral(lambda eta: np.sin(PI * (x - eta))) / integral(np.ones_like)
    assert at(viscosity, x, t) == pytest.approx(expected, rel=1e-9, abs=1e-13)


def test_against_the_slope_of_the_literature():
    """|u_x(0, t)| peaks at 152.00516 near t = 1.6037/π for ν = 0.01/π (Basdevant et al., 1986)."""
    h = 1e-5
    slopes = [abs(at(0.01 / PI, h, t / PI) - at(0.01 / PI, -h, t / PI)) / (2 * h) for t in (1.55, 1.6037, 1.65)]
    assert slopes[1] == pytest.approx(152.00516, rel=2e-5)
    assert slopes[1] > max(slopes[0], slopes[2])


def test_the_equation_by_differences():
    viscosity, h = 0.05, 1e-3
    c1 = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
    c2 = {-2: -1 / 12, -1: 4 / 3, 0: -5 / 2, 1: 4 / 3, 2: -1 / 12}
    for x, t in ((0.3, 0.3), (-0.1, 0.6), (0.8, 0.9)):
        u_t = sum(c * at(viscosity, x, t + j * h) for j, c in c1.items()) / h
        u_x = sum(c * at(viscosity, x + j * h, t) for j, c in c1.items()) / h
        u_xx = sum(c * at(viscosity, x + j * h, t) for j, c in c2.items()) / h**2
        assert u_t + at(viscosity, x, t) * u_x - viscosity * u_xx == pytest.approx(0, abs=1e-7)


def test_initial_and_boundary_values():
    exact = problems.burgers().exact
    x = torch.linspace(-1, 1, 21, dtype=torch.float64)
    start = exact(torch.stack([x, torch.zeros_like(x)], 1))
    torch.testing.assert_close(start[:, 0], -torch.sin(PI * x), atol=1e-13, rtol=0)
    ends = exact(torch.tensor([[-1.0, 0.3], [1.0, 0.8]], dtype=torch.float64))
    assert ends.abs().max() < 1e-12
