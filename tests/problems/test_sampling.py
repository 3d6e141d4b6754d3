import itertools
import math

import numpy as np
import pytest
import scipy.integrate
import torch

import precondlab as pl
from precondlab.problems.sampling import box_points, clustered, evaluation_points, face_points, gathered, pool_points

BOX = ((-1.0, 2.0), (0.0, 0.5), (3.0, 4.0))
VOLUME = 1.5


@pytest.mark.parametrize("rule", ["midpoint", "gauss", "sobol", "uniform"])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_weights_sum_to_the_volume_and_points_lie_inside(rule, dim):
    x, w = box_points(BOX[:dim], 100, rule=rule)
    lower, upper = torch.tensor(BOX[:dim], dtype=torch.float64).T
    assert w.sum().item() == pytest.approx([3.0, 1.5, 1.5][dim - 1])
    assert ((x > lower) & (x < upper)).all()
    assert (w > 0).all()


def test_midpoints_are_exact_for_waves_and_gauss_for_polynomials():
    x, w = box_points(((-math.pi, math.pi),), 9)
    assert (w @ torch.cos(4 * x[:, 0]) ** 2).item() == pytest.approx(math.pi, rel=1e-14)
    x, w = box_points(((1.0, 3.0),), 4, rule="gauss")
    assert (w @ x[:, 0] ** 7).item() == pytest.approx((3**8 - 1) / 8, rel=1e-14)
    assert (w @ x[:, 0] ** 8).item() != pytest.approx((3**9 - 1) / 9, rel=1e-6)
    x, w = box_points(BOX, (1, 2, 3), rule="gauss")
    integral = (2**2 - 1) / 2 * 0.5**4 / 4 * (4**6 - 3**6) / 6
    assert (w @ (x[:, 0] * x[:, 1] ** 3 * x[:, 2] ** 5)).item() == pytest.approx(integral, rel=1e-14)


def test_sobol_points_integrate_better_than_random_ones():
    def error(rule, seed):
        x, w = box_points(((0.0, 1.0),) * 2, 1024, rule=rule, seed=seed)
        return abs((w @ (x[:, 0] * torch.exp(x[:, 1]))).item() - (math.e - 1) / 2)

    sobol, uniform = (max(error(rule, seed) for seed in range(8)) for rule in ("sobol", "uniform"))
    assert sobol < 1e-3 < uniform


