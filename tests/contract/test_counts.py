"""Counts: every function that takes one says clearly that it should be an integer in range."""

import pytest
import torch

import precondlab as pl
from precondlab import dynamics, krylov, spectrum
from precondlab import preconditioners as pc
from precondlab.operators import Dense

J = Dense(torch.diag(torch.arange(1.0, 9.0, dtype=torch.float64)))
A, v = pl.Gram(J), torch.ones(8, dtype=torch.float64)
TAKERS = {
    ("eigsh", "k"): lambda n: spectrum.eigsh(A, n),
    ("eigsh", "ncv"): lambda n: spectrum.eigsh(A, 2, ncv=n),
    ("svds", "num_matvecs"): lambda n: spectrum.svds(J, 2, num_matvecs=n),
    ("lobpcg", "maxiter"): lambda n: spectrum.lobpcg(A, torch.eye(8)[:, :2].double(), maxiter=n),
    ("condition", "num_matvecs"): lambda n: pl.condition(A, num_matvecs=n),
    ("spectral_density", "num_probes"): lambda n: pl.spectral_density(A, num_probes=n),
    ("kernel_polynomial", "num_matvecs"): lambda n: spectrum.kernel_polynomial(A, num_matvecs=n),
    ("spectral_measure", "num_matvecs"): lambda n: pl.spectral_measure(A, start=v, num_matvecs=n),
    ("unlearned", "steps"): lambda n: pl.spectral_measure(A, start=v).unlearned(steps=n, learning_rate=0.01),
    ("xtrace", "num_matvecs"): lambda n: spectrum.trace(A, num_matvecs=n),
    ("frobenius_norm", "num_matvecs"): lambda n: spectrum.frobenius_norm(A, num_matvecs=n),
    ("predict_training", "steps"): lambda n: dynamics.predict_training(J, v, steps=n, learning_rate=0.01),
    ("cg", "maxiter"): lambda n: krylov.cg(A, v, maxiter=n),
    ("minres", "maxiter"): lambda n: krylov.minres(A, v, maxiter=n),
    ("lsqr", "maxiter"): lambda n: krylov.lsqr(J, v, maxiter=n),
    ("lanczos", "num_matvecs"): lambda n: list(krylov.lanczos(A, v, num_matvecs=n)),
    ("golub_kahan", "num_matvecs"): lambda n: list(krylov.golub_kahan(J, v, num_matvecs=n)),
    ("nystrom", "rank"): lambda n: pc.nystrom(A, rank=n),
    ("nystrom_adaptive", "max_rank"): lambda n: pc.nystrom_adaptive(A, damping=1.0, max_rank=n),
    ("pivoted_cholesky", "rank"): lambda n: pc.pivoted_cholesky(A, rank=n),
    ("saddle_free", "rank"): lambda n: pc.saddle_free(A, rank=n),
    ("jacobi", "num_matvecs"): lambda n: pc.jacobi(A, num_matvecs=n),
    ("chebyshev", "degree"): lambda n: pc.chebyshev(A, degree=n, interval=(1.0, 64.0)),
    ("lanczos_polynomial", "degree"): lambda n: pc.lanczos_polynomial(A, degree=n),
    ("sketch", "hashes"): lambda n: pc.sketch(J, hashes=n),
    ("NewtonCG", "rank"): lambda n: pl.optim.NewtonCG(residual(), rank=n),
    ("LevenbergMarquardt", "size"): lambda n: pl.optim.LevenbergMarquardt(residual(), size=n),
    ("Preconditioned", "every"): lambda n: preconditioned(every=n),
    ("observe", "num_probes"): lambda n: dynamics.observe(J, v, num_probes=n),
    ("design", "budget"): lambda n: pc.design(A, budget=n),
}


def residual():
    return pl.Map(lambda p: p["a"] - 1, {"a": torch.zeros(3, requires_grad=True)})


def preconditioned(**options):
    r = residual()
    base = torch.optim.SGD(r.params.values(), lr=0.1)
    return pl.optim.Preconditioned(r, base, make=pc.jacobi, **options)


@pytest.mark.parametrize(("who", "name"), TAKERS)
@pytest.mark.parametrize("count", [2.5, True, "3", -1])
def test_a_count_that_is_none_is_refused_by_name(who, name, count):
    expected = ValueError if count == -1 else TypeError
    with pytest.raises(expected, match=f"{who}: {name} should be "):
        TAKERS[who, name](count)
