"""Mass and stiffness against closed forms, dense generalized eigenproblems, and changes of basis."""

import math
from dataclasses import replace

import pytest
import scipy.linalg
import torch

import precondlab as pl
from precondlab.errors import NotPositive
from precondlab.operators import Gram, Jacobian
from precondlab.preconditioners import mass_stiffness, symbol
from precondlab.problems.sampling import box_points

POISSON = pl.problems.poisson()


class Mixed(torch.nn.Module):
    """The span of a Fourier series in another basis: its coefficients are Bθ."""

    def __init__(self, K, B):
        super().__init__()
        self.features, self.B = pl.models.fourier(K).features, B
        self.theta = torch.nn.Parameter(torch.zeros(len(B), dtype=torch.float64))

    def forward(self, x):
        return (self.features(x) @ (self.B @ self.theta))[:, None]


def gram(model, *, interior=80, weight=1.0):
    return Gram(Jacobian(POISSON.residual(model, interior=interior, weights={"boundary": weight})))


def random_matrix(n, seed):
    B = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return B + 3 * torch.eye(n, dtype=torch.float64)


@pytest.mark.parametrize("order", [0.0, 1.0, 2.0, 3.0])
def test_it_is_a_power_of_the_symbol_on_a_fourier_basis(order):
    M = mass_stiffness(POISSON, pl.models.fourier(5), order=order, shift=0.7)
    k = pl.models.fourier(5).wavevectors[:, 0]
    torch.testing.assert_close(M.dense(), torch.diag((0.7 + k**2) ** -order), rtol=0, atol=1e-10)


@pytest.mark.parametrize("order", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_it_sees_the_span_and_not_the_basis(order, seed):
    plain, mixed = pl.models.fourier(4), Mixed(4, random_matrix(9, seed))
    spectra = []
    for model in (plain, mixed):
        P = mass_stiffness(POISSON, model, order=order).sqrt
        spectra.append(torch.linalg.eigvalsh((P.H @ gram(model) @ P).dense()))
    torch.testing.assert_close(*spectra, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("order", [0.0, 1.0, 1.5, 2.0])
def test_a_damped_network_against_scipy(order):
    model, problem = pl.models.mlp((2, 3, 1), seed=0), pl.problems.poisson_sines(2)
    M = mass_stiffness(problem, model, order=order, shift=2.0, damping=1e-3, points=49)
    params = list(model.parameters())

    def row(y):
        found = torch.autograd.grad(y, params, retain_graph=True, allow_unused=True, materialize_grads=True)
        return torch.cat([g.flatten() for g in found])

    points, quadrature = box_points(problem.domain, 49)
    points.requires_grad_()
    u = model(points)
    slope = torch.autograd.grad(u.sum(), points, create_graph=True)[0]
    T, G = (torch.stack([row(y) for y in rows.flatten()]) for rows in (u, slope))
    mass = T.T @ (quadrature[:, None] * T) + 1e-3 * torch.eye(T.shape[1], dtype=torch.float64)
    stiffness = G.T @ (quadrature.repeat_interleave(2)[:, None] * G) + 2.0 * mass
    kappa, X = scipy.linalg.eigh(stiffness.numpy(), mass.numpy())
    expected = torch.tensor(X * kappa**-order @ X.T)
    torch.testing.assert_close(M.dense(), expected, rtol=1e-7, atol=1e-9 * expected.abs().max().item())
    pl.testing.check_operator(M)


def test_kappa_does_not_grow_with_the_frequencies_in_any_basis():
    for K in (4, 8, 16):
        model = Mixed(K, random_matrix(2 * K + 1, K))
        A = gram(model, interior=8 * K)
        assert pl.condition(A).estimate > K**4
        assert pl.condition(A, preconditioner=mass_stiffness(POISSON, model, order=0.0)).estimate > K**4
        assert pl.condition(A, preconditioner=mass_stiffness(POISSON, model)).check().estimate < 8


def test_a_mask_defeats_the_symbol_but_costs_only_K_here():
    ratios = []
    for K in (5, 10, 20):
        series = pl.models.fourier(K)
        model = pl.models.masked(series, lambda x: (math.pi**2 - x**2) / math.pi**2)
        A = Gram(Jacobian(POISSON.residual(model, interior=16 * K)).block("interior"))
        found = pl.condition(A, preconditioner=mass_stiffness(POISSON, model, shift=0.01)).check().estimate
        assert found < 0.6 * pl.condition(A, preconditioner=symbol(POISSON, series, kernel=1.0)).estimate
        ratios.append(found / K)
    assert max(ratios) < 1.5 * min(ratios)


def test_mistakes_are_told():
    network = pl.models.mlp((1, 8, 1), seed=0)
    with pytest.raises(NotPositive, match="tangent functions of RandomFeatures depend on each other"):
        mass_stiffness(POISSON, pl.models.random_features(60, domain=POISSON.domain, scale=2.0))
    with pytest.raises(NotPositive, match="give damping > 0"):
        mass_stiffness(POISSON, network, points=5)  # fewer points than parameters
    with pytest.raises(ValueError, match="shift > 0"):
        mass_stiffness(POISSON, network, shift=0.0)
    with pytest.raises(ValueError, match="finite damping ≥ 0"):
        mass_stiffness(POISSON, network, damping=-1.0)
    with pytest.raises(ValueError, match="take fewer points"):
        mass_stiffness(POISSON, pl.models.mlp((1, 10_000, 1), seed=0))
    with pytest.raises(ValueError, match="give order="):
        mass_stiffness(replace(POISSON, equation=lambda x, u: u(x)[:, 0], symbol=None), network)
