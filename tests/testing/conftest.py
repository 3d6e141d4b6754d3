"""The dense form of an operator in 40 digits, put together from the numbers that its parts hold."""

import mpmath
import numpy as np
import pytest

from precondlab.algebra import Adjoint, Product, Scaled, Sum
from precondlab.operators import Gram, Kernel, LowRank, VStack
from precondlab.testing.gallery.factors import Reflections

DIGITS = 40


def exact(A):
    """Return the matrix of A without a rounding error, as an mpmath matrix."""
    match A:
        case Product():
            matrix = exact(A.factors[0])
            for factor in A.factors[1:]:
                matrix = matrix * exact(factor)
            return matrix
        case Gram():
            return exact(A.J).T * exact(A.J)
        case Kernel():
            return exact(A.J) * exact(A.J).T
        case Sum():
            return sum(map(exact, A.terms[1:]), exact(A.terms[0]))
        case Scaled():
            return mpmath.mpf(A.factor) * exact(A.parent)
        case Adjoint():
            return exact(A.parent).T
        case LowRank():
            return mpmath.matrix(A.U.tolist()) * mpmath.diag(A.s.tolist()) * mpmath.matrix(A.V.tolist()).T
        case VStack():
            return mpmath.matrix([row for part in A.parts for row in exact(part).tolist()])
        case Reflections():
            matrix = mpmath.eye(len(A.W))
            for w in A.W.T.tolist():
                matrix = matrix * (mpmath.eye(len(w)) - 2 * mpmath.matrix(w) * mpmath.matrix(w).T)
            return matrix
        case _:  # sparse or stored: the products that make its dense form are exact
            return mpmath.matrix(A.dense().tolist())


@pytest.fixture(scope="session")
def forty_digits():
    """A function that returns the eigenvalues, or else the singular values, of an operator, descending."""

    def values(A):
        with mpmath.workdps(DIGITS):
            matrix = exact(A)
            found = mpmath.eigsy(matrix, True) if A.symmetric else mpmath.svd_r(matrix, compute_uv=False)
            return np.array(sorted(map(float, found), reverse=True))

    return values
