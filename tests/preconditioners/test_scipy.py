"""SciPy's conjugate gradients with ``M=`` make the steps of ours, whatever the preconditioner."""

import inspect

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

import precondlab as pl
from precondlab import preconditioners as factory
from precondlab.catalogue import factories
from precondlab.krylov import cg
from precondlab.operators import Dense, Gram, Identity, Jacobian
from tests.preconditioners.spectra import positive

N, STEPS = 60, 10
A = positive(torch.logspace(0, -3, N))
VALUES, VECTORS = torch.linalg.eigh(A.matrix)
TOP = VECTORS[:, -6:]
HALVES = [range(35), range(25, N)]

MAKERS = {
    "additive": lambda A: factory.additive(factory.jacobi(A), factory.schwarz(A, HALVES)),
    "block_jacobi, blocks": lambda A: factory.block_jacobi(A, [range(20), range(20, N)]),
    "blockwise": lambda A: factory.blockwise(A, factory.jacobi),
    "chebyshev": lambda A: factory.chebyshev(A, degree=5, interval=(1e-3, 1.0)),
    "deflation": lambda A: factory.deflation(VALUES[-6:], TOP),
    "lanczos_polynomial": lambda A: factory.lanczos_polynomial(A, degree=3),
    "lbfgs": lambda A: factory.lbfgs(TOP, A.matrix @ TOP),
    "multiplicative": lambda A: factory.multiplicative(A, 0.9 * factory.block_jacobi(A, [range(20), range(20, N)])),
    "nested": lambda A: factory.nested(A, factory.jacobi(A), lambda B: factory.nystrom(B, rank=10, damping=1e-3)),
    "nystrom": lambda A: factory.nystrom(A, rank=10, damping=1e-3),
    "nystrom_adaptive": lambda A: factory.nystrom_adaptive(A, damping=1e-3),
    "pivoted_cholesky": lambda A: factory.pivoted_cholesky(A, rank=10),
    "schwarz": lambda A: factory.schwarz(A, HALVES),
    "sketch": lambda A: factory.sketch(Dense(torch.linalg.cholesky(A.matrix).T)),
    "two_level": lambda A: factory.two_level(A, factory.jacobi(A), TOP),
}
ALONE = {
    name: make
    for name, make in factories(factory, "Operator").items()
    if name != "kfac"  # which looks into the layers of a network
    and all(p.default is not p.empty for p in list(inspect.signature(make).parameters.values())[1:])
    and next(iter(inspect.signature(make).parameters)) in ("A", "K")
}


def iterates(A, M, b):
    """Return those of SciPy and those of the library; either may stop a step earlier."""
    theirs, ours = [], []
    scipy.sparse.linalg.cg(A, b.numpy(), rtol=1e-10, maxiter=STEPS, M=M, callback=lambda x: theirs.append(x.copy()))
    cg(A, b, rtol=1e-10, maxiter=STEPS, M=M, callback=lambda x: ours.append(x.numpy().copy()))
    assert abs(len(theirs) - len(ours)) <= 1
    return list(zip(theirs, ours, strict=False))


def difference(pairs):
    return max(np.linalg.norm(x - y) / np.linalg.norm(x) for x, y in pairs)


@pytest.mark.parametrize("name", sorted({*MAKERS, *ALONE}))
def test_scipy_makes_the_same_steps(name):
    b = A.matrix @ A.domain.random(generator=torch.Generator().manual_seed(1))
    M = (MAKERS | ALONE)[name](A)
    assert difference(iterates(A, M, b)) <= 1e-8
    plain = iterates(A, None, b)
    assert difference(plain) <= 1e-8
    assert difference([(x, y) for (x, _), (_, y) in zip(iterates(A, M, b), plain, strict=False)]) > 1e-3  # M matters


@pytest.mark.parametrize("make", [factory.symbol, factory.frozen])
def test_scipy_makes_the_same_steps_on_a_problem(make):
    problem, model = pl.problems.poisson(1), pl.models.fourier(8)
    A = Gram(Jacobian(problem.residual(model, interior=40)))
    b = A.forward(A.domain.random(1, generator=torch.Generator().manual_seed(1)))[:, 0]
    pairs = iterates(A, make(problem, model), b)
    assert len(pairs) >= 2
    assert difference(pairs) <= 1e-8


@pytest.mark.parametrize("name", ["kfac", "mass_stiffness"])
def test_scipy_makes_the_same_steps_on_a_network(name):
    problem, model = pl.problems.poisson(1), pl.models.mlp((1, 6, 1), seed=0)
    J = Jacobian(problem.residual(model, interior=40))
    A = Gram(J) + 1e-2 * Identity(J.domain)
    M = factory.kfac(Gram(J), damping=1e-2) if name == "kfac" else factory.mass_stiffness(problem, model, damping=1e-2)
    b = A.forward(A.domain.random(1, generator=torch.Generator().manual_seed(1)))[:, 0]
    pairs = iterates(A, M, b)
    assert len(pairs) >= 5
    assert difference(pairs) <= 1e-8
