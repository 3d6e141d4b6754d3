"""Jacobi and block Jacobi: exact where the entries are known, safe estimates, bounds, bad input."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

import precondlab as pl
from precondlab.errors import NotPositive
from precondlab.operators import BlockDiagonal, Dense, Diagonal, Gram, Identity, Kernel, LowRank
from precondlab.space import Space
from tests.preconditioners.spectra import kappa, positive, power

jacobi, block_jacobi = pl.preconditioners.jacobi, pl.preconditioners.block_jacobi
seeds = st.integers(0, 2**31)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def scaled(n, seed, decades=6):
    """A well-conditioned matrix between badly scaled diagonals."""
    D = 10 ** (decades * torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return Dense(D[:, None] * positive(torch.linspace(1, 2, n), seed).matrix * D, positive=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_entries_that_are_known_take_no_product(dtype):
    B, s = normal(5, 4, dtype=dtype), normal(4).abs()
    square = Dense(B.mH @ B, positive=True)
    space = Space(4, dtype=dtype)
    for A in (
        square,
        Gram(Dense(B)),
        Kernel(Dense(B.mH)),
        Diagonal(s.to(dtype)),
        Identity(space),
        LowRank(B.mH, normal(5).abs().to(dtype)),
        3.0 * square + Identity(space) / 2,
        BlockDiagonal(square, Diagonal(s.to(dtype))),
    ):
        M = jacobi(A)
        assert M.positive and M.operator.domain.dtype == dtype
        assert M.setup_matvecs == A.num_matvecs == 0
        torch.testing.assert_close(M.dense() @ torch.diag(A.dense().diagonal()), torch.eye(len(M.dense())).to(dtype))
        pl.testing.check_operator(M)


@given(seed=seeds, n=st.integers(1, 30))
def test_jacobi_is_within_a_factor_n_of_the_best_diagonal(seed, n):
    """van der Sluis: κ(MA) ≤ n · κ(DAD) for the scaling D that makes the matrix well conditioned."""
    A = scaled(n, seed)
    assert kappa(jacobi(A), A) <= 2 * n * (1 + 1e-6)


@given(seed=seeds)
def test_products_and_entries_give_the_same_jacobi(seed):
    A = scaled(12, seed)
    black_box = pl.as_operator(aslinearoperator(A.matrix.numpy()))
    M = jacobi(black_box)
    torch.testing.assert_close(M.dense(), jacobi(A).dense())
    assert M.setup_matvecs == black_box.num_matvecs == 12


@given(seed=seeds)
def test_estimates_are_positive_and_as_accurate_as_stated(seed):
    generator = torch.Generator().manual_seed(seed)
    A = scaled(300, seed)
    root = torch.linalg.cholesky(A.matrix)
    exact = A.matrix.diagonal()
    with_factor = jacobi(Gram(Dense(root.T) @ Identity(Space(300))), num_matvecs=200, generator=generator)
    ratio = 1 / (with_factor.operator.entries * exact)
    assert (ratio - 1).abs().max() < 7 * math.sqrt(2 / 200)  # χ² with 200 degrees of freedom, 300 entries
    without = jacobi(pl.as_operator(aslinearoperator(A.matrix.numpy())), num_matvecs=200, generator=generator)
    assert (without.operator.entries > 0).all()
    assert repr(without) == "Jacobi[300×300, estimated by xdiag]"
    assert with_factor.setup_matvecs == 100 < without.setup_matvecs == 200
    assert kappa(with_factor, A) < 10 < 1e8 < pl.condition(A).lower


def test_an_estimate_is_never_below_its_error():
    """All of A but one entry is rank one: the other diagonal entries drown in the noise of the probes."""
    v = torch.ones(400).double()
    v[1:] = 1e-6
    M = jacobi(pl.as_operator(aslinearoperator(torch.outer(v, v).numpy())), num_matvecs=50)
    assert M.dense().isfinite().all()
    assert (M.operator.entries > 0).all()


@given(seed=seeds, rank=st.integers(1, 20))
def test_xdiag_is_exact_below_its_rank_and_otherwise_positive(seed, rank):
    B = normal(rank, 200, seed=seed) * 10 ** normal(200, seed=seed + 1)
    exact = (B**2).sum(0)
    for A in (Gram(Dense(B) @ Identity(Space(200))), pl.as_operator(aslinearoperator((B.T @ B).numpy()))):
        for num_matvecs in (2 * rank + 2, 2 * rank - 1):
            if num_matvecs < 4:
                continue
            M = jacobi(A, estimate="xdiag", num_matvecs=num_matvecs, damping=1e-30, generator=seeded(seed))
            entries = M.operator.entries
            assert (entries > 0).all() and entries.isfinite().all()
            if num_matvecs > 2 * rank:
                assert repr(M) == "Jacobi[200×200, estimated by xdiag, μ=1e-30]" and M.setup_matvecs == num_matvecs
                assert ((1 / entries - exact).abs() <= 1e-10 * exact.max()).all()


def test_xdiag_beats_the_factor_where_the_spectrum_falls():
    """Ten large eigenvalues in random directions and a tail of 1e-4: few probes see nearly all of the diagonal."""
    Q = torch.linalg.qr(normal(300, 300)).Q
    S = Q * torch.cat([torch.ones(10), torch.full((290,), 1e-2)]).double()
    A, exact, error = Gram(Dense(S.T) @ Identity(Space(300))), (S**2).sum(1), {}
    for estimate in ("factor", "xdiag"):
        M = jacobi(A, estimate=estimate, num_matvecs=60)
        error[estimate] = (1 / (M.operator.entries * exact) - 1).abs().max().item()
    assert error["xdiag"] < 0.1 < error["factor"]


def test_an_unknown_without_influence_is_refused_by_every_estimate():
    B = normal(5, 300)
    B[:, 7] = 0
    for estimate in ("factor", "xdiag"):
        with pytest.raises(NotPositive, match=r"1 of 300 diagonal entries .* the first is entry 7"):
            jacobi(Gram(Dense(B) @ Identity(Space(300))), estimate=estimate, num_matvecs=50)


@given(seed=seeds, sizes=st.lists(st.integers(1, 8), min_size=1, max_size=4))
def test_blocks_that_are_everything_give_the_inverse(seed, sizes):
    parts = [positive(power(k, 3), seed + k).matrix for k in sizes]
    A = Dense(torch.block_diag(*parts), positive=True)
    order = torch.randperm(A.shape[0], generator=torch.Generator().manual_seed(seed))
    shuffled = Dense(A.matrix[order][:, order], positive=True)
    place, blocks, start = order.argsort(), [], 0
    for k in sizes:
        blocks.append(place[start : start + k].tolist())
        start += k
    M = block_jacobi(shuffled, blocks)
    torch.testing.assert_close(M.dense() @ shuffled.matrix, torch.eye(start).double(), rtol=0, atol=1e-9)
    assert M.setup_matvecs == start
    pl.testing.check_operator(M)


@given(seed=seeds, p=st.integers(1, 8), q=st.integers(1, 8))
def test_two_blocks_reach_the_angle_between_them(seed, p, q):
    """κ(MA) = (1 + γ)/(1 − γ), γ the largest singular value of the scaled coupling."""
    A = positive(power(p + q, 2), seed)
    L1, L2 = (torch.linalg.cholesky(block) for block in (A.matrix[:p, :p], A.matrix[p:, p:]))
    coupling = torch.linalg.solve(L1, A.matrix[:p, p:])
    gamma = torch.linalg.svdvals(torch.linalg.solve(L2, coupling.T))[0].item()
    assert kappa(block_jacobi(A, [slice(0, p), slice(p, None)]), A) == pytest.approx(
        (1 + gamma) / (1 - gamma), rel=1e-6
    )


def test_named_blocks_are_layers_and_a_factor_is_not_squared():
    problem = pl.problems.poisson(dim=1)
    model = pl.models.mlp((1, 6, 1), seed=0)
    J = pl.Jacobian(problem.residual(model, interior=60, boundary=8))
    A = Gram(J)
    M = block_jacobi(A, damping=1e-6)
    matrix = A.dense() + 1e-6 * torch.eye(A.shape[0])
    expected = torch.block_diag(*[torch.linalg.inv(matrix[part, part]) for part in J.domain.slices.values()])
    scale = expected.abs().max()
    torch.testing.assert_close(M.dense() / scale, expected / scale, rtol=1e-6, atol=1e-9)
    assert repr(M) == "BlockJacobi[19×19, 4 blocks, μ=1e-06]"
    assert M.domain.slices == A.domain.slices
    thin = Dense(torch.linalg.qr(normal(9, 4)).Q * 10.0 ** -torch.arange(0, 12, 3).double())  # κ(JᵀJ) = 1e18
    assert pl.condition(Gram(thin), preconditioner=block_jacobi(Gram(thin))).estimate == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128])
def test_other_dtypes(dtype):
    B = normal(9, 6, dtype=dtype)
    for A in (Gram(Dense(B)), Dense(B.mH @ B, positive=True)):
        pl.testing.check_operator(jacobi(A))
        pl.testing.check_operator(block_jacobi(A, [[0, 3], [1, 2, 4, 5]]))


def test_bad_input_is_refused():
    A = Dense(torch.diag(torch.tensor([1.0, 0.0, 2.0])), positive=True)
    with pytest.raises(NotPositive, match=r"the first is entry 1, 0\.000e"):
        jacobi(A)
    assert jacobi(A, damping=0.5).dense()[1, 1] == 2
    with pytest.raises(NotPositive, match="entry 0, -1"):
        jacobi(Diagonal(torch.tensor([-1.0, 1.0])))
    with pytest.raises(NotPositive, match=r"block 0 of .* \(2 unknowns\) is not positive definite"):
        block_jacobi(A, [[0, 1], [2]])
    with pytest.raises(NotPositive, match="block 1 of"):
        block_jacobi(Gram(Dense(torch.ones(1, 3))), [[0], [1, 2]])
    assert block_jacobi(Gram(Dense(torch.ones(1, 3))), damping=0.1).positive
    for estimate in ("factor", "hutchinson"):
        with pytest.raises(ValueError, match=f"got '{estimate}'"):
            jacobi(A, estimate=estimate)
    for blocks, message in [
        ([[0], [1]], "unknown 2 is in 0"),
        ([[0, 1], [1, 2]], "unknown 1 is in 2"),
        ([[0, 0], [1, 2]], "distinct integers from 0 to 2"),
        ([[0, 1, 2, 3]], "distinct integers from 0 to 2"),
        ([], "unknown 0 is in 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            block_jacobi(A, blocks)
    with pytest.raises(ValueError, match="finite damping"):
        jacobi(A, damping=math.inf)
    with pytest.raises(ValueError, match="square operator"):
        block_jacobi(Dense(torch.ones(2, 3)))
    with pytest.raises(TypeError, match="wrap a matrix"):
        jacobi(torch.eye(3))
