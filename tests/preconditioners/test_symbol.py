"""The symbol preconditioner: its three modes, its numbers, and resonances."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import precondlab as pl
from precondlab.operators import Gram, Jacobian

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
