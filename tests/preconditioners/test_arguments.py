"""Arguments that make no sense are named in one error."""

import numpy as np
import pytest
import torch

import precondlab as pl
from precondlab import preconditioners as pc
from precondlab.operators import Dense, Diagonal, Gram, Identity, Jacobian

A = Diagonal(torch.arange(1.0, 9.0, dtype=torch.float64))
J = Dense(torch.eye(30, 8, dtype=torch.float64))
PAIRS = torch.eye(8, dtype=torch.float64)[:, :2]
POISSON, SERIES = pl.problems.poisson(), pl.models.fourier(2)

CALLS = {
    "rank should be between 1 and 8, got 9": lambda: pc.nystrom(A, rank=9),
    "num_matvecs should be ≥ 6, got 5": lambda: pc.lanczos_polynomial(A, degree=5, num_matvecs=5),
    "num_matvecs should be ≥ 1, got -3": lambda: pc.jacobi(A, num_matvecs=-3),
    "finite oversampling": lambda: pc.sketch(J, oversampling=float("inf")),
    "rcond < 1, relative to the largest singular value, got nan": lambda: pc.sketch(J, rcond=float("nan")),
    "rcond < 1, relative to the largest singular value, got 2": lambda: pc.sketch(J, rcond=2.0),
    "floating dtype, got torch.int64": lambda: pc.deflation([1.0, 1.0], PAIRS.long()),
    "one real or complex floating dtype": lambda: pc.lbfgs(PAIRS.long(), PAIRS.long()),
    "q ≥ 1, got \\(8, 0\\)": lambda: pc.two_level(A, Identity(A.domain), PAIRS[:, :0]),
    "schwarz: expected coarse functions": lambda: pc.schwarz(A, [range(8)], coarse=PAIRS[:4]),
    "points should be finite": lambda: pc.subdomains(torch.full((3, 1), float("nan")), (2,)),
    "N ≥ 1": lambda: pc.subdomains(torch.zeros(0, 1), (2,)),
    "finite overlap": lambda: pc.subdomains(torch.zeros(3, 1), (2,), overlap=float("inf")),
    "kernel=γ > 0.*got nan": lambda: pc.symbol(POISSON, SERIES, kernel=float("nan")),
    "kernel=γ > 0.*got 0": lambda: pc.symbol(POISSON, SERIES, kernel=0.0),
    "kernel=γ > 0.*got -1": lambda: pc.symbol(POISSON, SERIES, kernel=-1.0),
    "one for each of 5 coefficients": lambda: pc.symbol(POISSON, SERIES, kernel=torch.ones(3)),
    "0 < a < b of the weight, got \\(0": lambda: pc.balance(poisson(), "boundary", bounds=(0, 1e3)),
    "0 < a < b of the weight, got \\(-1": lambda: pc.balance(poisson(), "boundary", bounds=(-1, 1e3)),
    "relative to that of 'interior', which is 0": lambda: pc.equalize(poisson(interior=0.0)),
}


def poisson(**weights):
    return Gram(Jacobian(POISSON.residual(pl.models.fourier(5), interior=40, weights=weights)))


@pytest.mark.parametrize("message", CALLS)
def test_what_makes_no_sense_is_named(message):
    with pytest.raises(ValueError, match=message):
        CALLS[message]()


def test_arrays_are_taken_for_tensors():
    Z = np.eye(8)[:, :2]
    assert torch.equal(
        pc.two_level(A, Identity(A.domain), Z).dense(), pc.two_level(A, Identity(A.domain), PAIRS).dense()
    )
    assert torch.equal(pc.schwarz(A, [range(8)], coarse=Z).dense(), pc.schwarz(A, [range(8)], coarse=PAIRS).dense())
    assert len(pc.subdomains(np.linspace(0, 1, 5)[:, None], (2,))) == 2


def test_the_first_rank_fits_a_small_operator():
    M = pc.nystrom_adaptive(A, damping=1e-3)
    assert pl.condition(A + 1e-3 * Identity(A.domain), preconditioner=M).estimate == pytest.approx(1)
