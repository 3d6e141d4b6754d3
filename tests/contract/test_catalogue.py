"""Every problem that the package offers meets the same expectations; a new file is tested by being there."""

import pytest
import torch

import precondlab as pl
from precondlab import problems
from precondlab.catalogue import factories

PROBLEMS = factories(problems, "Problem")


class Exact(torch.nn.Module):
    """The exact solution plus ε times a function: its residual is zero at ε = 0."""

    def __init__(self, problem):
        super().__init__()
        self.exact = problem.exact
        self.epsilon = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x):
        return self.exact(x) + self.epsilon * torch.cos(x.sum(1, keepdim=True))


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_exact_solution_has_no_residual_and_others_have(name):
    problem = PROBLEMS[name]()
    model = Exact(problem)
    r = problem.residual(model, interior=40, boundary=12)
    scale = pl.Jacobian(r).dense().norm()
    assert r.value.norm() <= 1e-7 * scale
    assert problem.error(model, points=200) <= 1e-12
    assert r(torch.ones(1, dtype=torch.float64)).norm() >= 1e-3


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_jacobian_of_a_network_meets_the_contract(name):
    problem = PROBLEMS[name]()
    model = pl.models.mlp((problem.dim, 5, 1), seed=0)
    J = pl.Jacobian(problem.residual(model, interior=12, boundary=4))
    assert J.route == "jets" or "periodicity" in J.codomain.shapes
    pl.testing.check_operator(J)


def test_every_problem_is_exported():
    assert set(PROBLEMS) <= set(problems.__all__)
    assert {"poisson", "helmholtz", "advection", "heat", "burgers"} <= set(PROBLEMS)
