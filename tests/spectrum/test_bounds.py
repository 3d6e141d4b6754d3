"""Probabilistic bounds against the distributions they are quantiles of."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precondlab.krylov import golub_kahan, lanczos
from precondlab.operators import Diagonal
from precondlab.spectrum.bounds import beyond, component_quantile

FAMILIES = {
    "power": np.arange(1, 201.0) ** -2,
    "log": np.logspace(0, -8, 200),
    "linear": np.linspace(0.5, 1, 200),
    "isolated": np.append(np.linspace(0.5, 1, 199), 1e-3),
}


@pytest.mark.parametrize("size", [2, 3, 50])
@pytest.mark.parametrize("complex", [False, True])
def test_component_quantile_is_that_of_random_vectors(size, complex):
    dtype = torch.complex128 if complex else torch.float64
    V = torch.randn(size, 200_000, dtype=dtype, generator=torch.Generator().manual_seed(size))
    component = (V[0] / V.norm(dim=0)).abs()
    share = (component <= component_quantile(size, 0.1, complex=complex)).double().mean().item()
    assert share == pytest.approx(0.1, abs=5 * (0.09 / 200_000) ** 0.5)


@given(st.sampled_from(sorted(FAMILIES)), st.integers(1, 60), st.integers(0, 2**31))
def test_the_enclosure_holds_whenever_the_start_has_the_component(family, steps, seed):
    values = FAMILIES[family]
    A = Diagonal(torch.as_tensor(values))
    start = A.domain.random(generator=torch.Generator().manual_seed(seed))
    component = (start[[values.argmax(), values.argmin()]].abs().min() / start.norm()).item()
    *_, T = lanczos(A, start, num_matvecs=steps)
    lower, upper = beyond(T.eigh()[0], T.offdiagonal, component)
    assert lower <= values.min() + 1e-13 and upper >= values.max() - 1e-13
    *_, B = golub_kahan(A, start, num_matvecs=steps)
    lower, upper = beyond(B.svd()[0], B.diagonal * B.superdiagonal, component, squared=True)
    assert lower <= values.min() + 1e-13 and upper >= values.max() - 1e-13


@pytest.mark.parametrize("family", ["power", "linear"])
def test_the_enclosure_fails_no_more_often_than_its_component_says(family):
    values, steps, runs = FAMILIES[family], 6, 300
    A = Diagonal(torch.as_tensor(values))
    component, failures = component_quantile(200, 0.2), 0
    for seed in range(runs):
        *_, T = lanczos(A, A.domain.random(generator=torch.Generator().manual_seed(seed)), num_matvecs=steps)
        failures += values.max() > beyond(T.eigh()[0], T.offdiagonal, component)[1] + 1e-12
    assert failures <= 0.2 * runs + 4 * (0.16 * runs) ** 0.5
