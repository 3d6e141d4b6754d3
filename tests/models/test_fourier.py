import math

import pytest
import torch

from precondlab import models
from precondlab.problems.sampling import box_points

PI = math.pi
BOXES = [
    (4, ((-PI, PI),)),
    (3, ((0.5, 3.0),)),
    ((2, 3), ((0, 2 * PI), (0, 1))),
    ((1, 2, 1), ((0, 1), (-1, 1), (2, 5))),
]


@pytest.mark.parametrize(("frequencies", "domain"), BOXES)
def test_features_are_orthonormal_on_their_box(frequencies, domain):
    model = models.fourier(frequencies, domain=domain)
    x, w = box_points(domain, (12,) * len(domain))  # exact for trigonometric degree below 12
    F = model.features(x)
    torch.testing.assert_close(F.T @ (w[:, None] * F), torch.eye(F.shape[1], dtype=torch.float64))


@pytest.mark.parametrize(("frequencies", "domain"), BOXES)
def test_features_are_the_waves_their_attributes_describe(frequencies, domain):
    model = models.fourier(frequencies, domain=domain)
    x = box_points(domain, 50, rule="uniform")[0]
    waves = model.amplitudes * torch.cos(x @ model.wavevectors.T + model.phases)
    torch.testing.assert_close(model.features(x), waves)


def test_the_default_is_the_basis_of_the_paper_in_order():
    x = torch.linspace(-PI, PI, 7, dtype=torch.float64)[:, None]
    k = torch.arange(1, 4)
    expected = torch.cat(
        [
            torch.full_like(x, 1 / math.sqrt(2 * PI)),
            torch.cos(k * x) / math.sqrt(PI),
            torch.sin(k * x) / math.sqrt(PI),
        ],
        1,
    )
    torch.testing.assert_close(models.fourier(3).features(x), expected)


def test_one_wavevector_of_each_pair():
    model = models.fourier((2, 3), domain=((0, 2 * PI), (0, 1)))
    k = [tuple(v) for v in (model.wavevectors / torch.tensor([1.0, 2 * PI])).round().int().tolist()]
    assert len(k) == 5 * 7
    assert {*k, *((-a, -b) for a, b in k)} == {(a, b) for a in range(-2, 3) for b in range(-3, 4)}
    assert k.count((0, 0)) == 1
    assert k.count((1, -3)) == 2


@pytest.mark.parametrize("boundary", [None, "zero"])
def test_the_value_is_the_sum_over_scaled_features(boundary):
    size = len(models.fourier(5, boundary=boundary).coefficients)
    scale = torch.linspace(0.5, 2.0, size)
    model = models.fourier(5, boundary=boundary, scale=scale)
    theta = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model.load_state_dict({**model.state_dict(), "coefficients": theta})
    x = box_points(((-PI, PI),), 20, rule="uniform")[0]
    plain = models.fourier(5, boundary=boundary).features(x)
    torch.testing.assert_close(model.features(x), plain * scale)
    torch.testing.assert_close(model(x), (plain * scale) @ theta[:, None])


def test_the_zero_boundary_basis():
    x = box_points(((-PI, PI),), 20, rule="uniform")[0]
    k = torch.arange(1, 5)
    expected = torch.cat([torch.cos(k * x) - (-1.0) ** k, torch.sin(k * x)], 1) / math.sqrt(PI)
    model = models.fourier(4, boundary="zero")
    torch.testing.assert_close(model.features(x), expected)
    assert model.features(torch.tensor([[-PI], [PI]], dtype=torch.float64)).abs().max() < 1e-15


def test_coefficients_are_the_only_parameter_and_start_at_zero():
    model = models.fourier(3, dtype=torch.float32)
    assert [(name, p.dtype) for name, p in model.named_parameters()] == [("coefficients", torch.float32)]
    assert model(torch.ones(2, 1)).tolist() == [[0.0], [0.0]]
    assert model.double()(torch.ones(2, 1).double()).dtype == torch.float64


def test_a_series_without_waves_is_constant():
    model = models.fourier(0)
    torch.nn.init.ones_(model.coefficients)
    assert model(torch.rand(3, 1).double()).flatten().tolist() == pytest.approx([1 / math.sqrt(2 * PI)] * 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frequencies": (2, 2)}, "one per interval of the domain"),
        ({"frequencies": -1}, "integer ≥ 0"),
        ({"frequencies": 2, "domain": ((1, 0),)}, "a < b"),
        ({"frequencies": 2, "scale": [1.0, 2.0]}, "each of the 5 features"),
        ({"frequencies": 2, "domain": ((0, 1),), "boundary": "zero"}, "box_mask"),
        ({"frequencies": 2, "boundary": "one"}, "'zero'"),
    ],
)
def test_mistakes_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.fourier(**arguments)


def test_points_of_the_wrong_width_are_refused():
    with pytest.raises(ValueError, match=r"expected points of shape \[N, 1\], got \(5, 2\)"):
        models.fourier(2)(torch.zeros(5, 2))
