"""Green's operators on the residual against SciPy's transforms, closed forms, and condition numbers that stay flat."""

import itertools
import math

import numpy as np
import pytest
import scipy.fft
import torch

import precondlab as pl
from precondlab.operators import Gram, Jacobian
from precondlab.preconditioners import greens_operator

BOX = ((0.0, 2.0), (-1.0, 0.5))


class Sines(torch.nn.Module):
    """``Σ θ_kl sin(kπx) sin(lπy)``, k, l ≤ K, on the unit square."""

    def __init__(self, K):
        super().__init__()
        self.waves = math.pi * torch.tensor(list(itertools.product(range(1, K + 1), repeat=2)), dtype=torch.float64)
        self.theta = torch.nn.Parameter(torch.zeros(len(self.waves), dtype=torch.float64))

    def forward(self, x):
        return torch.sin(x[:, None, :] * self.waves).prod(2) @ self.theta[:, None]


def grid_map(shape, *, domain=BOX, **options):
    problem = pl.problems.Problem(
        "box",
        domain[: len(shape)],
        pl.Symbol.laplacian(len(shape)),
        (pl.problems.Condition("boundary", ((0, domain[0][0]),)),),
        exact=lambda x: x[:, :1],
    )
    model = pl.models.mlp((len(shape), 3, 1), seed=0)
    return problem.residual(model, interior=shape, boundary=4, **options)


def transform(n, kind):
    """Return the orthonormal transform ``[n n]`` and the wave numbers over π/L, from SciPy."""
    unit = np.eye(n)
    if kind == "dirichlet":
        return torch.tensor(scipy.fft.dst(unit, type=2, axis=0, norm="ortho")), torch.arange(1, n + 1).double()
    if kind == "neumann":
        return torch.tensor(scipy.fft.dct(unit, type=2, axis=0, norm="ortho")), torch.arange(n).double()
    return torch.tensor(scipy.fft.fft(unit, axis=0, norm="ortho")), 2 * torch.tensor(scipy.fft.fftfreq(n, 1 / n)).abs()


@pytest.mark.parametrize("kinds", list(itertools.product(["dirichlet", "neumann", "periodic"], repeat=2)), ids=str)
@pytest.mark.parametrize("order", [2.0, -1.0])
def test_it_is_diagonal_in_the_transform_of_scipy(kinds, order):
    r, lengths = grid_map((5, 4)), [b - a for a, b in BOX]
    S = greens_operator(r, boundary=kinds, order=order, shift=0.3)
    (T, k), (U, m) = (transform(n, kind) for n, kind in zip((5, 4), kinds, strict=True))
    T, U = T + 0j, U + 0j
    symbol = 0.3 + (math.pi / lengths[0] * k[:, None]) ** 2 + (math.pi / lengths[1] * m) ** 2
    W = torch.kron(T, U)
    expected = (W.mH @ (symbol.flatten()[:, None] ** (-order / 2) * W)).real
    found = S.dense()
    torch.testing.assert_close(found[:20, :20], expected, rtol=0, atol=1e-12 * expected.abs().max().item())
    torch.testing.assert_close(found[20:, 20:], torch.eye(len(found) - 20, dtype=torch.float64))
    assert not found[:20, 20:].any()
    pl.testing.check_operator(S)
    torch.testing.assert_close((S.sqrt @ S.sqrt.H).dense(), found)
    torch.testing.assert_close((S.inverse @ S).dense(), torch.eye(len(found), dtype=torch.float64))


def interior(problem, model, points, **options):
    """Return J of the equation, and S."""
    r = problem.residual(model, interior=points)
    J, S = Jacobian(r).block("interior"), greens_operator(r, **options)
    return J, pl.operators.Dense(S.dense()[: J.shape[0], : J.shape[0]], positive=True)


