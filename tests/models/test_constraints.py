import math

import pytest
import torch

from precondlab import models

PI = math.pi


def test_the_box_mask_has_its_closed_form():
    x = torch.linspace(-PI, PI, 9, dtype=torch.float64)[:, None]
    mask = models.box_mask(((-PI, PI),))
    torch.testing.assert_close(mask(x), (PI**2 - x**2) / PI**2)


def test_the_box_mask_vanishes_on_chosen_faces_only():
    mask = models.box_mask(((0.0, 2.0), None))
    x = torch.tensor([[0.0, 5.0], [2.0, 5.0], [1.0, 0.0], [0.5, 7.0]])
    assert mask(x).flatten().tolist() == [0.0, 0.0, 1.0, 0.75]


def test_masked_models_take_the_lift_on_the_boundary_for_all_parameters():
    for seed in range(3):
        model = models.masked(
            models.mlp((2, 5, 1), seed=seed), models.box_mask(((0.0, 1.0),) * 2), lift=lambda x: x[:, :1] ** 2
        )
        x = torch.tensor([[0.0, 0.3], [1.0, 0.3], [0.4, 0.0], [0.4, 1.0]], dtype=torch.float64)
        torch.testing.assert_close(model(x), x[:, :1] ** 2, rtol=0, atol=0)
        inside = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
        torch.testing.assert_close(model(inside), model.model(inside) + 0.25)


def test_periodic_models_repeat_in_the_chosen_axes():
    model = models.periodic(models.mlp((3, 5, 1), seed=0), (2.0, None))
    x = torch.rand(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x + torch.tensor([2.0, 0.0])), model(x))
    assert (model(x + torch.tensor([1.0, 0.0])) - model(x)).abs().max() > 1e-3
    assert (model(x + torch.tensor([0.0, 2.0])) - model(x)).abs().max() > 1e-3


def test_the_embedding_is_cosine_then_sine():
    model = models.periodic(torch.nn.Identity(), (4.0, None))
    x = torch.tensor([[1.0, 9.0], [2.0, 8.0]])
    torch.testing.assert_close(model(x), torch.tensor([[0.0, 1.0, 9.0], [-1.0, 0.0, 8.0]]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.box_mask(((1.0, 0.0),)), "a < b"),
        (lambda: models.box_mask(((0.0, 1.0),))(torch.zeros(2, 2)), r"\[N, 1\], got \(2, 2\)"),
        (lambda: models.periodic(torch.nn.Identity(), (0.0,)), "positive"),
        (lambda: models.periodic(torch.nn.Identity(), (1.0,))(torch.zeros(2, 2)), r"\[N, 1\], got \(2, 2\)"),
    ],
)
def test_mistakes_are_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()
