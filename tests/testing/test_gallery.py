"""Every matrix of the gallery has the spectrum it claims: exactly, by 40 digits, or by its own theory."""

import inspect

import mpmath
import numpy as np
import pytest
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


def forty_digits(operator):
    """Return the eigenvalues, or else the singular values, of the dense form, descending, in 40 digits."""
    with mpmath.workdps(40):
        matrix = mpmath.matrix(operator.dense().tolist())
        if operator.symmetric:
            values = mpmath.eigsy(matrix, eigvals_only=True)
        else:
            values = mpmath.svd_r(matrix, compute_uv=False)
        return np.array(sorted(map(float, values), reverse=True))


@pytest.mark.parametrize("name", gallery.families())
def test_the_spectrum_is_the_stated_one_to_forty_digits(name):
    known = small(name)
    exact, stated = forty_digits(known.operator), known.values
    assert stated.dtype == np.float64 and (np.diff(stated) <= 0).all()
    assert len(stated) == min(known.operator.shape)
    # a dense form that was multiplied out carries its own rounding; the numbers of the others are exact
    rounding = (
        0 if type(known.operator).__name__ in ("Diagonal", "Dense", "Banded", "Stretch") else 20 * EPS * known.norm
    )
    np.testing.assert_array_less(np.abs(exact - stated), known.rtol * np.abs(stated) + rounding + 1e-30 * known.norm)


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


def test_relative_accuracy_of_a_rotation():
    """What Ostrowski's theorem rests on: a rotation is orthogonal in 40 digits, dense or as reflections."""
    for n in (40, 600):
        Q = gallery.rotation(n, generator=torch.Generator().manual_seed(3))
        few = torch.eye(n, dtype=torch.float64)[:, :12]
        columns = (Q @ few).numpy().astype(np.longdouble)
        assert np.abs(columns.T @ columns - np.eye(12)).max() <= 100 * EPS
    assert "Reflections" in repr(Q)
