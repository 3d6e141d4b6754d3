"""L-BFGS as an operator, against the textbook's dense update, torch's own optimizer and conjugate directions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import precondlab as pl
from precondlab.errors import NotPositive
from precondlab.preconditioners.quasi_newton import lbfgs
from tests.preconditioners.spectra import haar, kappa, positive, power

seeds = st.integers(0, 2**31)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@given(seed=seeds, n=st.integers(1, 12), k=st.integers(1, 6), scale=st.sampled_from([None, 0.3]))
def test_it_is_the_dense_bfgs_update(seed, n, k, scale):
    A, S = positive(torch.linspace(1, 10, n), seed), normal(n, k, seed=seed)
    Y = A.matrix @ S
    H = (S[:, -1] @ Y[:, -1] / Y[:, -1].norm() ** 2 if scale is None else scale) * torch.eye(n).double()
    for s, y in zip(S.T, Y.T, strict=True):
        V = torch.eye(n) - torch.outer(y, s) / (s @ y)
        H = V.T @ H @ V + torch.outer(s, s) / (s @ y)
    M = lbfgs(S, Y, scale=scale)
    torch.testing.assert_close(M.dense(), H)
    torch.testing.assert_close(M @ Y[:, -1], S[:, -1])
    pl.testing.check_operator(M)
    assert M.sqrt is None  # it would be [n n+k]
    assert pl.condition(A, preconditioner=M).status.ok


@given(seed=seeds, n=st.integers(1, 20))
def test_conjugate_directions_give_the_inverse_on_their_span(seed, n):
    A = positive(power(n, 2), seed)
    for k in {1, n // 2 or 1, n}:
        S = torch.linalg.solve_triangular(torch.linalg.cholesky(A.matrix).T, haar(n, seed + 1)[:, :k], upper=True)
        M = lbfgs(S, A.matrix @ S)
        torch.testing.assert_close(M @ (A.matrix @ S), S, rtol=1e-6, atol=1e-8 * S.norm())
        if k == n:
            assert kappa(M, A) == pytest.approx(1, abs=1e-6)


@given(seed=seeds, k=st.integers(1, 8))
def test_eigenvalues_do_not_cross_one(seed, k):
    A, S = positive(torch.linspace(0.5, 4, 12), seed), normal(12, k, seed=seed)
    L = torch.linalg.cholesky(A.matrix)
    values = torch.linalg.eigvalsh(L.T @ lbfgs(S, A.matrix @ S, scale=0.25).dense() @ L)
    assert values[0] >= 0.125 - 1e-12  # H_0 A has its spectrum in [0.125, 1]
    assert values[-1] <= 1 + 1e-12


def test_pairs_of_an_optimizer_give_the_two_loop_recursion():
    A, x = positive(torch.linspace(1, 100, 30)), torch.ones(30, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([x], lr=1.0, max_iter=6, history_size=10, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = 0.5 * x @ A.matrix @ x
        value.backward()
        return value

    optimizer.step(closure)
    state = optimizer.state[x]
    S, Y = torch.stack(state["old_stps"], 1), torch.stack(state["old_dirs"], 1)
    M = lbfgs(S, Y)
    torch.testing.assert_close(M @ state["prev_flat_grad"], _two_loops(S, Y, state["prev_flat_grad"]))
    assert kappa(M, A) < 100


def _two_loops(S, Y, q):
    alphas = []
    for s, y in zip(S.T.flip(0), Y.T.flip(0), strict=True):
        alphas.append(s @ q / (s @ y))
        q = q - alphas[-1] * y
    q = q * (S[:, -1] @ Y[:, -1]) / (Y[:, -1] @ Y[:, -1])
    for s, y in zip(S.T, Y.T, strict=True):
        q = q + (alphas.pop() - y @ q / (s @ y)) * s
    return q


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
def test_other_dtypes(dtype):
    B, S = normal(7, 7, dtype=dtype), normal(7, 3, dtype=dtype)
    M = lbfgs(S, (B.mH @ B + torch.eye(7)) @ S)
    pl.testing.check_operator(M)
    assert repr(M).startswith("LBFGS[7×7, 3 pairs, γ=")


def test_bad_pairs_are_refused():
    S = torch.eye(4)[:, :3]
    with pytest.raises(NotPositive, match=r"not positive for the pairs \[1\]"):
        lbfgs(S, S * torch.tensor([1.0, -1.0, 1.0]))
    with pytest.raises(NotPositive, match=r"pairs \[0, 1, 2\]"):
        lbfgs(S, torch.zeros(4, 3))
    with pytest.raises(NotPositive, match=r"pairs \[2\]"):
        lbfgs(S, S * torch.tensor([1.0, 1.0, float("nan")]))
    with pytest.raises(ValueError, match=r"one shape \[n k\], k ≥ 1"):
        lbfgs(S, S[:, :2])
    with pytest.raises(ValueError, match="k ≥ 1"):
        lbfgs(S[:, :0], S[:, :0])
    with pytest.raises(ValueError, match="positive scale, got -1"):
        lbfgs(S, S, scale=-1.0)
