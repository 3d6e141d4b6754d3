"""The symbol with frozen coefficients against the dense diagonal of A, for variable and nonlinear equations."""

import pytest
import torch

import precondlab as pl
from precondlab.preconditioners import frozen, symbol


def operator(problem, model, **options):
    return pl.Gram(pl.Jacobian(problem.residual(model, **options)))


@pytest.mark.parametrize("name", ["variable_diffusion", "allen_cahn", "burgers", "fisher", "nonlinear_poisson"])
def test_it_is_the_diagonal_of_A_averaged_over_the_phase(name):
    problem = getattr(pl.problems, name)(
        **{"variable_diffusion": {"contrast": 100.0}, "burgers": {"viscosity": 0.1}}.get(name, {})
    )
    model = pl.models.fourier(3, domain=problem.domain)
    with torch.no_grad():
        model.coefficients.copy_(torch.randn(model.coefficients.shape, generator=torch.Generator().manual_seed(0)))
    weights = {block: 0.0 for block in problem.residual(model, interior=16).codomain.shapes if block != "interior"}
    J = pl.Jacobian(problem.residual(model, interior=4096 if problem.dim == 2 else 400, weights=weights))
    diagonal = J.dense().square().sum(0)
    found = 1 / frozen(problem, model, weights=weights | dict.fromkeys(weights, 1e-9)).entries
    k = model.wavevectors
    pairs = {}
    for i, wave in enumerate(k.tolist()):
        pairs.setdefault(tuple(wave), []).append(i)
    for members in pairs.values():  # the cosine and the sine of one wave: together they have no phase
        if len(members) == 2:
            volume = diagonal[members].sum()
            assert found[members].sum() == pytest.approx(volume.item(), rel=1e-3)


@pytest.mark.parametrize("problem", [pl.problems.poisson(2), pl.problems.convection_diffusion(100), pl.problems.heat()])
def test_for_constant_coefficients_it_is_the_symbol(problem):
    model = pl.models.fourier(3, domain=problem.domain)
    torch.testing.assert_close(frozen(problem, model).entries, symbol(problem, model).entries)


def test_kappa_does_not_grow_with_the_frequencies():
    problem = pl.problems.variable_diffusion(10.0)
    kappas = []
    for K in (8, 16, 32):
        model = pl.models.fourier(K, domain=problem.domain)
        A = operator(problem, model, interior=16 * K)
        kappas.append(pl.condition(A, preconditioner=frozen(problem, model)).check().estimate)
        assert kappas[-1] < 1e-2 * pl.condition(A).estimate
    assert kappas[-1] < 1.2 * kappas[0]


def test_it_follows_u():
    problem = pl.problems.allen_cahn()
    model = pl.models.fourier(4, domain=problem.domain)
    before = frozen(problem, model).entries.clone()
    with torch.no_grad():
        model.coefficients[0] = 20.0
    assert not torch.allclose(before, frozen(problem, model).entries)


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="Fourier"):
        frozen(pl.problems.poisson(), pl.models.mlp((1, 4, 1)))


def test_flow_linearized_at_a_moving_fluid():
    problem = pl.problems.kovasznay()
    for K in (3, 5):
        model = pl.models.fourier(K, domain=problem.domain)
        with torch.no_grad():
            draw = torch.Generator().manual_seed(K)
            model.coefficients.copy_(0.1 * torch.randn(model.coefficients.shape, generator=draw))
        A = operator(problem, model, interior=64 * K * K, boundary=400)
        kappa = pl.condition(A, preconditioner=frozen(problem, model)).check().estimate
        assert kappa < 100 < 1e-3 * pl.condition(A).estimate


@pytest.mark.parametrize("contrast", [10.0, 1e3])
def test_what_contrast_leaves_is_about_its_square(contrast):
    problem, model = pl.problems.variable_diffusion(contrast), pl.models.fourier(20)
    A = pl.Gram(pl.Jacobian(problem.residual(model, interior=200)))
    kappa = pl.condition(A, preconditioner=pl.preconditioners.frozen(problem, model)).estimate
    assert contrast**2 / 4 < kappa < 4 * contrast**2