@pytest.mark.parametrize("rule", ["sobol", "uniform"])
def test_seeds_repeat_and_differ(rule):
    first, again, other = (box_points(BOX, 64, rule=rule, seed=seed)[0] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_default_rules():
    assert torch.equal(box_points(BOX[:1], 50)[0], box_points(BOX[:1], 50, rule="midpoint")[0])
    assert torch.equal(box_points(BOX, 50)[0], box_points(BOX, 50, rule="sobol")[0])
    x, w = box_points(BOX[:2], (3, 4))
    assert len(x) == len(w) == 12
    assert x[:, 0].unique().tolist() == pytest.approx([-0.5, 0.5, 1.5])


@pytest.mark.parametrize(("count", "dim", "expected"), [(1000, 3, 1000), (999, 3, 729), (2000, 2, 1936), (7, 1, 7)])
def test_a_tensor_rule_takes_the_root_of_one_number(count, dim, expected):
    assert len(box_points(BOX[:dim], count, rule="midpoint")[0]) == expected


def test_end_points_have_weight_one():
    x, w = face_points(((-1.0, 1.0),), [(0, -1.0), (0, 1.0)], 400)
    assert x.tolist() == [[-1.0], [1.0]]
    assert w.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("dim", [2, 3])
def test_faces_share_points_by_area_and_weights_sum_to_it(dim):
    faces = [(axis, end) for axis in range(dim) for end in BOX[axis]]
    x, w = face_points(BOX[:dim], faces, 700)
    assert len(x) == 700
    for axis, end in faces:
        on = x[:, axis] == end
        area = math.prod(b - a for j, (a, b) in enumerate(BOX[:dim]) if j != axis)
        total = sum(math.prod(b - a for j, (a, b) in enumerate(BOX[:dim]) if j != k) for k, _ in faces)
        assert w[on].sum().item() == pytest.approx(area)
        assert on.sum().item() == pytest.approx(700 * area / total, abs=1)


def test_faces_integrate():
    domain = ((0.0, 2 * math.pi), (0.0, 1.0))
    x, w = face_points(domain, [(1, 0.0)], 20)
    assert (w @ torch.sin(3 * x[:, 0]) ** 2).item() == pytest.approx(math.pi)
    x, w = face_points(domain, [(0, 0.0), (1, 1.0)], (6, 4), rule="gauss")
    assert len(x) == 4 + 6
    assert (w @ (x[:, 1] ** 7)).item() == pytest.approx(1 / 8 + 2 * math.pi)


def test_opposite_faces_get_different_quasi_random_points():
    x, _ = face_points(BOX, [(0, -1.0), (0, 2.0)], 64)
    assert not torch.isclose(x[:32, 1:], x[32:, 1:]).any()


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_evaluation_points_are_nobody_elses(dim):
    domain = ((0.0, 1.0),) * dim
    x = evaluation_points(domain, 10_000)
    assert len(x) == pytest.approx(10_000, rel=0.08)
    assert ((x > 0) & (x < 1)).all()
    for count in (10, 100, 2000):
        training = box_points(domain, count)[0]
        assert torch.cdist(training, x).min() > 1e-9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: box_points(BOX, 0), "≥ 1"),
        (lambda: box_points(BOX, (2, 2)), "3 of them, one per axis"),
        (lambda: box_points(BOX, (2, 2, 2), rule="sobol"), "takes one number"),
        (lambda: box_points(BOX, 8, rule="simpson"), "midpoint"),
        (lambda: face_points(BOX, [(0, 5.0)], 8), "does not meet the box"),
        (lambda: face_points(BOX, [(0, -1.0)], (8, 8)), "3 entries"),
        (lambda: face_points(BOX, [(0, -1.0), (0, 2.0)], 1), "2 faces"),
    ],
)
def test_mistakes_are_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_clusters_draw_points_to_the_stated_density():
    box = ((-1.0, 2.0), (0.0, 1.0))
    centers = [(0.25, 0.01), (1.5, 0.1)]
    uniform, _ = box_points(box, 4096, rule="sobol")
    points = clustered(uniform, box, {0: centers})
    assert torch.equal(points[:, 1], uniform[:, 1])
    assert torch.equal(points[:, 0].argsort(), uniform[:, 0].argsort())
    edges = np.linspace(-1.0, 2.0, 31)
    mass = [
        scipy.integrate.quad(
            lambda x: sum(((x - c) ** 2 + w**2) ** -0.5 for c, w in centers), a, b, points=[0.25, 1.5]
        )[0]
        for a, b in itertools.pairwise(edges)
    ]
    counts = np.histogram(points[:, 0].numpy(), edges)[0]
    assert np.abs(counts / 4096 - np.array(mass) / sum(mass)).max() < 1e-3


@pytest.mark.parametrize("clusters", [{2: [(0.0, 0.1)]}, {0: []}, {0: [(0.0, 0.0)]}])
def test_clusters_that_make_no_sense_are_refused(clusters):
    with pytest.raises(ValueError, match="center, width > 0"):
        clustered(torch.zeros(3, 2), ((-1.0, 1.0), (0.0, 1.0)), clusters)


