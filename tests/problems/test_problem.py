import math

import pytest
import torch
from torch import nn

from precondlab import models, problems
from precondlab.operators import Jacobian
from precondlab.problems import Condition, Problem
from precondlab.symbol import Symbol

PI = math.pi
FACTORIES = [name for name in problems.__all__ if name[0].islower()]
ENDS = Condition("boundary", ((0, 0.0), (0, 1.0)))


class Solution(nn.Module):
    """The exact solution times a parameter that is 1."""

    def __init__(self, problem, dtype=torch.float64):
        super().__init__()
        self.problem, self.factor = problem, nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, x):
        return self.factor * self.problem.exact(x)


def network(problem, **options):
    return models.mlp((problem.dim, 6, 1), seed=0, **options)


@pytest.mark.parametrize("name", FACTORIES)
def test_the_exact_solution_has_no_residual_and_no_error(name):
    problem = getattr(problems, name)(**({"viscosity": 0.1} if name == "burgers" else {}))
    model = Solution(problem)
    assert problem.error(model) == 0
    r = problem.residual(model, interior=200, boundary=40)
    numerical = name == "phase_separation"
    assert r.value.abs().max() < (1e-6 if numerical else 1e-9)
    with torch.no_grad():
        model.factor.mul_(1.5)
    assert problem.error(model) == pytest.approx(0.5)


@pytest.mark.parametrize("name", FACTORIES)
def test_one_call_fits_every_problem(name):
    problem = getattr(problems, name)()
    model = network(problem)
    r = problem.residual(model, interior=2000, boundary=400, weights={"boundary": 3.0}, seed=0)
    blocks = r.codomain.shapes
    assert blocks["interior"].numel() == 2000
    assert len(blocks) >= 2
    named = "boundary" in blocks
    assert r.weights == {b: 3.0 if b == "boundary" or (b != "interior" and not named) else 1.0 for b in blocks}
    assert 0 < problem.error(model) < 10


@pytest.mark.parametrize("name", FACTORIES)
def test_the_symbol_has_the_dimension_of_the_domain(name):
    problem = getattr(problems, name)()
    assert problem.symbol.dim == problem.dim == len(problem.domain)
    nonlinear = {"allen_cahn", "burgers", "fisher", "kovasznay", "logistic", "nonlinear_poisson", "phase_separation"}
    assert problem.linear == (name not in nonlinear | {"variable_diffusion"})


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("make", [problems.poisson, problems.heat])
def test_dimensions(make, dim):
    problem = make(dim)
    assert problem.residual(Solution(problem), interior=100, boundary=60).value.abs().max() < 1e-12
    assert problem.exact(torch.full((1, problem.dim), PI, dtype=torch.float64)).abs().item() < 1e-12


def test_half_the_squared_residual_is_the_loss_of_the_theory():
    model = models.fourier(3)
    torch.nn.init.constant_(model.coefficients, 0.7)
    lam = 5.0
    r = problems.poisson().residual(model, interior=64, weights={"boundary": lam})
    x = torch.linspace(-PI, PI, 20001, dtype=torch.float64)
    k, a = torch.arange(1.0, 4.0).double(), 0.7 / math.sqrt(PI)
    second = a * ((k**2) * (torch.cos(x[:, None] * k) + torch.sin(x[:, None] * k))).sum(1) - torch.sin(x)
    ends = 0.7 / math.sqrt(2 * PI) + a * (-1.0)  # cos(kπ) sums to −1 over k = 1, 2, 3; sin(kπ) is 0
    loss = 0.5 * torch.trapezoid(second**2, x).item() + 0.5 * lam * 2 * ends**2
    assert 0.5 * r.value.square().sum().item() == pytest.approx(loss, rel=1e-10)


def test_helmholtz_imposes_value_and_slope_at_the_origin():
    r = problems.helmholtz().residual(models.fourier(3), interior=20)
    assert r.codomain.shapes["boundary"] == (1, 2)
    assert r().tolist()[-2:] == pytest.approx([0.0, -1.0])  # u = 0 minus the value and slope of sin x


def test_the_initial_block_has_its_own_count_and_integrates_over_time_zero():
    problem = problems.heat()
    r = problem.residual(models.fourier((2, 1), domain=problem.domain), interior=50, boundary=30, initial=7)
    assert {name: shape.numel() for name, shape in r.codomain.shapes.items()} == {
        "interior": 50,
        "boundary": 30,
        "initial": 7,
    }
    assert (r.points["initial"][:, 1] == 0).all()
    initial = r()[r.codomain.slices["initial"]]
    assert initial.square().sum().item() == pytest.approx(PI)  # ∫ sin²x over a period


