"""Pytest plugin: SciPy's own tests of eigsh, svds and lobpcg, run on those of precondlab.

SciPy's reading of its arguments, its factorization for shifts and its return values are kept; everything between is
ours. Of the tests of ARPACK those of standard symmetric problems are selected, of ``svds`` those with
``solver="arpack"``. Left out is what is not offered: generalized problems (M, B), the buckling and Cayley modes,
constraints (Y), histories, and long double, which torch has not.
"""

import sys

import numpy as np
import pytest
import scipy.sparse.linalg as sla
import torch
from scipy.sparse.linalg import LinearOperator, aslinearoperator
from scipy.sparse.linalg._eigen import _svds
from scipy.sparse.linalg._eigen.arpack.arpack import ArpackNoConvergence, get_OPinv_matvec

from precondlab import spectrum

calls = 0
scipy_svds = _svds.svds


def _typed(A, dtype=None):
    A = aslinearoperator(A)
    return LinearOperator(A.shape, matvec=A.matvec, rmatvec=A.rmatvec, dtype=dtype or A.dtype)


def _generator(rng):
    return torch.Generator().manual_seed(int(np.random.default_rng(rng).integers(2**31)))


def _budget(maxiter, ncv, n, k):
    return None if maxiter is None else maxiter * (ncv or min(n, max(2 * k + 1, 20)))


def eigsh(A, k=6, *, sigma=None, which="LM", v0=None, ncv=None, maxiter=None, tol=0, mode="normal", rng=None):
    global calls
    calls += 1
    OPinv = None
    if sigma is not None:
        solve = get_OPinv_matvec(A, None, sigma, hermitian=True, tol=tol)
        OPinv = LinearOperator(A.shape, matvec=solve, rmatvec=solve, dtype=A.dtype)
    found = spectrum.eigsh(
        _typed(A),
        k,
        sigma=sigma,
        OPinv=OPinv,
        which=which,
        v0=None if v0 is None else torch.from_numpy(np.ascontiguousarray(v0)),
        ncv=ncv,
        num_matvecs=_budget(maxiter, ncv, A.shape[0], k),
        tol=tol,
        generator=_generator(rng),
    )
    vectors = found.vectors.numpy()
    if not found.status.ok:
        done = found.residuals <= 1e-14 * np.abs(found.values).max()
        raise ArpackNoConvergence(found.status.advice, found.values[done], vectors[:, done])
    return found.values, vectors


def svds(A, k=6, ncv=None, tol=0, which="LM", v0=None, maxiter=None, return_singular_vectors=True,
         solver="arpack", rng=None, options=None):  # fmt: skip
    global calls
    A, k, ncv, tol, which, v0, maxiter, both, solver, rng = _svds._iv(
        A, k, ncv, tol, which, v0, maxiter, return_singular_vectors, solver, rng
    )
    if solver != "arpack":
        return scipy_svds(
            A, k, ncv, tol, which, v0, maxiter, return_singular_vectors, solver=solver, rng=rng, options=options
        )
    calls += 1
    dtype = np.result_type(A.dtype, np.float32)
    start = None if v0 is None else torch.from_numpy(np.asarray(v0, dtype=dtype))
    found = spectrum.svds(
        _typed(A, dtype),
        k,
        which=which,
        v0=start,
        ncv=ncv,
        tol=tol,
        num_matvecs=_budget(maxiter, ncv, min(A.shape), k),
        generator=_generator(rng),
    )
    order = np.argsort(found.values)
    u, s, vh = found.left.numpy()[:, order], found.values[order], found.right.numpy().conj().T[order]
    if not found.status.ok:
        raise ArpackNoConvergence(f"No convergence: {found.status.advice}", s, u)
    if both is False:
        return s
    return (None if both == "vh" else u), s, (None if both == "u" else vh)


def lobpcg(A, X, B=None, M=None, Y=None, tol=None, maxiter=None, largest=True, verbosityLevel=0, **histories):
    global calls
    if B is not None or Y is not None or any(histories.values()):
        pytest.skip("generalized problems, constraints and histories are not offered")
    calls += 1
    n = len(X)
    A, M = (
        LinearOperator((n, n), matvec=op, matmat=op, rmatvec=op, dtype=X.dtype) if callable(op) else op for op in (A, M)
    )
    dtype = np.result_type(_typed(A).dtype, X.dtype, np.float32)
    if dtype.char in "gG":
        pytest.skip("torch has no long double")
    found = spectrum.lobpcg(
        _typed(A, dtype),
        torch.from_numpy(np.ascontiguousarray(X, dtype=dtype)),
        M=None if M is None else _typed(M, dtype),
        tol=tol or n * np.finfo(dtype).eps ** 0.5,
        maxiter=20 if maxiter is None else maxiter,
        largest=largest,
    )
    order = slice(None, None, -1) if largest else slice(None)
    return found.values[order], found.vectors.numpy()[:, order]


def _replace(old, new):
    for name, module in list(sys.modules.items()):
        if name.startswith("scipy.sparse.linalg"):
            for attribute in [key for key, value in vars(module).items() if value is old]:
                setattr(module, attribute, new)


def pytest_configure(config):
    _replace(sla.eigsh, eigsh)
    _replace(scipy_svds, svds)
    _replace(sla.lobpcg, lobpcg)
    for marker in ("fail_slow(limit)", "slow", "xslow", "xfail_on_32bit", "parallel_threads", "thread_unsafe"):
        config.addinivalue_line("markers", marker)


def pytest_collection_modifyitems(items):
    def chosen(item):
        params = item.callspec.params if hasattr(item, "callspec") else {}
        if item.path.stem == "test_lobpcg":
            return True
        if item.path.stem == "test_svds":
            return item.cls is not None and item.cls.__name__ == "Test_SVDS_ARPACK"
        ours = item.originalname.startswith(("test_symmetric", "test_hermitian")) or params.get("D") is not None
        standard = "bmat" not in params.get("D", {}) and params.get("mode", "normal") == "normal"
        return ours and standard and "nonsymmetric" not in item.originalname

    items[:] = [item for item in items if chosen(item)]


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"{calls} solved")
