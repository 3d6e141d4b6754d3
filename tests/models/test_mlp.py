import pickle

import pytest
import torch
from torch import nn

from precondlab import models


def test_the_network_is_the_composition_of_its_layers():
    model = models.mlp((2, 3, 1), seed=0)
    x = torch.rand(4, 2, dtype=torch.float64)
    W, b, V, c = model.parameters()
    torch.testing.assert_close(model(x), torch.tanh(x @ W.T + b) @ V.T + c)
    assert type(model) is nn.Sequential


@pytest.mark.parametrize("make", [models.mlp, models.fourier_mlp])
def test_a_seed_repeats_and_leaves_the_global_state_alone(make):
    arguments = ((1, 4, 1),) if make is models.mlp else (3, (4,))
    state = torch.get_rng_state()
    first, second, other = (list(make(*arguments, seed=seed).parameters()) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(first, second, strict=True))
    assert not any(torch.equal(p, q) for p, q in zip(first, other, strict=True))


def test_initialization_is_that_of_torch():
    model = models.mlp((1, 12, 5, 1), seed=7)
    torch.manual_seed(7)
    layers = [nn.Linear(a, b, dtype=torch.float64) for a, b in ((1, 12), (12, 5), (5, 1))]
    expected = [p for layer in layers for p in layer.parameters()]
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), expected, strict=True))


def test_without_a_seed_weights_follow_the_global_state():
    torch.manual_seed(0)
    first = models.mlp((1, 4, 1))
    torch.manual_seed(0)
    assert torch.equal(first[0].weight, models.mlp((1, 4, 1))[0].weight)


def test_fourier_mlp_feeds_scaled_features_to_the_network():
    scale = torch.linspace(1, 2, 7)
    model = models.fourier_mlp(3, (4,), activation="gelu", scale=scale, seed=0)
    x = torch.rand(5, 1, dtype=torch.float64)
    features = models.fourier(3).features(x) * scale
    expected = model[3](torch.nn.functional.gelu(model[1](features)))
    torch.testing.assert_close(model(x), expected)
    assert sum(p.numel() for p in models.fourier_mlp(12, (5,), activation="gelu").parameters()) == 136


def test_networks_survive_pickling_with_their_check():
    model = pickle.loads(pickle.dumps(models.mlp((2, 3, 1), seed=0)))
    with pytest.raises(ValueError, match=r"\[N, 2\]"):
        model(torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.mlp((3,)), "at least two widths"),
        (lambda: models.mlp((3, 0, 1)), "≥ 1"),
        (lambda: models.mlp((1, 2, 1), activation="rely"), "one of"),
        (
            lambda: models.mlp((1, 2, 1))(torch.zeros(4, 2)),
            r"expected points of shape \[N, 1\], got \(4, 2\)",
        ),
        (lambda: models.fourier_mlp(2, (3,))(torch.zeros(4, 2)), r"expected points of shape \[N, 1\]"),
    ],
)
def test_mistakes_are_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_domain_is_seen_as_the_unit_box():
    box = ((0.0, 0.5), (-3.0, 7.0))
    on_box, on_unit = (models.mlp((2, 6, 1), domain=domain, seed=2) for domain in (box, None))
    unit = torch.rand(9, 2, dtype=torch.float64) * 2 - 1
    points = unit * torch.tensor([0.25, 5.0]) + torch.tensor([0.25, 2.0])
    torch.testing.assert_close(on_box(points), on_unit(unit))


@pytest.mark.parametrize("domain", [((0.0, 1.0),), ((0.0, 1.0), (1.0, 1.0))])
def test_a_domain_that_does_not_fit_is_refused(domain):
    with pytest.raises(ValueError, match="2 intervals"):
        models.mlp((2, 6, 1), domain=domain)
