"""Every matrix of the gallery has the spectrum it claims, in 40 digits, and meets the contract of operators."""

import inspect

import numpy as np
import pytest
import scipy.linalg
import torch

from precondlab.testing import check_operator, gallery

EPS = np.finfo(float).eps
SMALL = {"neumann": 4, "rosser": None, "kahan": 20, "hilbert": 6, "lauchli": 6}  # sizes at which 40 digits are cheap
SHAPES = {"jacobian": (9, 6), "rank_deficient": (9, 6, 4), "row_scaled": (5, 8), "column_scaled": (8, 5)}
SHAPES |= {"dead_units": (8, 6, 4), "noise_floor": (9, 6)}


def small(name, generator=None):
    """Return the matrix of that name, small."""
    factory = gallery.families()[name]
    options = {"generator": generator} if "generator" in inspect.signature(factory).parameters else {}
    if name in SHAPES:
        m, n, *rank = SHAPES[name]
        return factory(m, n, **options, **({"rank": rank[0]} if rank else {}))
    if name == "rosser":
        return factory()
    parameters = inspect.signature(factory).parameters
    options |= {"rank": 4} if "rank" in parameters else {"negative": 3} if "negative" in parameters else {}
    return factory(SMALL.get(name, 9), **options)


@pytest.mark.parametrize("name", gallery.families())
@pytest.mark.parametrize("seed", [None, 0])
def test_the_spectrum_is_the_stated_one_to_forty_digits(name, seed, forty_digits):
    known = small(name, None if seed is None else torch.Generator().manual_seed(seed))
    exact, stated = forty_digits(known.operator), known.values
    assert stated.dtype == np.float64 and (np.diff(stated) <= 0).all()
    assert len(stated) == min(known.operator.shape)
    assert (np.abs(exact - stated) <= known.rtol * np.abs(stated) + 1e-35 * known.norm).all()
    assert known.rtol <= 1e-8


@pytest.mark.parametrize("name", ["strakos", "noise_floor", "rank_deficient", "lauchli", "row_scaled"])
def test_the_square_keeps_the_factor_and_has_the_squared_values(name, forty_digits):
    known = small(name, torch.Generator().manual_seed(1))
    squared = known.gram()
    assert squared.operator.sqrt is not None and len(squared.eigenvalues) == known.operator.shape[1]
    exact = forty_digits(squared.operator)
    assert (np.abs(exact - squared.values) <= squared.rtol * squared.values + 1e-35 * squared.norm).all()


def test_what_follows_from_the_values():
    known = gallery.rank_deficient(9, 6, rank=4)
    assert (known.rank, known.norm, known.kappa) == (4, 1.0, np.inf)
    assert known.kappa_on_range == pytest.approx(10)
    with pytest.raises(ValueError, match="is not symmetric; use"):
        _ = known.eigenvalues
    indefinite = gallery.indefinite(5, negative=2)
    assert (indefinite.eigenvalues[-1], indefinite.singular_values[-1]) == (-1.0, pytest.approx(0.1))
    assert indefinite.kappa == pytest.approx(10)


def test_figures_of_the_literature():
    assert gallery.wilkinson().eigenvalues[0] == pytest.approx(10.746194182903, abs=1e-12)
    assert gallery.hilbert(8).kappa == pytest.approx(1.5257575e10, rel=1e-5)
    assert gallery.kahan().singular_values[-1] == pytest.approx(4.0e-15, rel=0.02)
    assert gallery.pascal().kappa == pytest.approx(8.76e11, rel=1e-3)
    assert gallery.lehmer().kappa == pytest.approx(372, rel=1e-2)
    matrix = gallery.kahan().operator.dense().numpy()
    assert abs(scipy.linalg.qr(matrix, pivoting=True, mode="r")[0][-1, -1]) > 1e10 * gallery.kahan().values[-1]


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="1 ≤ n ≤ 10"):
        gallery.hilbert(12)
    with pytest.raises(ValueError, match="m ≤ n"):
        gallery.row_scaled(9, 5)
    with pytest.raises(ValueError, match="m ≥ n"):
        gallery.column_scaled(5, 9)


def test_large_rotations_form_no_matrix(forty_digits):
    known = gallery.strakos(20_000, generator=torch.Generator().manual_seed(0))
    v = torch.ones(20_000, 1, dtype=torch.float64)
    moment = (v.T @ known.operator.forward(known.operator.forward(v))).item()
    assert moment == pytest.approx(torch.linalg.vector_norm(known.operator.forward(v)).item() ** 2, rel=1e-10)
    Q = known.operator.factors[0]
    assert (Q.H @ (Q @ v[:, 0]) - v[:, 0]).abs().max() <= 100 * EPS
    assert known.operator.sqrt is not None


def rotated():
    return [name for name, f in gallery.families().items() if "generator" in inspect.signature(f).parameters]


@pytest.mark.parametrize(
    ("name", "seed"),
    [(name, None) for name in gallery.families()] + [(name, seed) for name in rotated() for seed in (0, 7)],
)
def test_default_sizes_agree_with_dense_algebra_and_meet_the_contract(name, seed):
    factory = gallery.families()[name]
    known = factory() if seed is None else factory(generator=torch.Generator().manual_seed(seed))
    assert known.name == name and known.trap and name in repr(known)
    check_operator(known.operator)
    matrix = known.operator.dense()
    values = torch.linalg.eigvalsh(matrix).flip(0) if known.operator.symmetric else torch.linalg.svdvals(matrix)
    error = np.abs(values.numpy() - known.values)
    assert error.max() <= 100 * EPS * known.norm * np.sqrt(max(matrix.shape))
    if seed is not None:
        assert torch.count_nonzero(matrix.abs() > 1e-30) > matrix.shape[0] + 1
