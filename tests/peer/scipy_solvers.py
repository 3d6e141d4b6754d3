"""Pytest plugin: SciPy's own solver tests, run on cg, minres and lsqr of precondlab.

SciPy's reading of its arguments (``make_system``) and its return values (``x, info``) are kept; everything between is
ours. Only the tests of these three solvers are selected.
"""

import numpy as np
import scipy.sparse.linalg as sla
from scipy.sparse.linalg import LinearOperator, _isolve, aslinearoperator
from scipy.sparse.linalg._interface import IdentityOperator
from scipy.sparse.linalg._isolve.utils import make_system

from precondlab import krylov
from precondlab.krylov.checks import require_symmetric
from precondlab.operator import as_operator

calls = 0


def _typed(A, dtype):
    return LinearOperator(A.shape, matvec=A.matvec, rmatvec=A.rmatvec, dtype=dtype)


def _system(A, M, x0, b):
    A, M, x0, b = make_system(A, M, x0, b)
    M = None if isinstance(M, IdentityOperator) else _typed(M, b.dtype)
    return _typed(A, b.dtype), M, x0, b


def _info(solution):
    global calls
    calls += 1
    done = solution.status.ok or solution.status is krylov.SolverStatus.LEAST_SQUARES
    return 0 if done else max(solution.steps, 1)


def cg(A, b, x0=None, *, rtol=1e-5, atol=0.0, maxiter=None, M=None, callback=None):
    A, M, x0, b = _system(A, M, x0, b)
    solution = krylov.cg(A, b, x0=x0, rtol=rtol, atol=atol, maxiter=maxiter, M=M, callback=callback)
    return solution.x, _info(solution)


def minres(A, b, x0=None, *, rtol=1e-5, shift=0.0, maxiter=None, M=None, callback=None, show=False, check=False):
    A, M, x0, b = _system(A, M, x0, b)
    if check:
        require_symmetric(as_operator(A))
    solution = krylov.minres(A, b, x0=x0, rtol=rtol, shift=shift, maxiter=maxiter, M=M, callback=callback)
    return solution.x, _info(solution)


def lsqr(
    A, b, damp=0.0, atol=1e-6, btol=1e-6, conlim=1e8, iter_lim=None, show=False, calc_var=False, x0=None
):  # fmt: skip
    A, b = aslinearoperator(A), np.atleast_1d(b)
    dtype = np.result_type(A.dtype, b.dtype, np.float64)
    b = b.squeeze() if b.ndim > 1 else b
    solution = krylov.lsqr(_typed(A, dtype), b, damp=damp, rtol=atol, maxiter=iter_lim or 2 * A.shape[1], x0=x0)
    istop = 7 if _info(solution) else (1 if solution.compatible else 2)
    return solution.x, istop, solution.steps, solution.residual_norm


OURS = {solver.__name__: solver for solver in (cg, minres, lsqr)}


def pytest_configure(config):
    for name, solver in OURS.items():
        setattr(_isolve, name, solver)
        setattr(sla, name, solver)
    for marker in ("fail_slow(limit)", "slow", "xslow", "xfail_on_32bit", "parallel_threads", "thread_unsafe"):
        config.addinivalue_line("markers", marker)


def pytest_collection_modifyitems(items):
    def solver(item):
        params = item.callspec.params if hasattr(item, "callspec") else {}
        return params.get("solver") or getattr(params.get("case"), "solver", None)

    mine = [
        item
        for item in items
        if (solver(item) in OURS.values() or item.path.stem in ("test_minres", "test_lsqr"))
        or item.originalname == "test_precond_inverse"
    ]
    items[:] = mine


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"{calls} solved")
