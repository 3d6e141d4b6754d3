"""Sketch-and-precondition: embeddings, exactness, distortion, and least squares where J is numerically singular."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator, lsqr

import precondlab as pl
from precondlab.errors import Breakdown
from precondlab.operators import Dense, Gram
from precondlab.preconditioners.embedding import SignedGroups, SparseSigns, Trigonometric
from precondlab.preconditioners.sketch import sketch
from precondlab.space import Space
from tests.preconditioners.spectra import haar

seeds = st.integers(0, 2**31)


def tall(m, n, decades, seed=0):
    sigma = 10.0 ** -torch.linspace(0, decades, n).double()
    return Dense(haar(m, seed)[:, :n] * sigma @ haar(n, seed + 1).T)


@given(seed=seeds, m=st.integers(1, 30), data=st.data(), dtype=st.sampled_from([torch.float64, torch.complex64]))
def test_embeddings_meet_the_contract(seed, m, data, dtype):
    d, generator = data.draw(st.integers(1, m)), torch.Generator().manual_seed(seed)
    hashes = data.draw(st.integers(1, d))
    S = SparseSigns(Space(m, dtype=dtype), d, hashes=hashes, generator=generator)
    pl.testing.check_operator(S)
    assert ((S.dense() != 0).sum(0) == hashes).all()
    torch.testing.assert_close(S.dense().norm(dim=0), torch.ones(m, dtype=dtype).real)
    T = Trigonometric(Space(m, dtype=dtype), d, generator=generator)
    pl.testing.check_operator(T)
    torch.testing.assert_close(T.dense() @ T.dense().mH, m / d * torch.eye(d, dtype=dtype))  # d rows of √(m/d) Q
    G = SignedGroups(Space(m, dtype=dtype), d, generator=generator)
    pl.testing.check_operator(G)
    torch.testing.assert_close(G.dense() @ G.dense().mH, torch.eye(d, dtype=dtype))
    sizes = (G.dense() != 0).sum(1)
    assert sizes.sum() == m and sizes.max() - sizes.min() <= 1


def test_embeddings_keep_lengths_on_average():
    v = torch.randn(50, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for make in (
        lambda g: SparseSigns(Space(50), 20, generator=g),
        lambda g: Trigonometric(Space(50), 20, generator=g),
        lambda g: (50 / 20) ** 0.5 * SignedGroups(Space(50), 20, generator=g),
    ):
        squares = [(make(torch.Generator().manual_seed(s)) @ v).norm() ** 2 for s in range(400)]
        mean = torch.stack(squares).mean() / v.norm() ** 2
        assert abs(mean - 1) < 6 * torch.stack(squares).std() / v.norm() ** 2 / 20


@pytest.mark.parametrize("embedding", ["sparse", "trigonometric"])
@given(seed=seeds, decades=st.floats(0, 10))
def test_the_factor_does_to_J_what_the_embedding_does_to_its_range(embedding, seed, decades):
    J = tall(120, 15, decades, seed)
    M = sketch(J, embedding=embedding, generator=torch.Generator().manual_seed(seed))
    N, S = M.sqrt, M.embedding
    assert N.shape == (15, 15)
    torch.testing.assert_close((S @ J @ N).dense().T @ (S @ J @ N).dense(), torch.eye(15).double(), rtol=0, atol=1e-4)
    distortion = torch.linalg.svdvals(S.dense() @ haar(120, seed)[:, :15])
    assert pl.condition(J @ N).estimate == pytest.approx((distortion[0] / distortion[-1]).item(), rel=1e-4)
    pl.testing.check_operator(M)
    assert M.setup_matvecs == 8  # 15 products with J


@given(seed=seeds, m=st.integers(1, 20), n=st.integers(1, 20))
def test_without_anything_to_gain_it_is_exact(seed, m, n):
    J = Dense(torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    M = sketch(J, oversampling=max(1.0, m / n))
    assert M.sqrt.shape == (n, min(m, n))
    assert pl.condition(J @ M.sqrt).estimate == pytest.approx(1, abs=1e-8)
    torch.testing.assert_close(
        M.dense(), torch.linalg.pinv(J.matrix.T @ J.matrix), rtol=1e-5, atol=1e-5 * M.dense().norm()
    )
    b = torch.ones(m).double()
    torch.testing.assert_close(M.guess(b), torch.linalg.pinv(J.matrix) @ b, rtol=1e-6, atol=1e-6 * M.guess(b).norm())


def helmholtz(features, radius, seed=0):
    """``Δu + u = f`` on [−1, 1]² by random sines, u = sin πx sin πy; returns J, b and the error in L²."""
    generator, k = torch.Generator().manual_seed(seed), math.pi
    rand = lambda *shape: 2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1  # noqa: E731
    w, phase, inside, t = radius * rand(features, 2), k * rand(features), rand(3 * features, 2), rand(3 * features // 8)
    one = torch.ones_like(t)
    edge = torch.cat([torch.stack(side, 1) for side in ((t, one), (t, -one), (one, t), (-one, t))])
    exact = lambda x: torch.sin(k * x[:, 0]) * torch.sin(k * x[:, 1])  # noqa: E731
    sines = lambda x: torch.sin(x @ w.T + phase)  # noqa: E731
    rows = torch.cat([(1 - (w**2).sum(1)) * sines(inside) / radius**2, sines(edge)])
    b = torch.cat([(1 - 2 * k**2) * exact(inside) / radius**2, exact(edge)])
    scale = torch.cat([torch.full((len(part),), len(part) ** -0.5) for part in (inside, edge)]).double()
    grid = torch.cartesian_prod(*[torch.linspace(-1, 1, 60, dtype=torch.float64)] * 2)

    def error(x):
        return ((sines(grid) @ x - exact(grid)).norm() / exact(grid).norm()).item()

    return Dense(scale[:, None] * rows), scale * b, error


def steps(J, N, residual, count):
    z = lsqr(J @ N, residual.numpy(), atol=0, btol=0, conlim=0, iter_lim=count)[0]
    return N @ torch.from_numpy(z)


@pytest.mark.parametrize("embedding", ["sparse", "trigonometric"])
def test_helmholtz_by_random_features_to_1e12_in_ten_steps_where_others_fail(embedding):
    J, b, error = helmholtz(400, 8.0)
    sigma = torch.linalg.svdvals(J.matrix)
    assert sigma[-1] < 1e-15 * sigma[0]
    M = sketch(J, embedding=embedding)
    start = M.guess(b)
    assert error(start + steps(J, M.sqrt, b - J @ start, 10)) < 1e-12
    assert M.setup_matvecs == 200
    plain = lsqr(J, b.numpy(), atol=0, btol=0, conlim=0, iter_lim=500)[0]
    assert error(torch.from_numpy(plain)) > 1e-6
    A, g = J.matrix.T @ J.matrix, J.matrix.T @ b
    ridges = [mu * sigma[0] ** 2 * torch.eye(len(A)) for mu in (1e-16, 1e-15, 1e-14, 1e-12)]
    assert min(error(torch.linalg.solve(A + ridge, g)) for ridge in ridges) > 1e-10


def test_many_hashes_are_safer_than_one():
    """Rows of very different size: the CountSketch loses one where two large rows collide."""
    J = torch.randn(600, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    J[:60] += 1e4 * torch.eye(60)
    found = {}
    for hashes in (1, 8):
        seeded = [torch.Generator().manual_seed(s) for s in range(20)]
        kappas = [pl.condition(Dense(J) @ sketch(Dense(J), hashes=hashes, generator=g).sqrt).lower for g in seeded]
        found[hashes] = sorted(kappas)[10]
    assert found[8] < 10 < 100 < found[1]


def test_condition_and_other_operands():
    J = tall(200, 20, 5)
    M = sketch(J)
    ratio = pl.condition(J @ M.sqrt).estimate
    assert pl.condition(Gram(J), preconditioner=M).estimate == pytest.approx(ratio**2, rel=1e-6)
    same = sketch(aslinearoperator(J.matrix.numpy()))
    torch.testing.assert_close(same.dense(), M.dense())
    assert repr(M) == "Sketch[20×20, rank 20, SparseSigns[56×200]]"
    block = torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(M.guess(block)[:, 1], M.guess(block[:, 1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
@pytest.mark.parametrize("embedding", ["sparse", "trigonometric"])
def test_other_dtypes(dtype, embedding):
    J = Dense(torch.randn(90, 8, generator=torch.Generator().manual_seed(0), dtype=dtype))
    M = sketch(J, embedding=embedding)
    pl.testing.check_operator(M)
    assert pl.condition(J @ M.sqrt).estimate < 20


def test_bad_input_is_refused():
    J = Dense(torch.ones(30, 3).double())
    assert sketch(J).sqrt.shape == (3, 1)  # rank one
    with pytest.raises(ValueError, match="is zero"):
        sketch(Dense(torch.zeros(30, 3)))
    with pytest.raises(ValueError, match="oversampling ≥ 1"):
        sketch(J, oversampling=0.5)
    with pytest.raises(ValueError, match="'sparse' or 'trigonometric', got 'dense'"):
        sketch(J, embedding="dense")
    with pytest.raises(ValueError, match="hashes should be ≥ 1, got 0"):
        sketch(J, hashes=0)
    with pytest.raises(ValueError, match=r"expected shape \(30,\) or \(30, k\), got \(3,\)"):
        sketch(J).guess(torch.ones(3).double())
    with pytest.raises(Breakdown, match="not finite"):
        sketch(Dense(torch.full((30, 3), math.nan)))
    with pytest.raises(TypeError, match="wrap a matrix"):
        sketch(J.matrix)