def test_boundary_counts_per_axis():
    problem = problems.heat(2)
    r = problem.residual(network(problem), interior=(3, 4, 5), boundary=(3, 4, 5))
    assert {name: shape.numel() for name, shape in r.codomain.shapes.items()} == {
        "interior": 60,
        "boundary": 2 * 4 * 5 + 2 * 3 * 5,
        "initial": 3 * 4,
    }


def test_seeds_and_rules_choose_the_points():
    problem = problems.poisson(2)
    model = network(problem)

    def points(**options):
        return problem.residual(model, interior=64, boundary=16, **options).points["interior"]

    assert torch.equal(points(seed=1), points(seed=1))
    assert not torch.equal(points(seed=1), points(seed=2))
    assert len(points(rule="gauss")[:, 0].unique()) == 8


def test_blocks_draw_their_own_points():
    problem = problems.heat(2)
    points = problem.residual(network(problem), interior=64, boundary=64).points
    left = points["boundary"][points["boundary"][:, 0] == -PI][:, 1]
    assert not torch.isclose(left[:, None], points["initial"][:16, 1]).diagonal().any()
    assert not torch.isclose(left, points["initial"][: len(left), 0]).any()


@pytest.mark.parametrize("name", FACTORIES)
def test_single_precision_models(name):
    problem = getattr(problems, name)()
    model = network(problem, dtype=torch.float32)
    r = problem.residual(model, interior=32, boundary=8)
    assert r.value.dtype == r.points["interior"].dtype == torch.float32
    assert problem.error(model) > 0


def test_the_residual_follows_the_model_and_leaves_frozen_parameters_alone():
    problem = problems.poisson()
    model = models.mlp((1, 4, 1), seed=0)
    model[0].weight.requires_grad_(False)
    r = problem.residual(model, interior=10)
    assert set(r.domain.shapes) == {"0.bias", "2.weight", "2.bias"}
    before = r.value
    with torch.no_grad():
        model[2].weight.mul_(2.0)
    assert not torch.allclose(r.value, before)
    assert Jacobian(r).shape == (12, 9)


def test_routes_agree_on_problem_residuals():
    problem = problems.burgers(0.1)
    r = problem.residual(network(problem), interior=20, boundary=6)
    graph, functional = (Jacobian(r, route=route).dense() for route in ("graph", "functional"))
    torch.testing.assert_close(graph, functional)


def test_chunks_of_rows_give_the_same_jacobian():
    problem = problems.heat()
    r = problem.residual(network(problem), interior=40, boundary=10)
    whole = Jacobian(r)
    for route in ("jets", "graph"):
        chunked = Jacobian(r, route=route, memory_budget=6_000)
        assert "rebuilt" in repr(chunked)
        torch.testing.assert_close(chunked.dense(), whole.dense())


def test_models_that_are_not_periodic_get_a_periodicity_block():
    problem = problems.advection(3.0)
    plain = network(problem)
    rows = problem.residual(plain, interior=10, boundary=5)
    x = rows.points["periodicity"]
    gap = plain(x) - plain(x + torch.tensor([2 * PI, 0.0]))
    found = rows()[rows.codomain.slices["periodicity"]]
    torch.testing.assert_close(found, gap[:, 0].detach() / math.sqrt(5))  # five weights of 1/5
    wrapped = models.periodic(models.mlp((3, 4, 1), seed=0), (2 * PI, None))
    assert set(problem.residual(wrapped, interior=10, boundary=5).codomain.shapes) == {"interior", "initial"}
    wrong_period = models.fourier((2, 2), domain=((0.0, 5.0), (0.0, 1.0)))  # zero at the start, like any period
    assert "periodicity" in problem.residual(wrong_period, interior=10, boundary=5).codomain.shapes


def test_the_name_boundary_stands_for_conditions_only_where_no_block_has_it():
    advection, heat = problems.advection(), problems.heat()
    assert advection.residual(network(advection), interior=9, weights={"boundary": 2.0, "initial": 5.0}).weights == {
        "interior": 1.0,
        "initial": 5.0,
        "periodicity": 2.0,
    }
    assert heat.residual(network(heat), interior=9, weights={"boundary": 2.0}).weights["initial"] == 1.0


def test_problems_of_ones_own():
    D = Symbol({(2,): -1.0, (0,): 1.0})
    given = Problem("own", ((0.0, 1.0),), D, (ENDS,), exact=lambda x: x**2, source=lambda x: x**2 - 2)
    derived = Problem("own", ((0.0, 1.0),), D, (ENDS,), exact=lambda x: x**2)
    model = models.mlp((1, 4, 1), seed=0)
    torch.testing.assert_close(given.residual(model, interior=9).value, derived.residual(model, interior=9).value)
    forced = Problem("own", ((0.0, 1.0),), lambda x, u: u(x)[:, 0] ** 2, (ENDS,), lambda x: x, lambda x: x**2)
    assert not forced.linear
    assert forced.residual(Solution(forced), interior=9).value.abs().max() < 1e-15


