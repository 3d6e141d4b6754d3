"""Loss weights by the condition number."""

import numpy as np
import pytest
import torch

import precondlab as pl
from precondlab.operators import Dense, Gram, Jacobian


@pytest.fixture
def A():
    residual = pl.problems.poisson(dim=1).residual(pl.models.fourier(5), interior=40, weights={"boundary": 3.0})
    return Gram(Jacobian(residual))


def test_the_weight_found_is_the_minimum_over_a_fine_grid(A):
    found = pl.preconditioners.balance(A, "boundary", bounds=(0.1, 1e4))
    k = np.r_[0.0, np.tile(np.arange(1.0, 6.0), 2)]
    v = np.r_[1 / np.sqrt(2 * np.pi), (-1.0) ** np.arange(1, 6) / np.sqrt(np.pi), np.zeros(5)]
    kappas = [np.linalg.cond(np.diag(k**4) + 2 * w * np.outer(v, v)) for w in np.geomspace(20, 27, 141)]
    assert found.condition.estimate <= min(kappas) * (1 + 1e-9)
    assert found.condition.estimate == pytest.approx(min(kappas), rel=1e-4)
    assert found.weight == pytest.approx(np.geomspace(20, 27, 141)[np.argmin(kappas)], rel=5e-3)


def test_the_present_weight_is_irrelevant(A):
    first = pl.preconditioners.balance(A, "boundary", bounds=(0.1, 1e4))
    again = pl.preconditioners.balance(A.reweighted({"boundary": 50.0}), "boundary", bounds=(0.1, 1e4))
    assert again.weight == pytest.approx(first.weight, rel=1e-5)


def test_a_preconditioner_may_depend_on_the_weight(A):
    problem, model = pl.problems.poisson(dim=1), pl.models.fourier(5)
    fixed = pl.preconditioners.symbol(problem, model, kernel=20.0)
    one = pl.preconditioners.balance(A, "boundary", preconditioner=fixed, bounds=(1e-5, 1.0))
    two = pl.preconditioners.balance(A, "boundary", preconditioner=lambda weight: fixed, bounds=(1e-5, 1.0))
    assert one == two
    assert one.weight == pytest.approx(np.pi / 400, rel=0.05)  # λ = 2π/γ², both ends


def test_a_minimum_at_a_bound_and_an_unknown_block_are_refused(A):
    with pytest.raises(ValueError, match="upper bound"):
        pl.preconditioners.balance(A, "boundary", bounds=(1e-3, 1.0))
    with pytest.raises(ValueError, match="unknown blocks"):
        pl.preconditioners.balance(A, "bondary")
    with pytest.raises(TypeError, match="named blocks"):
        pl.preconditioners.balance(Gram(Dense(torch.eye(2))), "boundary")


@pytest.mark.parametrize("by", ["trace", "largest", "residual"])
def test_equalized_blocks_are_equally_strong(by):
    problem, model = pl.problems.helmholtz(4.0), pl.models.fourier(6)
    A = Gram(Jacobian(problem.residual(model, interior=60, weights={"interior": 2.0})))
    weights = pl.preconditioners.equalize(A, by=by)
    assert weights["interior"] == pytest.approx(2.0)
    strengths = []
    for name in weights:
        J = A.reweighted(weights).J.block(name)
        dense, r = J.dense(), J.value
        strengths.append(
            {
                "trace": dense.square().sum(),
                "largest": torch.linalg.matrix_norm(dense, 2) ** 2,
                "residual": (dense.T @ r).norm() ** 2 / r.norm() ** 2,
            }[by].item()
        )
    assert strengths == pytest.approx([strengths[0]] * len(strengths), rel=1e-2 if by == "largest" else 1e-9)


def test_weights_are_compared_by_kappa_and_none_removes_its_growth():
    model = pl.models.fourier(5)
    torch.nn.init.normal_(model.coefficients, generator=torch.Generator().manual_seed(0))
    A = Gram(Jacobian(pl.problems.poisson().residual(model, interior=40, weights={"boundary": 3.0})))
    rows = pl.preconditioners.compare_weights(A)
    assert {row.name for row in rows} == {"present", "equal trace", "equal largest", "equal residual"}
    kappas = [row.condition.estimate for row in rows]
    assert kappas == sorted(kappas) and kappas[0] >= 5**4  # κ ≥ K⁴ for every weight
    present = next(row for row in rows if row.name == "present")
    assert present.weights == {"interior": 1.0, "boundary": 3.0}
    assert present.condition.estimate == pytest.approx(pl.condition(A).estimate)


def test_a_residual_that_is_round_off_has_no_strength():
    """At u = 0 the ends of Poisson's problem are met to sin π ≈ 1e-16."""
    A = Gram(Jacobian(pl.problems.poisson().residual(pl.models.fourier(5), interior=40)))
    assert 0 < A.J.block("boundary").value.norm() < 1e-14
    with pytest.raises(ValueError, match=r"blocks \['boundary'\] have strength 0 by 'residual'"):
        pl.preconditioners.equalize(A, by="residual")
    assert {row.name for row in pl.preconditioners.compare_weights(A)} == {"equal trace", "equal largest", "present"}


def test_the_sweep_is_the_curve_of_kappa(A):
    found = pl.preconditioners.balance(A, "boundary", bounds=(0.1, 1e4))
    assert list(found.sweep) == sorted(found.sweep) and len(found.sweep) > 10
    for weight, kappa in list(found.sweep.items())[::4]:
        dense = A.reweighted({"boundary": weight}).J.dense().numpy()
        assert kappa == pytest.approx(np.linalg.cond(dense) ** 2, rel=1e-6)
    assert found.sweep[found.weight] == found.condition.lower == min(found.sweep.values())


def test_a_block_without_influence_cannot_be_equalized():
    a = torch.ones(2, dtype=torch.float64)
    r = pl.Map(lambda p: {"one": p["a"], "two": torch.ones(1, dtype=torch.float64) + 0 * p["a"][:1]}, {"a": a})
    with pytest.raises(ValueError, match="two"):
        pl.preconditioners.equalize(Gram(Jacobian(r)))
    with pytest.raises(ValueError, match="by should be"):
        pl.preconditioners.equalize(Gram(Jacobian(r)), by="size")