def test_kappa_of_poisson_does_not_depend_on_the_number_of_frequencies():
    plain, shifted, exact = [], [], []
    for K in (4, 8, 16, 32):
        model = pl.models.fourier(K, boundary="zero")
        J, S = interior(pl.problems.poisson(), model, 4 * K + 8, boundary="periodic")
        plain.append(pl.condition(Gram(J)).check().estimate)
        shifted.append(pl.condition(Gram(S @ J)).check().estimate)
        J, S = interior(pl.problems.poisson(), model, 4 * K + 8, boundary="periodic", shift=1e-6)
        exact.append(pl.condition(Gram(S @ J)).check().estimate)
    assert plain == pytest.approx([K**4 for K in (4, 8, 16, 32)], rel=1e-6)
    # k⁴ becomes k⁴/(1 + k²)², from ¼ to 1
    assert shifted == pytest.approx([4 / (1 + 1 / K**2) ** 2 for K in (4, 8, 16, 32)], rel=1e-6)
    assert exact == pytest.approx([1.0] * 4, rel=1e-5)


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_sines_on_a_square(order):
    for K in (2, 4, 6):
        J, S = interior(pl.problems.poisson_sines(2), Sines(K), (2 * K + 3,) * 2, order=order, shift=0.0)
        assert pl.condition(Gram(J)).check().estimate == pytest.approx(K**4, rel=1e-6)
        assert pl.condition(Gram(S @ J)).check().estimate == pytest.approx(K ** (4 - 2 * order), rel=1e-6)


def test_the_loss_is_a_sobolev_norm():
    r = grid_map((64,))
    x = r.points["interior"][:, 0]
    S = greens_operator(r, boundary="neumann", order=3.0, shift=2.0)
    f = torch.cat([torch.cos(3 * math.pi / 2 * x), x.new_zeros(1)])
    expected = (2 + (3 * math.pi / 2) ** 2) ** -3 * f.square().sum()
    torch.testing.assert_close((S @ f).square().sum(), expected)


def test_residuals_of_several_columns_and_single_precision():
    x = ((torch.arange(6) + 0.5) / 6)[:, None]
    r = pl.Map(
        {"interior": lambda p, x: p["a"] * torch.cat([x, x**2], 1)}, {"a": torch.ones(1)}, points={"interior": x}
    )
    S = greens_operator(r, block="interior")
    V = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    one = greens_operator(
        pl.Map({"interior": lambda p, x: p["a"] * x[:, 0]}, {"a": torch.ones(1)}, points={"interior": x})
    )
    torch.testing.assert_close((S @ V.flatten()).reshape(6, 2), one @ V)
    assert S.domain.dtype == torch.float32


def test_what_is_no_grid_is_refused():
    message = "no uniform tensor grid"
    with pytest.raises(ValueError, match=message):
        greens_operator(grid_map((8,), rule="uniform"))
    with pytest.raises(ValueError, match="take the midpoint rule"):
        greens_operator(grid_map((8,), rule="gauss"))
    moved = {"interior": grid_map((3, 3)).points["interior"].flip(0)}
    rows = {"interior": lambda p, x: p["a"] * x[:, 0]}
    params = {"a": torch.ones(1, dtype=torch.float64)}
    with pytest.raises(ValueError, match=message):
        greens_operator(pl.Map(rows, params, points=moved))
    uneven = torch.linspace(1, 2, 9, dtype=torch.float64)
    weighted = pl.Map(rows, params, points={"interior": moved["interior"].flip(0)}, quadrature={"interior": uneven})
    with pytest.raises(ValueError, match="quadrature weights of 'interior' differ"):
        greens_operator(weighted)


def test_mistakes_are_told():
    r = grid_map((4, 4))
    with pytest.raises(ValueError, match=r"expected a pl\.Map given block by block"):
        greens_operator(pl.Map(lambda p: p["a"], {"a": torch.ones(2)}))
    with pytest.raises(ValueError, match="no block 'inside'"):
        greens_operator(r, block="inside")
    with pytest.raises(ValueError, match="boundary is one of"):
        greens_operator(r, boundary=("dirichlet",))
    with pytest.raises(ValueError, match="constants need shift > 0"):
        greens_operator(r, boundary=("periodic", "neumann"), shift=0.0)
