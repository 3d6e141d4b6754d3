"""Time slabs, against closed-form solutions."""

from dataclasses import replace

import pytest
import torch

import precondlab as pl
from precondlab.training import Slabs, march, solve_linear


def features(scale, width=150, weights=None):
    def fit(slab, before):
        model = pl.models.random_features(width, domain=slab.domain, scale=scale, seed=1)
        solve_linear(slab.residual(model, interior=3 * width, boundary=100, weights=weights, seed=2))
        return model

    return fit


@pytest.mark.parametrize(
    ("problem", "slabs", "most"),
    [
        (pl.problems.advection(20.0), 5, 1e-6),
        (pl.problems.advection(20.0), (0.0, 0.1, 0.25, 0.5, 0.7, 1.0), 1e-4),
        (pl.problems.heat_rod(), 3, 1e-8),
        (pl.problems.wave(6.0), 3, 1e-5),  # value and velocity are handed over
    ],
)
def test_the_solution_is_the_closed_form(problem, slabs, most):
    model = march(problem, features(5.0), slabs=slabs)
    assert problem.error(model) < most
    assert len(model.models) == (slabs if isinstance(slabs, int) else len(slabs) - 1)
    at_end = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    assert model(at_end).item() == pytest.approx(problem.exact(at_end).item(), abs=10 * most)


def test_slabs_reach_what_one_model_does_not():
    problem = pl.problems.advection(20.0)
    assert problem.error(march(problem, features(5.0), slabs=1)) > 1e-2


def test_a_slab_starts_from_the_one_before_and_not_from_the_solution():
    problem = pl.problems.heat_rod()
    seen = []

    def fit(slab, before):
        seen.append((slab, before))
        model = pl.models.random_features(40, domain=slab.domain, scale=2.0)
        return model if before is None else before  # the first: zero, where the solution is not

    march(problem, fit, slabs=2)
    (first, nothing), (second, before) = seen
    assert nothing is None
    assert (first.domain[-1], second.domain[-1]) == ((0.0, 0.5), (0.5, 1.0))
    x = torch.tensor([[0.3, 0.5]], dtype=torch.float64)
    initial = {c.name: c for c in second.conditions}["initial"]
    assert initial.where == ((1, 0.5),)
    assert initial.right_side(before, problem.exact, x).item() == 0.0
    assert [c for c in second.conditions if c.name == "boundary"] == [problem.conditions[0]]


def test_training_on_leaves_the_slab_before_as_it_was():
    values = []

    def fit(slab, before):
        model = before or pl.models.mlp((2, 4, 1), seed=0)
        pl.optim.LevenbergMarquardt(slab.residual(model, interior=40, boundary=20)).step()
        values.append(model(torch.zeros(1, 2, dtype=torch.float64)).item())
        return model

    slabs = march(pl.problems.heat_rod(), fit, slabs=3)
    assert [model(torch.zeros(1, 2, dtype=torch.float64)).item() for model in slabs.models] == values
    assert len(set(values)) == 3


def test_points_go_to_their_slab_in_their_order():
    constants = [torch.nn.Linear(2, 1, dtype=torch.float64) for _ in range(3)]
    for value, model in enumerate(constants):
        torch.nn.init.zeros_(model.weight)
        torch.nn.init.constant_(model.bias, value)
    t = torch.tensor([0.9, 0.1, 0.25, 0.5, 0.51, -1.0, 2.0], dtype=torch.float64)
    slabs = Slabs(constants, (0.0, 0.25, 0.5, 1.0))
    assert slabs(torch.stack([t, t], dim=1)).flatten().tolist() == [2, 0, 0, 1, 2, 0, 2]


def test_bad_input_is_refused():
    problem, fit = pl.problems.heat_rod(), features(5.0)
    with pytest.raises(ValueError, match="at least one slab, got 0"):
        march(problem, fit, slabs=0)
    with pytest.raises(ValueError, match="ascend from 0 to 1"):
        march(problem, fit, slabs=(0.0, 0.7, 0.5, 1.0))
    with pytest.raises(ValueError, match="ascend from 0 to 1"):
        march(problem, fit, slabs=(0.0, 0.5))
    with pytest.raises(ValueError, match="no condition at the first time"):
        march(replace(problem, conditions=problem.conditions[:1]), fit, slabs=2)
    with pytest.raises(ValueError, match="'boundary' of poisson_sines should be at the first time only"):
        march(pl.problems.poisson_sines(), fit, slabs=2)
    end = pl.problems.Condition("end", where=((1, 1.0),))
    with pytest.raises(ValueError, match="'end' of heat_rod should be at the first time only"):
        march(replace(problem, conditions=(*problem.conditions, end)), fit, slabs=2)
