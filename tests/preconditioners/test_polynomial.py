"""Polynomial preconditioners: the Chebyshev bound and its equality, positivity, and few distinct eigenvalues."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial.chebyshev import chebval

import precondlab as pl
from precondlab.errors import Breakdown, NotPositive
from precondlab.operators import Dense, Diagonal
from precondlab.preconditioners.polynomial import chebyshev, lanczos_polynomial
from tests.preconditioners.spectra import kappa, positive, power

seeds = st.integers(0, 2**31)


@given(degree=st.integers(0, 20), ratio=st.floats(1.1, 1e4), seed=seeds)
def test_chebyshev_is_the_polynomial_of_its_definition_and_keeps_its_bound(degree, ratio, seed):
    a, b = 2.0 / ratio, 2.0
    values = a + (b - a) * torch.rand(15, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    A = positive(values, seed)
    M = chebyshev(A, degree=degree, interval=(a, b))
    T = [0.0] * (degree + 1) + [1.0]
    delta = 1 / chebval((a + b) / (b - a), T)
    expected = 1 - chebval(((a + b - 2 * values) / (b - a)).numpy(), T) * delta
    found = torch.linalg.eigvalsh(M.dense() @ A.matrix / 2 + A.matrix @ M.dense() / 2)
    np.testing.assert_allclose(found, np.sort(expected), rtol=0, atol=1e-9)
    assert kappa(M, A) <= (1 + delta) / (1 - delta) * (1 + 1e-6)
    pl.testing.check_operator(M)


def test_chebyshev_attains_its_bound_and_no_degree_hurts():
    nodes = 1 + 50 * (1 - torch.cos(torch.arange(7).double() * math.pi / 6))  # extrema of T₆ on [1, 101]
    A = Diagonal(nodes)
    M = chebyshev(A, degree=5, interval=(1.0, 101.0))
    delta = 1 / math.cosh(6 * math.acosh(102 / 100))
    assert kappa(M, A) == pytest.approx((1 + delta) / (1 - delta), rel=1e-10)
    before = A.num_matvecs
    _ = M @ nodes
    assert A.num_matvecs - before == 5


@given(seed=seeds, degree=st.integers(0, 12))
def test_chebyshev_stays_positive_with_eigenvalues_below_the_interval(seed, degree):
    A = positive(power(25, 4), seed)
    M = chebyshev(A, degree=degree, interval=(0.05, 1.0))
    assert torch.linalg.eigvalsh(M.dense())[0] > 0
    assert kappa(M, A) <= 25.0**4 * (1 + 1e-6)


@given(seed=seeds, distinct=st.integers(1, 6))
def test_few_distinct_eigenvalues_are_inverted_exactly(seed, distinct):
    values = (1.0 + torch.arange(distinct).double()).repeat_interleave(4)
    A = positive(values, seed)
    M = lanczos_polynomial(A, degree=distinct - 1, generator=torch.Generator().manual_seed(seed))
    assert kappa(M, A) == pytest.approx(1, abs=1e-5)
    pl.testing.check_operator(M, rtol=1e-10)


@given(seed=seeds, degree=st.integers(0, 10))
def test_the_square_is_positive_whatever_the_spectrum(seed, degree):
    A = positive(power(30, 3), seed)
    M = lanczos_polynomial(A, degree=degree, generator=torch.Generator().manual_seed(seed))
    pl.testing.check_operator(M, rtol=1e-10)  # two polynomials of A, each with its own rounding
    assert torch.linalg.eigvalsh(M.dense())[0] >= -1e-9 * M.dense().norm()


def test_it_beats_the_interval_on_an_isolated_cluster():
    values = torch.cat([torch.full((5,), 1e3), torch.linspace(1, 2, 60)]).double()
    A = positive(values)
    by_interval = kappa(chebyshev(A, degree=8, interval=(1.0, 1001.0)), A)
    by_spectrum = kappa(lanczos_polynomial(A, degree=4), A)  # of the same degree
    assert by_spectrum < 1.2 < 5 < by_interval
    assert pl.condition(A, preconditioner=lanczos_polynomial(A, degree=4)).estimate == pytest.approx(
        by_spectrum, rel=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
def test_other_dtypes(dtype):
    B = torch.randn(12, 8, generator=torch.Generator().manual_seed(0), dtype=dtype)
    A = Dense(B.mH @ B + torch.eye(8), positive=True)
    top = torch.linalg.eigvalsh(A.matrix)[-1].item()
    pl.testing.check_operator(chebyshev(A, degree=4, interval=(1.0, 1.01 * top)))
    pl.testing.check_operator(lanczos_polynomial(A, degree=3))
    assert repr(lanczos_polynomial(A, degree=3)) == "LanczosPolynomial[8×8, degree 6]"


def test_bad_input_is_refused():
    A = positive(torch.linspace(1, 4, 10))
    for interval in [(0.0, 4.0), (4.0, 1.0), (-1.0, 4.0), (1.0, math.inf), (math.nan, 1.0)]:
        with pytest.raises(ValueError, match="interval 0 < a < b"):
            chebyshev(A, degree=3, interval=interval)
    with pytest.raises(ValueError, match="degree should be ≥ 0"):
        chebyshev(A, degree=-1, interval=(1.0, 4.0))
    with pytest.raises(ValueError, match=r"at least (3\.9|4).*above the interval"):
        chebyshev(A, degree=3, interval=(1.0, 2.0))
    with pytest.raises(ValueError, match="num_matvecs should be ≥ 6"):
        lanczos_polynomial(A, degree=5, num_matvecs=5)
    indefinite = Dense(torch.diag(torch.tensor([1.0, -1.0])), symmetric=True)
    for make in (lambda B: chebyshev(B, degree=2, interval=(1.0, 2.0)), lambda B: lanczos_polynomial(B, degree=1)):
        with pytest.raises(NotPositive, match="Ritz value -1"):
            make(indefinite)
        with pytest.raises(ValueError, match="is zero"):
            make(Dense(torch.zeros(3, 3)))
        with pytest.raises(Breakdown, match="not finite"):
            make(Dense(torch.full((3, 3), math.nan)))
        with pytest.raises(ValueError, match="square operator"):
            make(Dense(torch.ones(3, 2)))