def test_the_error_needs_no_gradient_and_sees_the_model_on_unseen_points():
    problem = problems.poisson()

    class Aliased(nn.Module):  # exact at the 50 midpoints it was trained on, wrong between
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x):
            return torch.sin(x) + self.p * torch.cos(25 * (x + PI))

    model = Aliased()
    x = problem.residual(model, interior=50).points["interior"]
    torch.testing.assert_close(model(x), problem.exact(x))
    assert problem.error(model) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda p: p.residual(network(p), interior=9, weights={"initial": 1.0}),
            r"has \['interior', 'boundary'\]",
        ),
        (lambda p: p.residual(models.mlp((2, 3, 1)), interior=9), r"points of shape \[N, 1\]"),
        (lambda p: p.residual(nn.Linear(2, 1).double(), interior=9), r"points of shape \[N, 1\]"),
        (lambda p: p.residual(models.mlp((1, 3, 2)), interior=9), r"values \[N, 1\]"),
        (lambda p: p.residual(nn.Tanh(), interior=9), "no parameters"),
        (lambda p: p.residual(network(p), interior=0), "≥ 1"),
        (lambda p: Problem("p", p.domain, Symbol.laplacian(2), (), p.exact), "1 coordinates, the symbol 2"),
        (lambda p: Problem("p", p.domain, Symbol.laplacian(1), ()), "source"),
        (lambda p: Problem("p", p.domain, Symbol.laplacian(1), (ENDS, ENDS), p.exact), "names of their own"),
        (lambda p: problems.burgers(0.0), "positive"),
        (lambda p: problems.heat(diffusivity=-1.0), "positive"),
        (lambda p: problems.fisher(0.0), "positive"),
        (
            lambda p: Problem("p", p.domain, lambda x, u: u(x), (), p.exact).residual(network(p), interior=9),
            "an equation gives",
        ),
        (
            lambda p: Problem("p", ((0.0, 1.0),), lambda x, u: u(x)[:, 0], (ENDS,)).residual(network(p), interior=9),
            "needs a target",
        ),
        (
            lambda p: Problem("p", p.domain, lambda x, u: u(x)[:, 0], ()).error(network(p)),
            "no exact solution",
        ),
        (
            lambda p: Problem("p", p.domain, Symbol.laplacian(1), (), torch.zeros_like).error(network(p)),
            "no relative error",
        ),
    ],
)
def test_mistakes_are_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call(problems.poisson())


def test_kovasznay_flow_satisfies_the_navier_stokes_equations():
    """Its velocity and pressure, written out: u·∇u + ∇p = Δu/Re and div u = 0."""
    reynolds, x = 20.0, torch.tensor([[0.3, 0.1], [-0.2, 1.2]], dtype=torch.float64, requires_grad=True)
    problem = problems.kovasznay(reynolds)

    def gradient(f):
        return torch.autograd.grad(f.sum(), x, create_graph=True)[0]

    slope = gradient(problem.exact(x))
    u, v = slope[:, 1], -slope[:, 0]
    rate = reynolds / 2 - math.hypot(reynolds / 2, 2 * PI)
    p = (1 - torch.exp(2 * rate * x[:, 0])) / 2
    for component, pressure in ((u, gradient(p)[:, 0]), (v, gradient(p)[:, 1])):
        d = gradient(component)
        laplacian = sum(gradient(d[:, i])[:, i] for i in range(2))
        momentum = u * d[:, 0] + v * d[:, 1] + pressure - laplacian / reynolds
        assert momentum.abs().max().item() < 1e-12
    assert (u - (1 - torch.exp(rate * x[:, 0]) * torch.cos(2 * PI * x[:, 1]))).abs().max().item() < 1e-14
    with pytest.raises(ValueError, match="Reynolds number should be positive"):
        problems.kovasznay(0.0)


@pytest.mark.parametrize("name", ["kovasznay", "nonlinear_poisson"])
def test_closed_forms_know_the_nonlinear_terms(name):
    problem = getattr(problems, name)()
    r = problem.residual(network(problem), interior=30, boundary=12)
    closed, graph = Jacobian(r), Jacobian(r, route="graph")
    assert closed.route == "jets"
    torch.testing.assert_close(closed.dense(), graph.dense(), rtol=1e-9, atol=1e-9)
