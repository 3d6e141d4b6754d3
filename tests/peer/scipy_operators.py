"""A pytest plugin: SciPy's own tests, with the operators of precondlab wherever SciPy makes or takes one.

``aslinearoperator`` returns them, and what is given to ``lobpcg`` is wrapped in them, callables included.
Run from the root of the repository, for instance::

    PYTHONPATH=.:tests/peer pytest -p scipy_operators --pyargs scipy.sparse.linalg._isolve
"""

import sys
from functools import wraps

import numpy as np
import scipy.sparse.linalg as linalg
import torch
from scipy.sparse import issparse

from precondlab.operator import Operator, as_operator
from precondlab.operators import Dense

original_aslinearoperator, original_lobpcg = linalg.aslinearoperator, linalg.lobpcg
counts = {"operators": 0, "products": 0}
least = {"dtype": np.float32}


def aslinearoperator(A):
    """Return a matrix as Dense, SciPy's operators as Foreign; the rest (long double, nonsense) as SciPy does."""
    if isinstance(A, Operator):
        return A
    if isinstance(A, linalg.LinearOperator):
        return A if A.dtype is None or np.dtype(A.dtype).char not in "fdFD" else as_operator(A)
    array = A.toarray() if issparse(A) else A
    if not isinstance(array, np.ndarray) or array.ndim > 2 or array.dtype.kind not in "biufc":
        return original_aslinearoperator(A)
    dtype = np.result_type(array.dtype, least["dtype"])
    if dtype.char not in "fdFD":
        return original_aslinearoperator(A)
    return Dense(torch.from_numpy(np.atleast_2d(np.array(array, dtype=dtype, order="C"))))


@wraps(original_lobpcg)
def lobpcg(A, X, B=None, M=None, *args, **kwargs):
    """Wrap A, B and M, where they can be, and call SciPy's."""
    return original_lobpcg(*(_wrap(operand, X) for operand in (A, X, B, M)), *args, **kwargs)


def _wrap(operand, X):
    if operand is X or operand is None or isinstance(operand, np.matrix):
        return operand
    if callable(operand) and not isinstance(operand, linalg.LinearOperator):
        dtype = np.result_type(X.dtype, np.float32)
        operand = linalg.LinearOperator((len(X), len(X)), matvec=operand, matmat=operand, dtype=dtype)
    return aslinearoperator(operand)


def _counting(name, product):
    @wraps(product)
    def counted(self, V):
        counts[name] += V.shape[1]
        return product(self, V)

    return counted


def _replace(old, new):
    for name, module in list(sys.modules.items()):
        if name.startswith("scipy.sparse.linalg"):
            for attribute in [key for key, value in vars(module).items() if value is old]:
                setattr(module, attribute, new)


def pytest_addoption(parser):
    """Offer to make operators of matrices in double precision only.

    NumPy promotes the product of a single-precision matrix with a double-precision vector, and the tests of
    ``_isolve`` count on it; an operator has one dtype and computes in it.
    """
    parser.addoption("--double", action="store_true", help="operators in double precision only")


def pytest_configure(config):
    """Replace the two functions in every module of SciPy, before tests import them; count from now on."""
    least["dtype"] = np.float64 if config.getoption("double") else np.float32
    _replace(original_aslinearoperator, aslinearoperator)
    _replace(original_lobpcg, lobpcg)
    initialize = Operator.__init__

    @wraps(initialize)
    def counted(self, *args, **kwargs):
        counts["operators"] += 1
        initialize(self, *args, **kwargs)

    Operator.__init__ = counted
    Operator.forward = _counting("products", Operator.forward)
    Operator.backward = _counting("products", Operator.backward)


def pytest_terminal_summary(terminalreporter):
    """Say how many operators there were."""
    terminalreporter.write_line("precondlab: {operators} operators, {products} products".format(**counts))
