"""The reference of the Allen–Cahn problem against another discretization and integrator, and the equation itself."""

import math

import numpy as np
import torch
from scipy.integrate import solve_ivp

from precondlab.differentiation.calculus import partials
from precondlab.models import mlp, periodic
from precondlab.problems import phase_separation
from precondlab.problems.phases import phase_reference
from precondlab.problems.sampling import evaluation_points

TIMES = [0.3, 1.0]
POINTS = evaluation_points(((-1.0, 1.0), (0.0, 1.0)), 400)


def test_the_reference_does_not_change_with_its_resolution():
    u, finer = phase_reference()(POINTS), phase_reference(2048, 2000)(POINTS)
    assert ((u - finer).norm() / finer.norm()).item() < 1e-9


def test_the_reference_is_that_of_another_discretization():
    n = 2048
    x = -1 + 2 * np.arange(n) / n
    k = math.pi * np.fft.rfftfreq(n, 1 / n)

    def slope(t, u):
        return np.fft.irfft(-1e-4 * k**2 * np.fft.rfft(u), n) + 5 * (u - u**3)

    done = solve_ivp(
        slope, (0, 1), x**2 * np.cos(math.pi * x), method="DOP853", t_eval=[0.3, 1.0], rtol=1e-8, atol=1e-9
    )
    for t, u in zip(done.t, done.y.T, strict=True):
        at = torch.tensor(np.stack([x, np.full(n, t)], axis=1))
        error = phase_reference()(at)[:, 0].numpy() - u
        assert np.linalg.norm(error) / np.linalg.norm(u) < 1e-5  # the kink costs that discretization more


def test_the_problem_holds_for_its_reference():
    problem = phase_separation()
    x = torch.tensor([[0.1, 0.0], [-0.7, 0.0]], dtype=torch.float64)
    target = problem.conditions[0].target
    assert (phase_reference()(x) - target(x)).abs().max() < 1e-6  # the kink again
    x = torch.tensor([[0.3, 0.4], [-0.8, 0.7], [0.55, 0.9]], dtype=torch.float64)
    steps = torch.tensor([[1e-3, 0.0], [0.0, 1e-4]], dtype=torch.float64)
    u = problem.exact
    u_xx = (u(x + steps[0]) - 2 * u(x) + u(x - steps[0])) / 1e-6
    u_t = (u(x + steps[1]) - u(x - steps[1])) / 2e-4
    assert (u_t - 1e-4 * u_xx + 5 * u(x) ** 3 - 5 * u(x)).abs().max() < 1e-4

    model = mlp((2, 8, 1), seed=0)
    d = partials(model, x, [(0, 0), (0, 1), (2, 0)])
    expected = d[0, 1] - 1e-4 * d[2, 0] + 5 * d[0, 0] ** 3 - 5 * d[0, 0]
    torch.testing.assert_close(problem.equation(x, model), expected)


def test_a_periodic_model_has_no_block_for_periodicity():
    problem = phase_separation()
    assert list(problem.residual(mlp((2, 8, 1), seed=0), interior=9, boundary=9).codomain.shapes) == [
        "interior",
        "initial",
        "periodicity",
    ]
    model = periodic(mlp((3, 8, 1), seed=0), (2.0, None))
    assert list(problem.residual(model, interior=9, boundary=9).codomain.shapes) == ["interior", "initial"]
