"""Spline networks against SciPy's B-splines, and their closed-form derivatives."""

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

import precondlab as pl
from precondlab.models.kan import BSplines, CardinalSpline

BOX = ((0.0, 1.0), (-2.0, 6.0))


@pytest.mark.parametrize("degree", [1, 2, 3, 5])
def test_splines_and_derivatives_are_those_of_scipy(degree):
    t = torch.linspace(-1.3, degree + 2.4, 97, dtype=torch.float64)
    element = BSpline.basis_element(np.arange(degree + 2.0), extrapolate=False)
    found = CardinalSpline(degree).derivatives(t, degree + 2)
    assert len(found) == degree + 3
    for r, values in enumerate(found[: degree + 1]):
        expected = torch.tensor(np.nan_to_num(element.derivative(r)(t.numpy()) if r else element(t.numpy())))
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-12)
    assert not torch.stack(found[degree + 1 :]).any()


def test_the_basis_sums_to_one_on_the_box():
    x = torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x * torch.tensor([1.0, 8.0]) - torch.tensor([0.0, 2.0])
    basis = BSplines(BOX, 4, 3, torch.float64)(x).reshape(50, 2, 7)
    torch.testing.assert_close(basis.sum(2), torch.ones(50, 2, dtype=torch.float64))
    assert (basis >= 0).all() and ((basis > 0).sum(2) <= 4).all()


def test_one_layer_represents_a_sum_of_splines():
    model = pl.models.kan((1, 1), domain=((0.0, 2.0),), cells=4, degree=3)
    layer, knots = model[0], np.arange(-3.0, 8.0) / 2
    with torch.no_grad():
        layer.base.weight.zero_()
        layer.base.bias.zero_()
    x = np.linspace(0, 1.999, 40)
    expected = BSpline(knots, layer.spline.weight[0].detach().numpy(), 3)(x)
    torch.testing.assert_close(model(torch.tensor(x)[:, None])[:, 0].detach(), torch.tensor(expected))


def test_it_is_differentiated_by_jets():
    problem = pl.problems.poisson(2)
    model = pl.models.kan((2, 3, 1), domain=problem.domain, cells=3)
    r = problem.residual(model, interior=20, boundary=8)
    J = pl.Jacobian(r)
    assert J.route == "jets"
    pl.testing.check_operator(J)
    dense, graph = J.dense(), pl.Jacobian(r, route="graph").dense()
    torch.testing.assert_close(dense, graph, rtol=1e-9, atol=1e-11 * graph.abs().max().item())


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [((1,), {}, "two or more widths"), ((1, 3, 1), {"cells": 0}, "≥ 1"), ((2, 3, 1), {}, "give domain=")],
)
def test_bad_arguments_are_refused(sizes, options, message):
    with pytest.raises(ValueError, match=message):
        pl.models.kan(sizes, **options)


def test_seeds_repeat_and_leave_the_global_state():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same, other = (pl.models.kan((1, 3, 1), seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["0.spline.weight"], other["0.spline.weight"])
