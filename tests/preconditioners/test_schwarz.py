"""Schwarz: bounds, what the coarse space is for, contrast 1e6, and subsets that do not fit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import gmres

import precondlab as pl
from precondlab.errors import NotPositive
from precondlab.krylov import cg
from precondlab.operators import Dense, Gram
from precondlab.preconditioners.schwarz import schwarz, subdomains
from tests.preconditioners.spectra import kappa, positive, power

seeds = st.integers(0, 2**31)


def diffusion(shape, contrast=1.0, seed=0):
    """Finite differences for ``−∇·(a∇u)``, a log-uniform on cells, u = 0 outside; and their points."""
    dim = len(shape)
    cells = [k + 2 for k in shape]
    a = contrast ** torch.rand(cells, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    n = torch.Size(shape).numel()
    index = torch.full(cells, -1)
    index[tuple([slice(1, -1)] * dim)] = torch.arange(n).reshape(shape)
    A = torch.zeros(n, n, dtype=torch.float64)
    for axis in range(dim):
        head, tail = index.narrow(axis, 0, cells[axis] - 1), index.narrow(axis, 1, cells[axis] - 1)
        flow = 2 / (1 / a.narrow(axis, 0, cells[axis] - 1) + 1 / a.narrow(axis, 1, cells[axis] - 1))
        for i, j, c in zip(head.flatten(), tail.flatten(), flow.flatten(), strict=True):
            for p, q in ((i, j), (j, i)):
                if p >= 0:
                    A[p, p] += c
                    if q >= 0:
                        A[p, q] -= c
    points = torch.cartesian_prod(*[torch.arange(k).double() for k in shape]).reshape(n, dim)
    return Dense(A, positive=True), points


def steps(A, M):
    """Conjugate gradient steps to a relative residual of 1e-8."""
    b = torch.randn(A.shape[0], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return cg(A, A @ b, M=M, rtol=1e-8).check().steps


@pytest.mark.parametrize(("contrast", "growth"), [(1.0, 1.5), (1e6, 2.0)])
def test_steps_are_flat_in_the_number_of_subdomains_with_a_coarse_space_only(contrast, growth):
    A, x = diffusion((512,), contrast)
    none, energy = (
        [steps(A, schwarz(A, subdomains(x, (p,), overlap=4 * p / 512), coarse=coarse)) for p in (8, 16, 32, 64)]
        for coarse in (None, "energy")
    )
    assert none[3] > 3.5 * none[0]
    assert max(energy) <= growth * energy[0]


def test_the_energy_coarse_space_follows_a_contrast_of_a_million_where_constants_do_not():
    A, x = diffusion((256,), 1e6)
    none, constants, energy = (
        [kappa(schwarz(A, subdomains(x, (p,), overlap=4 * p / 256), coarse=coarse), A) for p in (8, 16, 32)]
        for coarse in (None, "constants", "energy")
    )
    assert max(energy) < 60
    assert min(none[2], constants[2]) > 2 * max(energy)


def test_two_dimensions():
    A, x = diffusion((20, 20))
    none, energy = (
        [kappa(schwarz(A, subdomains(x, (p, p), overlap=p / 20), coarse=coarse), A) for p in (2, 5)]
        for coarse in (None, "energy")
    )
    assert none[1] > 1.3 * none[0]
    assert energy[1] < min(energy[0], none[1] / 2)


@pytest.mark.parametrize("seed", [0, 1])
def test_two_dimensions_and_a_contrast_of_a_million(seed):
    """Every cell has a coefficient of its own: one function per subset does not do, local modes do."""
    A, x = diffusion((24, 24), 1e6, seed)
    found = {}
    for coarse in (None, "geneo"):
        made = [schwarz(A, subdomains(x, (p, p), overlap=p / 24), coarse=coarse) for p in (4, 8)]
        found[coarse] = [kappa(M, A) for M in made], [steps(A, M) for M in made]
    (none, slow), (geneo, fast) = found[None], found["geneo"]
    assert max(geneo) < 30 < 60 < min(none)
    assert fast[1] <= 1.5 * fast[0] and fast[1] < 0.7 * slow[1]


@given(seed=seeds, n=st.integers(4, 20), data=st.data())
def test_local_modes_bound_the_condition_number_whatever_the_jumps(seed, n, data):
    """κ ≤ (1 + k₀)(2 + (2k₀ + 1)k₁/τ) with k₀, k₁ at most the number of subsets: Dolean, Jolivet & Nataf (2015), §7."""
    generator = torch.Generator().manual_seed(seed)
    weights = 10 ** (12 * torch.rand(n, n, generator=generator, dtype=torch.float64) - 6)
    weights = torch.triu(weights * (torch.rand(n, n, generator=generator) < 0.4), 1)
    weights = weights + weights.T
    A = Dense(torch.diag(weights.sum(1) + 1e-3) - weights, positive=True)
    cuts = sorted(data.draw(st.sets(st.integers(1, n - 1), min_size=1, max_size=3)))
    width = data.draw(st.integers(0, 3))
    subsets = [range(max(a - width, 0), min(b + width, n)) for a, b in zip([0, *cuts], [*cuts, n], strict=True)]
    k = len(subsets)
    M = schwarz(A, subsets, coarse="geneo")
    pl.testing.check_operator(M, rtol=1e-6)
    assert kappa(M, A) <= (1 + k) * (2 + k * (2 * k + 1) / 0.25)


@given(seed=seeds, n=st.integers(2, 24), data=st.data(), coarse=st.sampled_from([None, "constants", "energy", "geneo"]))
def test_the_largest_eigenvalue_is_bounded_by_the_colors(seed, n, data, coarse):
    A = positive(power(n, 2), seed)
    cuts = sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=3)))
    width = data.draw(st.integers(0, 3))
    subsets = [range(max(a - width, 0), min(b + width, n)) for a, b in zip([0, *cuts], [*cuts, n], strict=True)]
    M = schwarz(A, subsets, coarse=coarse)
    L = torch.linalg.cholesky(A.matrix)
    values = torch.linalg.eigvalsh(L.T @ M.dense() @ L)
    assert values[0] > 0
    assert values[-1] <= (len(subsets) + (coarse is not None)) * (1 + 1e-6)
    pl.testing.check_operator(M, rtol=1e-9)


@given(seed=seeds, n=st.integers(1, 20))
def test_one_subset_is_the_inverse(seed, n):
    A = positive(power(n, 3), seed)
    for M in (schwarz(A, [slice(None)], coarse=None), schwarz(A, [slice(None)], coarse=None, restricted=True)):
        torch.testing.assert_close(M.dense() @ A.matrix, torch.eye(n).double(), rtol=0, atol=1e-7)
    assert A.num_matvecs == 2 * n


@given(seed=seeds)
def test_it_is_the_sum_of_dense_inverses(seed):
    B = torch.randn(14, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    subsets, Z = [[0, 3, 4, 5], [1, 2, 3], [5, 6, 7, 8]], torch.eye(9)[:, :2].double() + 1
    matrix = B.T @ B
    expected = Z @ torch.linalg.inv(Z.T @ matrix @ Z) @ Z.T
    weighted = expected.clone()
    count = torch.bincount(torch.cat([torch.tensor(subset) for subset in subsets]))
    for subset in map(torch.tensor, subsets):
        local = torch.linalg.inv(matrix[subset][:, subset] + 0.1 * torch.eye(len(subset)))
        expected[subset[:, None], subset] += local
        weighted[subset[:, None], subset] += local / count[subset][:, None]
    for A in (Gram(Dense(B)), Dense(matrix, positive=True)):
        M = schwarz(A, subsets, coarse=Z, damping=0.1)
        torch.testing.assert_close(M.dense(), expected, rtol=1e-6, atol=1e-8)
        assert M.positive
        R = schwarz(A, subsets, coarse=Z, damping=0.1, restricted=True)
        torch.testing.assert_close(R.dense(), weighted, rtol=1e-6, atol=1e-8)
        assert not R.positive
        pl.testing.check_operator(R)


def test_restricted_schwarz_is_for_gmres_and_takes_fewer_steps():
    A, x = diffusion((20, 20))
    subsets, found = subdomains(x, (4, 4), overlap=0.4), {}
    b = A @ torch.ones(400).double()
    for restricted in (False, True):
        count, M = [], schwarz(A, subsets, restricted=restricted)
        gmres(A, b.numpy(), M=M, rtol=1e-8, restart=200, callback=count.append, callback_type="pr_norm")
        found[restricted] = len(count)
    assert found[True] < found[False]


@given(seed=seeds, p=st.integers(1, 4), q=st.integers(1, 4), overlap=st.floats(0, 1))
def test_subdomains_cover_the_points(seed, p, q, overlap):
    points = torch.rand(60, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    boxes = subdomains(points, (p, q), overlap=overlap)
    assert len(torch.cat(boxes).unique()) == 60
    assert len(boxes) <= p * q
    for box in boxes:
        assert (points[box].amax(0) - points[box].amin(0) <= (1 + 2 * overlap) / torch.tensor([p, q]) + 1e-6).all()


@pytest.mark.parametrize("coarse", ["constants", "energy"])
def test_equal_subsets_share_a_coarse_function(coarse):
    A = positive(power(6, 1))
    assert repr(schwarz(A, [slice(None), slice(None)], coarse=coarse)) == "Schwarz[6×6, 2 subsets, 1 coarse]"


def test_bad_input_is_refused():
    A = positive(power(6, 1))
    with pytest.raises(ValueError, match="miss 2 of 6 unknowns, first unknown 4"):
        schwarz(A, [[0, 1, 2], [2, 3]])
    with pytest.raises(ValueError, match="miss 6 of 6"):
        schwarz(A, [])
    with pytest.raises(ValueError, match="distinct integers from 0 to 5"):
        schwarz(A, [[0, 1, 2, 3, 4, 6]])
    with pytest.raises(ValueError, match="got 'none'"):
        schwarz(A, [slice(None)], coarse="none")
    with pytest.raises(ValueError, match=r"coarse functions \[6 q\]"):
        schwarz(A, [slice(None)], coarse=torch.ones(5, 1))
    with pytest.raises(NotPositive, match="remove dependent ones"):
        schwarz(A, [slice(None)], coarse=torch.ones(6, 2).double())
    with pytest.raises(NotPositive, match="block 1 of"):
        schwarz(Dense(torch.diag(torch.tensor([1.0, 1.0, -1.0]))), [[0, 1], [1, 2]])
    with pytest.raises(ValueError, match="finite damping"):
        schwarz(A, [slice(None)], damping=-1.0)
    with pytest.raises(ValueError, match="d counts"):
        subdomains(torch.ones(4, 2), (2,))
    with pytest.raises(ValueError, match="overlap ≥ 0"):
        subdomains(torch.ones(4, 1), (2,), overlap=-0.1)
    assert repr(schwarz(A, [slice(0, 4), slice(3, 6)])) == "Schwarz[6×6, 2 subsets, 2 coarse]"


def test_a_singular_operator_with_damping_has_its_energy_coarse_space():
    problem = pl.problems.poisson()
    model = pl.models.random_features(20, domain=problem.domain, scale=3.0)
    K = pl.Kernel(pl.Jacobian(problem.residual(model, interior=60)))  # rank 20 of 62
    subsets = [range(0, 25), range(20, 45), range(40, 62)]
    M = schwarz(K, subsets, damping=1e-6)
    assert torch.linalg.eigvalsh(M.dense()).min() > 0
