"""SciPy's solvers take the operators unchanged and give what dense algebra gives."""

import numpy as np
import pytest
import scipy.sparse.linalg as scipy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from precondlab.map import Map
from precondlab.operators import Dense, Diagonal, Gram, Jacobian, Kernel
from precondlab.testing.strategies import generators

F64 = torch.float64


def prescribed(values, n, generator, dtype=F64):
    """Return a matrix ``[m n]`` with prescribed singular values."""
    m = len(values)
    left, right = (torch.linalg.qr(torch.randn(k, m, dtype=dtype, generator=generator)).Q for k in (m, n))
    return (left * values) @ right.mH


@st.composite
def jacobians(draw):
    """Draw the Jacobian of a nonlinear map and its matrix; singular values 1 … 4."""
    generator = draw(generators())
    m, n = draw(st.integers(11, 14)), draw(st.integers(14, 20))
    a = prescribed(torch.linspace(1, 4, m, dtype=F64), n, generator)
    theta = torch.zeros(n, dtype=F64)  # where tanh has slope 1
    J = Jacobian(Map(lambda p: {"in": torch.tanh(a[:5] @ p["t"]), "out": a[5:] @ p["t"]}, {"t": theta}))
    return J, a.numpy()


@settings(max_examples=10)
@given(jacobians(), generators())
def test_every_solver(case, generator):
    J, a = case
    A, K = Gram(J), Kernel(J)
    rng = np.random.default_rng(generator.initial_seed())
    m = len(a)
    eigenvalues = np.linspace(1, 4, m) ** 2
    b = rng.standard_normal(m)
    exact = np.linalg.solve(a @ a.T, b)

    np.testing.assert_allclose(
        scipy.eigsh(A, k=2, v0=rng.standard_normal(A.shape[0]), return_eigenvectors=False), eigenvalues[-2:]
    )
    found, vectors = scipy.eigsh(K, k=2, which="SA", v0=b)
    np.testing.assert_allclose(found, eigenvalues[:2])
    np.testing.assert_allclose(K @ vectors, vectors * found, atol=1e-9)
    np.testing.assert_allclose(np.sort(scipy.svds(J, k=3, v0=b)[1]), np.linspace(1, 4, m)[-3:])
    np.testing.assert_allclose(scipy.lsmr(J, b, atol=1e-13, btol=1e-13)[0], a.T @ exact, atol=1e-9)
    np.testing.assert_allclose(scipy.lsqr(J, b, atol=1e-13, btol=1e-13)[0], a.T @ exact, atol=1e-9)
    for solver in (scipy.cg, scipy.minres, scipy.gmres, scipy.bicgstab):
        solution, info = solver(K, b, rtol=1e-11)
        assert info == 0
        np.testing.assert_allclose(solution, exact, atol=1e-8)
    found, _ = scipy.lobpcg(K, rng.standard_normal((m, 2)), tol=1e-9, maxiter=200)
    np.testing.assert_allclose(np.sort(found), eigenvalues[-2:], rtol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128])
def test_other_dtypes(dtype):
    a = prescribed(torch.linspace(1, 4, 9).to(dtype), 12, torch.Generator().manual_seed(0), dtype)
    K = Kernel(Dense(a))
    rtol = 1e3 * torch.finfo(dtype).eps
    np.testing.assert_allclose(
        scipy.eigsh(K, k=2, return_eigenvectors=False), np.linspace(1, 4, 9)[-2:] ** 2, rtol=rtol
    )
    b = np.ones(9, dtype=K.dtype)
    solution, info = scipy.cg(K, b, rtol=1e-5)
    assert (info, solution.dtype) == (0, K.dtype)
    assert np.linalg.norm(K @ solution - b) <= 1.1e-5 * 3


def test_a_preconditioner_is_an_operator():
    entries = torch.logspace(0, 6, 50, dtype=F64)
    iterations = []
    for M in (None, Diagonal(1 / entries)):
        count = [0]
        x, info = scipy.cg(
            Diagonal(entries),
            np.ones(50),
            rtol=1e-10,
            maxiter=5000,
            M=M,
            callback=lambda _, c=count: c.__setitem__(0, c[0] + 1),
        )
        assert info == 0
        np.testing.assert_allclose(x, 1 / entries, rtol=1e-4)
        iterations.append(count[0])
    assert iterations[1] <= 2 < iterations[0]


def test_shift_invert_and_norms_come_from_the_same_class():
    A = Dense(torch.diag(torch.tensor([1.0, 2.0, 5.0], dtype=F64)), symmetric=True)
    found = scipy.eigsh(A, k=1, sigma=2.1, which="LM", return_eigenvectors=False)
    np.testing.assert_allclose(found, 2.0)
    assert scipy.onenormest(A) == pytest.approx(5.0)
