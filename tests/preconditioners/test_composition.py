"""Compositions: what they are in dense matrices, what stays positive, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import precondlab as pl
from precondlab.errors import NotPositive
from precondlab.operators import Dense, Diagonal, Gram, Identity
from precondlab.preconditioners.composition import additive, blockwise, multiplicative, nested, two_level
from precondlab.preconditioners.schwarz import schwarz
from precondlab.space import Space
from tests.preconditioners.spectra import haar, kappa, positive, power

pre = pl.preconditioners
seeds = st.integers(0, 2**31)


def rootless(M):
    """The same positive operator without a factor."""
    return Dense(M.dense(), positive=True)


@given(seed=seeds, n=st.integers(1, 15))
def test_a_sum_is_a_sum(seed, n):
    A = positive(power(n, 2), seed)
    parts = [pre.jacobi(A), pre.nystrom(A, rank=max(1, n // 2))]
    expected = parts[0].dense() + parts[1].dense()
    for M in (additive(*parts), additive(rootless(parts[0]), parts[1])):
        torch.testing.assert_close(M.dense(), expected)
        pl.testing.check_operator(M)
    assert pl.condition(A, preconditioner=additive(*parts)).status.ok
    assert additive(*parts).setup_matvecs == parts[1].setup_matvecs
    assert repr(additive(*parts)) == f"Additive[{n}×{n}, Jacobi, Nystrom]"


@given(seed=seeds, n=st.integers(2, 15))
def test_a_sweep_multiplies_its_errors(seed, n):
    A = positive(power(n, 1), seed)
    parts = [schwarz(A, [slice(0, 1), slice(1, n)], coarse=None) / 2.5, pre.jacobi(A) / n]
    M = multiplicative(A, *parts)
    E = torch.eye(n).double()
    for part in (*parts, *parts[::-1]):
        E = E @ (torch.eye(n) - part.dense() @ A.matrix)
    torch.testing.assert_close(torch.eye(n) - M.dense() @ A.matrix, E, rtol=0, atol=1e-10)
    assert torch.linalg.eigvalsh(M.dense())[0] > 0
    pl.testing.check_operator(M, rtol=1e-10)


def test_block_gauss_seidel_beats_block_jacobi():
    A = positive(power(30, 2))
    solves = []
    for part in (slice(0, 15), slice(15, 30)):
        inverse = torch.zeros(30, 30).double()
        inverse[part, part] = torch.linalg.inv(A.matrix[part, part])
        solves.append(Dense(inverse, positive=True))
    sweep, both = multiplicative(A, *solves), additive(*solves)
    assert kappa(sweep, A) < kappa(both, A) / 2


@given(seed=seeds, n=st.integers(2, 15), data=st.data())
def test_two_levels_move_the_coarse_eigenvalues_to_one_and_stay_positive(seed, n, data):
    q = data.draw(st.integers(1, n - 1))
    values, A, Q = power(n, 2), positive(power(n, 2), seed), haar(n, seed)
    M = two_level(A, Identity(A.domain), 10 * Q[:, :q] @ haar(q, seed + 1))
    found = torch.linalg.eigvals(M.dense() @ A.matrix).real.sort().values
    torch.testing.assert_close(found, torch.cat([torch.ones(q).double(), values[q:]]).sort().values)
    Z = torch.randn(n, q, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    coarse = Z @ torch.linalg.inv(Z.T @ A.matrix @ Z) @ Z.T
    P = torch.eye(n) - coarse @ A.matrix
    for smoother in (pre.jacobi(A), rootless(pre.jacobi(A))):
        M = two_level(A, smoother, Z)
        expected = coarse + P @ smoother.dense() @ P.T
        torch.testing.assert_close(M.dense(), expected, rtol=1e-5, atol=1e-7 * expected.norm())
        assert torch.linalg.eigvalsh(M.dense())[0] > 0
        pl.testing.check_operator(M, rtol=1e-8)


@given(seed=seeds)
def test_blocks_have_methods_of_their_own(seed):
    space, A = Space({"first": (2, 3), "none": (0,), "second": (4,)}), positive(power(10, 2), seed)
    A.domain = A.codomain = space
    M = blockwise(A, {"first": pre.jacobi, "second": lambda B: pre.nystrom(B, rank=4)})
    expected = torch.block_diag(torch.diag(1 / A.matrix.diagonal()[:6]), torch.linalg.inv(A.matrix[6:, 6:]))
    torch.testing.assert_close(M.dense(), expected, rtol=1e-6, atol=1e-6)
    pl.testing.check_operator(M)
    assert M.setup_matvecs == 10
    same = blockwise(A, lambda B: pre.nystrom(B, rank=B.shape[0]))
    torch.testing.assert_close(same.dense(), pre.block_jacobi(A).dense(), rtol=1e-6, atol=1e-6)


@given(seed=seeds, n=st.integers(2, 15))
def test_nesting_preconditions_what_is_left(seed, n):
    scale = 10 ** (3 * torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    A = Dense(scale[:, None] * positive(power(n, 1), seed).matrix * scale, positive=True)
    outer = pre.jacobi(A)
    M = nested(A, outer, lambda B: pre.nystrom(B, rank=n))
    assert kappa(M, A) == pytest.approx(1, abs=1e-5)
    pl.testing.check_operator(M, rtol=1e-9)
    assert M.setup_matvecs == n
    inner = pre.nystrom(outer.sqrt.H @ A @ outer.sqrt, rank=n // 2)
    M = nested(A, outer, lambda B: pre.nystrom(B, rank=n // 2))
    torch.testing.assert_close(M.dense(), outer.sqrt.dense() @ inner.dense() @ outer.sqrt.dense())
    assert repr(M) == f"Nested[{n}×{n}, Jacobi, Nystrom]"


def test_bad_input_is_refused():
    A, other = positive(power(4, 1)), positive(power(5, 1))
    indefinite = Diagonal(torch.tensor([1.0, -1.0, 1.0, 1.0]).double())
    with pytest.raises(ValueError, match="not declared positive"):
        additive(A, indefinite)
    with pytest.raises(ValueError, match="expected a positive operator on"):
        additive(A, other)
    with pytest.raises(TypeError, match="expected an operator, got Tensor"):
        additive(A, A.matrix)
    with pytest.raises(NotPositive, match="overcorrects: λ_max"):
        multiplicative(A, 10 * Identity(A.domain))
    with pytest.raises(ValueError, match=r"each of the blocks \[''\], got \['a'\]"):
        blockwise(A, {"a": pre.jacobi})
    with pytest.raises(ValueError, match=r"block ''.*not declared positive"):
        blockwise(A, lambda B: indefinite)
    with pytest.raises(ValueError, match="has no factor"):
        nested(A, rootless(A), pre.jacobi)
    with pytest.raises(ValueError, match=r"coarse functions \[4 q\]"):
        two_level(A, A, torch.ones(5, 1))
    for Z in (torch.ones(4, 2).double(), torch.zeros(4, 1).double()):
        for B in (A, Gram(A)):
            with pytest.raises(NotPositive, match="remove dependent ones"):
                two_level(B, A, Z)
