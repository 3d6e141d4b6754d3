"""Nyström and pivoted Cholesky: exactness, invariance, published bounds, and input they refuse."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator, cg

import precondlab as pl
from precondlab.errors import Breakdown, NotConverged, NotPositive, NotSymmetric
from precondlab.operators import Dense, Diagonal, Gram, Kernel
from precondlab.space import Space
from tests.preconditioners.spectra import haar, kappa, positive, power

nystrom = pl.preconditioners.nystrom
nystrom_adaptive = pl.preconditioners.nystrom_adaptive
pivoted_cholesky = pl.preconditioners.pivoted_cholesky
seeds = st.integers(0, 2**31)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@given(seed=seeds, n=st.integers(1, 40), exponent=st.integers(0, 4))
def test_at_full_rank_it_is_the_inverse(seed, n, exponent):
    A = positive(power(n, exponent), seed)
    for M in (nystrom(A, rank=n, generator=seeded(seed)), pivoted_cholesky(A, rank=n, generator=seeded(seed))):
        assert kappa(M, A) == pytest.approx(1, abs=1e-13 * n**2 * n**exponent)
        torch.testing.assert_close(
            M.dense() @ A.dense(), torch.eye(n).double(), rtol=0, atol=1e-13 * n ** (2 + exponent)
        )


@given(seed=seeds, n=st.integers(2, 30), data=st.data(), damping=st.sampled_from([0.0, 1e-8, 1e-2]))
def test_it_meets_the_contract_and_counts_its_products(seed, n, data, damping):
    A, rank = positive(power(n, 2), seed), data.draw(st.integers(1, n))
    for make in (nystrom, pivoted_cholesky):
        M = make(A, rank=rank, damping=damping, generator=seeded(seed))
        pl.testing.check_operator(M)
        assert M.positive
        assert M.setup_matvecs == rank
        assert torch.linalg.eigvalsh(M.dense())[0] > 0
    assert A.num_matvecs == 2 * rank


@given(seed=seeds, rank=st.integers(1, 12))
def test_nystrom_follows_an_orthogonal_change_of_basis(seed, rank):
    class Drawn(Space):
        def random(self, *columns, generator=None):
            return self.drawn

    A, Q, test = positive(power(12, 3), seed), haar(12, seed + 1), Space(12).random(rank, generator=seeded(seed))
    rotated = Dense(Q @ A.matrix @ Q.T, positive=True)
    A.domain, rotated.domain = Drawn(12), Drawn(12)
    A.domain.drawn, rotated.domain.drawn = test, Q @ test
    M, N = nystrom(A, rank=rank, damping=1e-4), nystrom(rotated, rank=rank, damping=1e-4)
    torch.testing.assert_close(Q @ M.dense() @ Q.T, N.dense(), rtol=1e-7, atol=1e-7 * 1e4)


@given(seed=seeds, factor=st.sampled_from([1e-100, 1e-5, 1e5, 1e100]))
def test_nystrom_scales_with_the_operator(seed, factor):
    A = positive(power(20, 2), seed)
    M = nystrom(A, rank=8, generator=seeded(seed)).dense()
    N = nystrom(Dense(factor * A.matrix), rank=8, generator=seeded(seed)).dense()
    torch.testing.assert_close(factor * N, M, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("values", [power(120, 2), 0.8 ** torch.arange(120.0).double(), power(120, 1)])
def test_nystrom_keeps_the_bound_of_the_literature(values):
    """E κ ≤ 28 at rank 2⌈1.5 d⌉ + 1; the mean of 20 draws stays far below (about 3)."""
    A, damping = positive(values), 1e-2
    rank = 2 * math.ceil(1.5 * (values / (values + damping)).sum().item()) + 1
    shifted = Dense(A.matrix + damping * torch.eye(120).double(), positive=True)
    found = [kappa(nystrom(A, rank=min(rank, 120), damping=damping, generator=seeded(s)), shifted) for s in range(20)]
    assert sum(found) / 20 <= 28


@given(seed=seeds, rank=st.integers(1, 30))
def test_nystrom_keeps_the_deterministic_bound(seed, rank):
    """κ ≤ (λ̂_r + μ + ‖A − Â‖)/μ, Frangella et al., Proposition 5.3."""
    A, damping = positive(power(30, 2), seed), 1e-3
    M = nystrom(A, rank=rank, damping=damping, generator=seeded(seed))
    values, U = 1 / M.operator.values - damping, M.operator.U
    error = torch.linalg.matrix_norm(A.matrix - U @ torch.diag(values) @ U.T, 2)
    shifted = Dense(A.matrix + damping * torch.eye(30).double(), positive=True)
    assert kappa(M, shifted) <= (values.min() + damping + error) / damping * (1 + 1e-8)


def test_condition_takes_it_and_sees_the_same_number():
    A = positive(power(60, 3))
    M = nystrom(A, rank=25)
    assert pl.condition(A, preconditioner=M).estimate == pytest.approx(kappa(M, A), rel=1e-6)
    assert kappa(M, A) < 0.01 * 60**3
    J = Dense(torch.randn(80, 40, generator=seeded(0), dtype=torch.float64) * power(40, 2))
    assert pl.condition(Gram(J), preconditioner=nystrom(Gram(J), rank=40)).estimate == pytest.approx(1, abs=1e-6)


def test_scipy_takes_it_as_M():
    A, iterations = positive(power(200, 3)), []
    b = torch.ones(200).double().numpy()
    for M in (None, nystrom(A, rank=60)):
        count = []
        _, info = cg(A, b, M=M, rtol=1e-10, maxiter=5000, callback=lambda _, count=count: count.append(1))
        assert info == 0
        iterations.append(len(count))
    assert iterations[1] < iterations[0] / 4


@given(seed=seeds)
def test_adaptive_rank_reaches_its_target(seed):
    A, damping = positive(power(100, 3), seed), 1e-4
    M = nystrom_adaptive(A, damping=damping, condition=5.0, rank=4, generator=seeded(seed))
    shifted = Dense(A.matrix + damping * torch.eye(100).double(), positive=True)
    assert kappa(M, shifted) <= 5.0 * 1.2  # the power iteration sees the error from below
    assert M.setup_matvecs == A.num_matvecs


def test_adaptive_rank_says_when_it_gives_up_and_stops_at_n():
    A = positive(power(50, 1))
    with pytest.warns(NotConverged, match="rank 8 bounds κ by"):
        nystrom_adaptive(A, damping=1e-6, max_rank=8, rank=4)
    M = nystrom_adaptive(A, damping=1e-6, rank=20)
    shifted = Dense(A.matrix + 1e-6 * torch.eye(50).double(), positive=True)
    assert kappa(M, shifted) == pytest.approx(1, abs=1e-8)


@given(seed=seeds, rank=st.integers(1, 29))
def test_pivoted_cholesky_interpolates_and_keeps_its_bound(seed, rank):
    """κ ≤ 1 + tr(K − FFᵀ)/μ; the factor reproduces the columns of its pivots."""
    K, damping = positive(power(30, 2), seed), 1e-3
    M = pivoted_cholesky(K, rank=rank, damping=damping, generator=seeded(seed))
    left = K.matrix - (torch.linalg.inv(M.dense()) - damping * torch.eye(30).double())
    assert (left.norm(dim=0) < 1e-9).sum() >= rank
    assert torch.linalg.eigvalsh(left)[0] > -1e-9
    shifted = Dense(K.matrix + damping * torch.eye(30).double(), positive=True)
    assert kappa(M, shifted) <= 1 + left.trace() / damping + 1e-6


def test_pivoted_cholesky_of_a_smooth_kernel():
    x = torch.linspace(0, 1, 150, dtype=torch.float64)
    K = Dense(torch.exp(-((x[:, None] - x) ** 2) / 0.05), positive=True)
    shifted = Dense(K.matrix + 1e-6 * torch.eye(150).double(), positive=True)
    M = pivoted_cholesky(K, rank=25, damping=1e-6)
    assert kappa(M, shifted) < 3 < 1e6 < pl.condition(shifted).estimate
    assert pivoted_cholesky(K, rank=150).operator.U.shape[1] < 60  # stops where K is exhausted


def test_an_estimated_diagonal_only_guides_the_pivots():
    J = Dense(torch.randn(30, 50, generator=seeded(0), dtype=torch.float64))
    exact = Kernel(J).dense().diagonal()
    rough = exact * (1 + 0.5 * torch.rand(30, generator=seeded(1)).double())
    M = pivoted_cholesky(Kernel(J), rank=30, damping=0.0, diagonal=rough)
    torch.testing.assert_close(M.dense() @ Kernel(J).dense(), torch.eye(30).double(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128])
def test_other_dtypes(dtype):
    B = torch.randn(20, 8, generator=seeded(0), dtype=dtype)
    A = Gram(Dense(B))
    for M in (nystrom(A, rank=8, damping=1e-2), pivoted_cholesky(A, rank=8, damping=1e-2)):
        pl.testing.check_operator(M)
        expected = torch.linalg.inv(A.dense() + 1e-2 * torch.eye(8))
        torch.testing.assert_close(M.dense(), expected, rtol=1e-3, atol=1e-3)


def test_a_singular_operator_is_resolved_to_its_rank():
    J = Dense(torch.randn(6, 20, generator=seeded(0), dtype=torch.float64))
    for M in (nystrom(Gram(J), rank=15), pivoted_cholesky(Gram(J), rank=15)):
        assert M.operator.U.shape[1] == 6
        found = pl.condition(Gram(J), preconditioner=M)
        assert not found.status.ok
        assert found.resolved == pytest.approx(1, abs=1e-6)
        assert M.dense().isfinite().all()


@pytest.mark.parametrize("make", [nystrom, pivoted_cholesky])
def test_bad_input_is_refused(make):
    eye = torch.eye(6).double()
    with pytest.raises(ValueError, match="rank should be between 1 and 6, got 7"):
        make(Dense(eye), rank=7)
    with pytest.raises(ValueError, match="rank should be between 1 and 6, got 0"):
        make(Dense(eye), rank=0)
    with pytest.raises(ValueError, match="finite damping ≥ 0"):
        make(Dense(eye), rank=2, damping=-1e-3)
    with pytest.raises(ValueError, match="finite damping ≥ 0"):
        make(Dense(eye), rank=2, damping=math.nan)
    with pytest.raises(ValueError, match="is zero"):
        make(Dense(0 * eye), rank=2, damping=1.0)
    with pytest.raises(ValueError, match=r"square operator.*pl\.Gram"):
        make(Dense(eye[:4]), rank=2)
    with pytest.raises(Breakdown, match="not finite"):
        make(Diagonal(torch.tensor([1.0, math.nan, 1.0])), rank=2)
    with pytest.raises(TypeError, match="wrap a matrix"):
        make(eye.numpy(), rank=2)
    assert make(aslinearoperator(eye.numpy()), rank=2).shape == (6, 6)


def test_an_indefinite_or_nonsymmetric_operator_is_noticed():
    indefinite = Dense(torch.diag(torch.tensor([1.0, 1.0, -1.0, -1.0])).double(), symmetric=True)
    with pytest.raises(NotPositive, match="not positive"):
        nystrom(indefinite, rank=4, damping=1e-3)
    with pytest.raises(NotPositive, match="not positive"):
        pivoted_cholesky(Dense(torch.tensor([[1.0, 3.0], [3.0, 1.0]])), rank=2)
    with pytest.raises(NotSymmetric, match="not symmetric"):
        nystrom(Dense(torch.triu(torch.ones(4, 4)).double()), rank=4)
    with pytest.raises(ValueError, match="damping > 0 and condition > 1"):
        nystrom_adaptive(Dense(torch.eye(20)), damping=0.0)
    with pytest.raises(ValueError, match=r"shape \(4,\), got \(3,\)"):
        pivoted_cholesky(Dense(torch.eye(4)), rank=2, diagonal=torch.ones(3))


def test_the_repr_says_what_it_is():
    A = positive(power(30, 2))
    assert repr(nystrom(A, rank=10, damping=1e-6)) == "Nystrom[30×30, rank 10, μ=1e-06]"
    assert repr(pivoted_cholesky(A, rank=4, damping=0.5)) == "PivotedCholesky[30×30, rank 4, μ=0.5]"
