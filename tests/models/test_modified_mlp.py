"""The modified MLP against its formula, and its closed-form derivatives."""

import pytest
import torch

import precondlab as pl


def test_it_is_what_the_formula_says():
    model, x = pl.models.modified_mlp((2, 4, 4, 1), seed=3), torch.randn(5, 2, dtype=torch.float64)
    u, v = (torch.tanh(x @ layer.weight.T + layer.bias) for layer in (model.first, model.second))
    h = x
    for layer in model.hidden:
        z = torch.tanh(h @ layer.weight.T + layer.bias)
        h = (1 - z) * u + z * v
    torch.testing.assert_close(model(x), h @ model.last.weight.T + model.last.bias)


def test_it_is_differentiated_by_jets():
    r = pl.problems.poisson(2).residual(pl.models.modified_mlp((2, 4, 4, 1)), interior=20, boundary=8)
    J = pl.Jacobian(r)
    assert J.route == "jets"
    pl.testing.check_operator(J)
    graph = pl.Jacobian(r, route="graph").dense()
    torch.testing.assert_close(J.dense(), graph, rtol=1e-9, atol=1e-11 * graph.abs().max().item())


@pytest.mark.parametrize("sizes", [(2, 1), (2, 4, 5, 1), (2, 0, 1)])
def test_bad_widths_are_refused(sizes):
    with pytest.raises(ValueError, match="equal hidden widths"):
        pl.models.modified_mlp(sizes)


def test_seeds_repeat_and_leave_the_global_state():
    before = torch.get_rng_state()
    one, same, other = (pl.models.modified_mlp((1, 3, 1), seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["first.weight"], other["first.weight"])
