"""Saddle-free Newton against the dense absolute value, on saddles and on Hessians of networks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import precondlab as pl
from precondlab.errors import NotSymmetric
from precondlab.operators import Dense, Diagonal
from precondlab.preconditioners import saddle_free


def indefinite(values, seed):
    """Return a symmetric operator with these eigenvalues, and its eigenvectors."""
    Q = torch.linalg.qr(torch.randn(len(values), len(values), generator=torch.Generator().manual_seed(seed)).double()).Q
    return Dense(Q @ torch.diag(values) @ Q.T, symmetric=True), Q


@given(seed=st.integers(0, 2**31), n=st.integers(3, 20), data=st.data(), damping=st.floats(0, 10))
def test_it_inverts_the_absolute_value(seed, n, data, damping):
    rank = data.draw(st.integers(1, n - 1))
    signs = torch.tensor(data.draw(st.lists(st.sampled_from([-1.0, 1.0]), min_size=n, max_size=n))).double()
    sizes = torch.logspace(0, -3, n, dtype=torch.float64)
    A, Q = indefinite(signs * sizes, seed)
    M = saddle_free(A, rank=rank, damping=damping)
    rest = sizes[rank - 1].expand(n - rank)
    expected = Q @ torch.diag(1 / (torch.cat([sizes[:rank], rest]) + damping)) @ Q.T
    torch.testing.assert_close(M.dense(), expected, rtol=1e-6, atol=1e-6 * expected.norm().item())
    assert M.positive and M.setup_matvecs == A.num_matvecs
    within = torch.linalg.eigvals(M.dense() @ A.matrix).abs()
    assert within.max() <= 1 + 1e-6


def test_descent_leaves_a_saddle_that_newton_is_drawn_to():
    A = Diagonal(torch.tensor([-1e-2, 1.0, 3.0], dtype=torch.float64))
    x = torch.tensor([1e-3, 1.0, 1.0], dtype=torch.float64)
    M = saddle_free(A, rank=2, damping=1e-2)
    step = -(M @ (A @ x))
    assert step[0] > 0 and (x + step)[1:].norm() < 0.02 * x[1:].norm()
    newton = -torch.linalg.solve(A.dense(), A @ x)
    assert newton[0] < 0


def test_the_hessian_of_a_network_is_indefinite_and_its_preconditioner_positive():
    r = pl.problems.poisson(1).residual(pl.models.mlp((1, 8, 1), seed=0), interior=30)
    H = pl.Hessian.of_residual(r)
    J = pl.Jacobian(r)
    theta, v = J.domain.ravel(J.at), 1e-5 * J.domain.random(generator=torch.Generator().manual_seed(0))
    ahead, behind = (J.moved(theta + s * v) for s in (1, -1))
    quotient = (ahead.H @ ahead.value - behind.H @ behind.value) / 2
    torch.testing.assert_close(H @ v, quotient, rtol=1e-6, atol=1e-6 * quotient.norm().item())
    values = np.linalg.eigvalsh(H.dense().numpy())
    assert values[0] < -1e-3 * values[-1]
    M = saddle_free(H, rank=6, damping=1e-3)
    assert np.linalg.eigvalsh(M.dense().numpy())[0] > 0
    assert M.domain.shapes == H.domain.shapes
    pl.testing.check_operator(M)


@pytest.mark.parametrize(
    ("A", "options", "error", "message"),
    [
        (Diagonal(torch.ones(3)), {"rank": 3}, ValueError, "rank should be between 1 and 2, got 3"),
        (Diagonal(torch.ones(3)), {"rank": 1, "damping": -1.0}, ValueError, "damping ≥ 0"),
        (Diagonal(torch.tensor([1.0, 0.0, 0.0])), {"rank": 2}, ValueError, "no 2 eigenvalues above round-off"),
        (Dense(torch.triu(torch.ones(4, 4))), {"rank": 2}, NotSymmetric, "symmetric"),
        (Dense(torch.ones(3, 2)), {"rank": 1}, ValueError, "square"),
    ],
)
def test_what_it_cannot_invert_it_refuses(A, options, error, message):
    with pytest.raises(error, match=message):
        saddle_free(A, **options)
