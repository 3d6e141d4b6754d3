"""The symbol preconditioner: its three modes, its numbers, and resonances."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import precondlab as pl
from precondlab.operators import Gram, Jacobian
from precondlab.problems import Condition, Problem
from precondlab.symbol import Symbol

BOX = ((0.0, 2 * math.pi), (0.0, 1.0))


def gram(problem, model, weight, points=60):
    return Gram(Jacobian(problem.residual(model, interior=points, weights={"boundary": weight})))


@pytest.mark.parametrize("kernel", [None, 20.0])
def test_parameters_gradients_and_features_are_one_preconditioner(kernel):
    problem, weight = pl.problems.poisson(dim=1), {"boundary": 0.01}
    generator = torch.Generator().manual_seed(0)
    hat = torch.randn(17, generator=generator, dtype=torch.float64)
    M = pl.preconditioners.symbol(problem, pl.models.fourier(8), weights=weight, kernel=kernel)
    P = M.sqrt.entries

    def model_at(theta, scale=None):
        model = pl.models.fourier(8, scale=scale)
        with torch.no_grad():
            model.coefficients.copy_(theta)
        return model, problem.residual(model, interior=60, weights=weight)

    features, r_hat = model_at(hat, scale=P)  # Pφ
    model, r = model_at(P * hat)  # θ = Pθ̂
    torch.testing.assert_close(r.value, r_hat.value)
    J, J_hat = Jacobian(r), Jacobian(r_hat)
    PAP = M.sqrt.H @ Gram(J) @ M.sqrt
    assert PAP.positive
    scale = Gram(J_hat).dense().abs().max()
    torch.testing.assert_close(PAP.dense() / scale, Gram(J_hat).dense() / scale, rtol=1e-10, atol=1e-12)
    rate = 0.7
    pl.optim.GradientDescent(r, lr=rate, preconditioner=M).step()  # PPᵀg
    pl.optim.GradientDescent(r_hat, lr=rate).step()
    torch.testing.assert_close(model.coefficients, P * features.coefficients)


@given(K=st.integers(1, 30))
def test_kappa_does_not_depend_on_the_number_of_frequencies(K):
    problem, model = pl.problems.poisson(dim=1), pl.models.fourier(K)
    M = pl.preconditioners.symbol(problem, model, weights={"boundary": 0.01})
    A = gram(problem, model, 0.01, points=4 * K + 8)
    assert pl.condition(A, preconditioner=M).estimate < 1.2
    PAP = (M.sqrt.H @ A @ M.sqrt).dense()
    torch.testing.assert_close(PAP.diagonal(), torch.ones(2 * K + 1, dtype=torch.float64), rtol=1e-9, atol=0)


@given(beta=st.floats(0.5, 100))
def test_advection_has_no_bad_speed(beta):
    problem, model = pl.problems.advection(beta=beta), pl.models.fourier((3, 6), domain=BOX)
    residual = problem.residual(model, interior=(8, 14), boundary=8, weights={"initial": 0.01})
    M = pl.preconditioners.symbol(problem, model, weights={"initial": 0.01})
    assert pl.condition(Gram(Jacobian(residual)), preconditioner=M).upper < 1.07


@pytest.mark.parametrize("dim", [2, 3])
def test_poisson_in_several_dimensions(dim):
    problem = pl.problems.poisson(dim=dim)
    model = pl.models.fourier(2, domain=problem.domain)
    M = pl.preconditioners.symbol(problem, model, kernel=1.0)
    J = Jacobian(problem.residual(model, interior=(6,) * dim)).block("interior")
    PAP = (M.sqrt.H @ Gram(J) @ M.sqrt).dense()
    expected = torch.ones(len(PAP), dtype=torch.float64)
    expected[0] = 0  # the constant is in the kernel of the Laplacian
    torch.testing.assert_close(PAP, torch.diag(expected), rtol=0, atol=1e-10)


def stated(D, domain, *conditions):
    """A problem with this D; κ does not depend on what its solution is."""
    return Problem("stated", domain, D, conditions, exact=lambda x: x.sin().prod(1, keepdim=True))


def dirichlet(D, domain):
    return stated(D, domain, Condition("boundary", tuple((i, end) for i, ab in enumerate(domain) for end in ab)))


def helmholtz(dim, omega):
    return dirichlet(Symbol.laplacian(dim) + omega**2 * Symbol.derivative(*(0,) * dim), ((-math.pi, math.pi),) * dim)


def inflow(beta):
    """Advection on the unit square that enters at x = 0: nothing is periodic."""
    ends = Condition("initial", ((1, 0.0),)), Condition("inflow", ((0, 0.0),))
    return stated(Symbol({(0, 1): 1.0, (1, 0): beta}), ((0.0, 1.0), (0.0, 1.0)), *ends)


def advection(beta):
    """Advection along the diagonal of a periodic square."""
    turn, box = 2 * math.pi, ((0.0, 2 * math.pi), (0.0, 2 * math.pi), (0.0, 1.0))
    sides = [Condition(f"period {i}", ((i, 0.0),), shift=tuple(turn * (i == j) for j in range(3))) for i in range(2)]
    D = Symbol({(0, 0, 1): 1.0, (1, 0, 0): beta, (0, 1, 0): beta})
    return stated(D, box, Condition("initial", ((2, 0.0),)), *sides)


SPEEDS = (3.7, 20.0, 60 * math.pi)
FLAT = {
    "Poisson, 1-d": ([pl.problems.poisson(1)], (5, 20, 80)),
    "Poisson, 2-d": ([pl.problems.poisson(2)], (3, 8)),
    "Poisson, 3-d": ([pl.problems.poisson(3)], (2, 3)),
    "Poisson, a rectangle": ([dirichlet(-Symbol.laplacian(2), ((0.0, 1.0), (0.5, 3.0)))], (3, 8)),
    "Helmholtz, 1-d": ([pl.problems.helmholtz(omega) for omega in (4.0, 7.3)], (10, 80)),
    "Helmholtz, 2-d": ([helmholtz(2, omega) for omega in (3.0, 3.7, 4.0)], (5, 8)),
    "Helmholtz, 3-d": ([helmholtz(3, omega) for omega in (1.5, 2.2)], (2, 3)),
    "advection": ([pl.problems.advection(beta) for beta in SPEEDS], ((3, 6), (6, 14))),
    "advection, 2-d": ([advection(beta) for beta in SPEEDS], ((1, 1, 2), (2, 2, 3))),
    "advection, inflow": ([inflow(beta) for beta in SPEEDS], ((3, 6), (6, 14))),
}


@pytest.mark.parametrize("name", FLAT)
def test_kappa_is_flat_over_frequencies_and_small_for_every_coefficient(name):
    stated, sizes = FLAT[name]
    for problem in stated:
        weights = {each.name: 0.01 for each in problem.conditions if each.shift is None}
        found = []
        for frequencies in sizes:
            highest = (frequencies,) * problem.dim if isinstance(frequencies, int) else frequencies
            grid = tuple(2 * k + 2 for k in highest)
            interior = grid if problem.dim > 1 else grid[0]
            model = pl.models.fourier(highest, domain=problem.domain)
            A = Gram(Jacobian(problem.residual(model, interior=interior, boundary=grid, weights=weights)))
            M = pl.preconditioners.symbol(problem, model, weights=weights)
            found.append(pl.condition(A, preconditioner=M).upper)
        assert max(found) < 1.5 and max(found) < 1.02 * min(found)
        assert pl.condition(A).lower > 50


def test_a_resonance_that_no_condition_sees_is_named():
    """sin 4x solves u″ + 16u = 0 with u(±π) = 0; rounding leaves 1e-32 of it, which is nothing."""
    model = pl.models.fourier(6)
    for make in (pl.preconditioners.symbol, pl.preconditioners.frozen):
        with pytest.raises(ValueError, match=r"wave vectors \[\[4\.0\]\] are in the kernel"):
            make(helmholtz(1, 4.0), model)
        assert make(helmholtz(1, 4.1), model).entries.isfinite().all()


def test_a_symbol_that_vanishes_everywhere_leaves_what_the_conditions_see():
    nothing = stated(0 * Symbol.laplacian(1), ((-math.pi, math.pi),), Condition("boundary", ((0, math.pi),)))
    with pytest.raises(ValueError, match="invisible to every condition"):
        pl.preconditioners.symbol(nothing, pl.models.fourier(2))


def test_a_problem_without_symbol_and_a_model_without_waves_are_refused():
    problem, network = pl.problems.poisson(dim=1), pl.models.mlp((1, 4, 1))
    with pytest.raises(ValueError, match="Fourier"):
        pl.preconditioners.symbol(problem, network)
    with pytest.raises(ValueError, match="no constant-coefficient part"):
        pl.preconditioners.symbol(object(), pl.models.fourier(2))


def test_a_mode_that_nothing_sees_is_named():
    problem = pl.problems.poisson(dim=1)
    with pytest.raises(ValueError, match="kernel of the differential operator"):
        pl.preconditioners.symbol(problem, pl.models.fourier(2), weights={"boundary": 0.0})
