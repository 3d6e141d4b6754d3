"""Sine networks: where they start, and how they are differentiated."""

import pytest
import torch

import precondlab as pl

BOX = ((0.0, 1.0), (-2.0, 6.0))


def test_the_first_layer_is_that_of_random_features():
    model = pl.models.siren((20,), domain=BOX, scale=(3.0, 5.0), seed=4)
    features = pl.models.random_features(20, domain=BOX, scale=(3.0, 5.0), seed=4)
    with torch.no_grad():
        features.outer.weight.copy_(model[2].weight)
    x = torch.rand(7, 2, dtype=torch.float64)
    torch.testing.assert_close(model(x), features(x))
    assert all(p.requires_grad for p in model.parameters())


def test_it_is_differentiated_by_jets():
    model = pl.models.siren((6, 5), domain=BOX, scale=2.0)
    J = pl.Jacobian(pl.problems.poisson(2).residual(model, interior=30, boundary=8))
    assert J.route == "jets"
    pl.testing.check_operator(J)


def test_depth_keeps_the_arguments_of_the_sines_of_unit_variance():
    model = pl.models.siren((300, 300, 300), domain=BOX, scale=20.0)
    x = torch.rand(400, 2, dtype=torch.float64) * torch.tensor([1.0, 8.0]) - torch.tensor([0.0, 2.0])
    for layer in (2, 4):
        weights_only = model[:layer](x) @ model[layer].weight.T
        assert weights_only.var().item() == pytest.approx(1.0, rel=0.2)


def test_seeds_repeat_and_differ():
    one, same, other = (pl.models.siren((4, 3), domain=BOX, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["2.weight"], other["2.weight"])


@pytest.mark.parametrize(
    ("hidden", "options", "message"),
    [((), {}, "at least one hidden layer"), ((5, 0), {}, "width ≥ 1"), ((5,), {"scale": -1.0}, "positive scale")],
)
def test_bad_arguments_are_refused(hidden, options, message):
    with pytest.raises(ValueError, match=message):
        pl.models.siren(hidden, domain=BOX, **options)