def test_a_residual_takes_clusters():
    problem = pl.problems.burgers()
    model = pl.models.mlp((2, 4, 1), seed=0)
    plain = problem.residual(model, interior=64, boundary=10)
    dense = problem.residual(model, interior=64, boundary=10, clusters={0: [(0.0, 0.01)]})
    expected = clustered(plain.points["interior"], problem.domain, {0: [(0.0, 0.01)]})
    assert torch.equal(dense.points["interior"], expected)
    assert torch.equal(dense.points["initial"], plain.points["initial"])
    assert (expected[:, 0].abs() < 0.05).sum() > 10


@pytest.mark.parametrize("rule", ["sobol", "uniform"])
@pytest.mark.parametrize("dim", [1, 2])
def test_gathered_points_integrate_without_bias(rule, dim):
    box = ((0.0, 2.0),) * dim
    sums = []
    for seed in range(400):
        x, w = pool_points(box, 16, rule=rule, seed=seed)
        x, w = gathered(x, w, torch.exp(-20 * (x - 0.3).square().sum(1)), 16, seed=seed)
        assert len(x.unique(dim=0)) == 16 and (w > 0).all()
        sums.append(torch.stack([w.sum(), w @ x.prod(1), w @ torch.exp(-x.sum(1))]))
    sums = torch.stack(sums)
    exact = torch.tensor([2.0**dim, 2.0**dim, (1 - math.exp(-2)) ** dim], dtype=torch.float64)
    assert ((sums.mean(0) - exact).abs() <= 4.5 * sums.std(0) / 20 + 1e-12).all()
    assert (sums.std(0) < 0.5 * exact).all()


def test_points_gather_where_the_values_are_large_and_keep_apart():
    x, w = pool_points(((0.0, 1.0),) * 2, 256)
    near = (x - 0.5).norm(dim=1) < 0.1  # 3.1 % of the area
    chosen, _ = gathered(x, w, near.double(), 256)
    assert ((chosen - 0.5).norm(dim=1) < 0.1).sum().item() == pytest.approx(near.sum().item(), abs=5)  # all are sure
    even, weights = gathered(x, w, torch.zeros(len(x)), 256)
    assert torch.allclose(weights, weights[0])
    cells = (even * 8).long()
    assert np.unique((cells[:, 0] * 8 + cells[:, 1]).numpy(), return_counts=True)[1].min() >= 2  # of 4 in each


def test_adaptive_residuals_estimate_the_same_loss_with_less_variance():
    problem, model = pl.problems.poisson(dim=1), pl.models.mlp((1, 8, 1), seed=0)
    with torch.no_grad():
        model[0].weight[0], model[0].bias[0] = 40.0, 0.0  # a layer at 0
        model[-1].weight[:] += 0.3

    def losses(**options):
        maps = [problem.residual(model, interior=24, rule="uniform", seed=k, **options) for k in range(60)]
        return torch.stack([r.value[r.codomain.slices["interior"]].square().sum() for r in maps])

    r = problem.residual(model, interior=40_000)
    exact = r.value[r.codomain.slices["interior"]].square().sum()
    plain, adaptive = losses(), losses(adaptive=True)
    assert (adaptive.mean() - exact).abs() < 4.5 * adaptive.std() / 60**0.5
    assert adaptive.std() < 0.6 * plain.std()
    first, again = (problem.residual(model, interior=24, seed=3, adaptive=True).points["interior"] for _ in range(2))
    assert torch.equal(first, again)
    single = problem.residual(model.float(), interior=24, adaptive=True)
    assert single.points["interior"].dtype == torch.float32


@pytest.mark.parametrize("options", [{"interior": (8, 8)}, {"interior": 64, "rule": "gauss"}])
def test_adaptive_points_of_a_tensor_rule_are_refused(options):
    with pytest.raises(ValueError, match="one number of points and the rule"):
        pl.problems.burgers().residual(pl.models.mlp((2, 4, 1)), **options, adaptive=True)


def test_gathering_needs_finite_values():
    x, w = pool_points(((0.0, 1.0),), 4)
    with pytest.raises(ValueError, match="expected finite values"):
        gathered(x, w, torch.full((32,), float("nan")), 4)
