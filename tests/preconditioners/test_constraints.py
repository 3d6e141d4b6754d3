"""Soft against hard boundary values: closed forms, dense matrices, models of one's own, bad input."""

import json
import math

import numpy as np
import pytest
import torch

import precondlab as pl
from precondlab.models import box_mask, fourier, masked, mlp
from precondlab.preconditioners import compare_constraints

MASK = {5: (17.0770, 40.6511), 10: (18.5835, 42.0860), 20: (20.6371, 86.1937), 40: (22.5596, 316.951)}
BEST = {5: (2057.42, 46.5), 10: (31566, 193.7), 20: (499865, 799), 40: (7.97747e6, 3260)}


@pytest.mark.parametrize("K", [5, 10, 20, 40])
def test_the_numbers_of_the_theory_for_poisson(K):
    found = compare_constraints(pl.problems.poisson(), fourier(K), interior=6 * K + 60)
    assert [row.name for row in found.rows] == ["soft, λ = 1", "soft, best λ", "hard, basis", "hard, mask"]
    basis, mask, best = found["hard, basis"], found["hard, mask"], found["soft, best λ"]
    assert basis.plain.kappa / K**4 == pytest.approx(1, abs=1e-9)
    assert basis.preconditioned.kappa == pytest.approx(1, abs=1e-9)
    assert mask.plain.kappa / K**4 == pytest.approx(MASK[K][0], rel=1e-5)
    assert mask.preconditioned.kappa == pytest.approx(MASK[K][1], rel=1e-5)
    assert best.plain.kappa == pytest.approx(BEST[K][0], rel=1e-5)
    assert 2 * best.plain.weight == pytest.approx(BEST[K][1], rel=5e-3)  # both ends are summed here
    k = np.r_[0.0, np.tile(np.arange(1.0, K + 1), 2)]
    v = np.r_[1 / np.sqrt(2 * np.pi), (-1.0) ** np.arange(1, K + 1) / np.sqrt(np.pi), np.zeros(K)]
    P = np.r_[1.0, 1 / k[1:] ** 2]
    soft = np.diag(k**4) + 2 * np.outer(v, v)
    assert found["soft, λ = 1"].plain.kappa == pytest.approx(np.linalg.cond(soft), rel=1e-6)
    assert found["soft, λ = 1"].preconditioned.kappa == pytest.approx(np.linalg.cond(P[:, None] * soft * P), rel=1e-6)
    optimum = best.preconditioned
    for factor in (0.98, 1.0, 1.02):
        soft = np.diag(k**4) + 2 * factor * optimum.weight * np.outer(v, v)
        assert optimum.kappa <= np.linalg.cond(P[:, None] * soft * P) * (1 + 1e-9)
    assert mask.plain.steps(1e-6) == pytest.approx(mask.plain.kappa * math.log(1e6))


def test_two_dimensions_and_a_model_of_ones_own():
    problem = pl.problems.poisson(2)
    series = fourier(2, domain=problem.domain)
    squared = masked(series, lambda x: box_mask(problem.domain)(x) ** 2)
    found = compare_constraints(problem, series, interior=(20, 20), boundary=(20, 20), hard={"squared": squared})
    assert [row.name for row in found.rows] == ["soft, λ = 1", "soft, best λ", "hard, mask", "squared"]
    assert found["squared"].preconditioned is None
    for name, power in (("hard, mask", 1), ("squared", 2)):
        x, w = pl.problems.sampling.box_points(problem.domain, (20, 20), rule="gauss")
        mask = lambda x, power=power: box_mask(problem.domain)(x) ** power  # noqa: E731
        rows = torch.func.vmap(
            lambda p, mask=mask: torch.einsum(
                "nii->n", torch.func.hessian(lambda y: (mask(y[None]) * series.features(y[None]))[0])(p)
            )
        )(x)
        J = (w.sqrt()[:, None] * rows).detach().numpy()
        assert found[name].plain.kappa == pytest.approx(np.linalg.cond(J) ** 2, rel=1e-6)


def test_a_network_has_no_best_weight_and_no_symbol():
    found = compare_constraints(pl.problems.poisson(), mlp((1, 12, 5, 1), seed=0), interior=100)
    assert found["soft, best λ"].plain is None
    assert all(row.preconditioned is None for row in found.rows)
    assert "numerically singular" in str(found)
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["rows"][1] == {"name": "soft, best λ", "plain": None, "preconditioned": None}


def test_only_the_faces_that_are_prescribed_are_masked():
    problem = pl.problems.heat_rod()
    series = fourier(1, domain=problem.domain)
    found = compare_constraints(problem, series, interior=(12, 12), boundary=(12, 12))
    model = masked(series, box_mask((problem.domain[0], None)))
    J = pl.Jacobian(problem.residual(model, interior=(12, 12), boundary=(12, 12), rule="gauss"))
    assert not J.block("boundary").dense().any() and J.block("initial").dense().any()
    assert found["hard, mask"].plain.kappa == pytest.approx(np.linalg.cond(J.dense().numpy()) ** 2, rel=1e-6)
    with pytest.raises(KeyError, match="basis"):
        found["hard, basis"]


def test_problems_without_prescribed_faces_are_refused():
    with pytest.raises(ValueError, match="on both faces of an axis"):
        compare_constraints(pl.problems.helmholtz(), fourier(2), interior=40)


def test_the_table_has_a_line_per_row():
    lines = str(compare_constraints(pl.problems.poisson(), fourier(3), interior=60)).splitlines()
    assert [line[:12].strip() for line in lines[1:-1]] == ["soft, λ = 1", "soft, best λ", "hard, basis", "hard, mask"]
    assert "81 " in lines[3] and lines[-1].startswith("steps of gradient descent to 1e-06")
