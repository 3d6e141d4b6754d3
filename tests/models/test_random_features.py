"""Random features: what is drawn, what is trained, and how it is differentiated."""

import pytest
import torch

import precondlab as pl

BOX = ((0.0, 1.0), (-2.0, 6.0))


def test_values_are_the_sum_of_sines_in_scaled_coordinates():
    model = pl.models.random_features(20, domain=BOX, scale=(3.0, 5.0), seed=4)
    with torch.no_grad():
        model.outer.weight.normal_(generator=torch.Generator().manual_seed(0))
    draw = torch.rand(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    x = torch.rand(7, 2, dtype=torch.float64)
    scaled = x * 2 - 1  # points of [−1, 1]²
    points = torch.stack([(scaled[:, 0] + 1) / 2, 4 * scaled[:, 1] + 2], dim=1)
    angles = scaled @ ((2 * draw[:, :2] - 1) * torch.tensor([3.0, 5.0])).T + 2 * torch.pi * draw[:, 2]
    torch.testing.assert_close(model(points), angles.sin() @ model.outer.weight.T)


def test_only_the_coefficients_are_trained_by_jets():
    model = pl.models.random_features(20, domain=BOX)
    r = pl.problems.poisson(2).residual(model, interior=30, boundary=8)
    assert list(r.params) == ["outer.weight"]
    J = pl.Jacobian(r)
    assert J.route == "jets"
    pl.testing.check_operator(J)


def test_narrow_models_are_nested_in_wide_ones():
    wide, narrow = (pl.models.random_features(width, domain=BOX, seed=1) for width in (9, 4))
    assert torch.equal(wide.inner.weight[:4], narrow.inner.weight)
    assert torch.equal(wide.inner.bias[:4], narrow.inner.bias)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"scale": 0.0}, "positive scale"), ({"scale": (1.0,)}, "one per coordinate"), ({"width": 0}, "width ≥ 1")],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        pl.models.random_features(options.pop("width", 5), domain=BOX, **options)
