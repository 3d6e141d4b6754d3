"""Drawn operators have the spectrum they claim; faults are what they say and hurt nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from precondlab.operators import Dense, Diagonal, Identity
from precondlab.space import Space
from precondlab.testing import CheckFailed, Faulty, Injected, check_operator
from precondlab.testing.strategies import faults, generators, operators_with_spectrum, spectra, starts

F64 = torch.float64


@given(st.data())
def test_spectra_are_what_they_promise(data):
    condition, signed = data.draw(st.sampled_from([1e2, 1e8, 1e16])), data.draw(st.booleans())
    values = data.draw(spectra(min_size=1, max_size=200, condition=condition, signed=signed))
    sizes = values.abs()
    assert values.dtype == F64 and values.isfinite().all()
    assert sizes[0] == 1 and (sizes.diff() <= 0).all()
    assert sizes[sizes > 0].min() >= 1 / condition * (1 - 1e-15)
    assert signed or (values >= 0).all()


@settings(max_examples=60)
@given(known=operators_with_spectrum(max_size=5, dtypes=[F64, torch.float32], scaled=True))
def test_drawn_operators_have_their_spectrum_to_forty_digits(known, forty_digits):
    exact, stated = forty_digits(known.operator), known.values
    assert len(stated) == min(known.operator.shape) and (np.diff(stated) <= 0).all()
    assert (np.abs(exact - stated) <= known.rtol * np.abs(stated) + 1e-35 * known.norm).all()


@settings(max_examples=40)
@given(operators_with_spectrum(min_size=0, max_size=9, dtypes=[F64, torch.float32], scaled=True))
def test_drawn_operators_meet_the_contract(known):
    if min(known.operator.shape):
        check_operator(known.operator)
    else:
        assert (known.norm, known.rank) == (0.0, 0) and "none" in repr(known)


@given(st.data(), operators_with_spectrum())
def test_starts(data, known):
    v = data.draw(starts(known))
    assert v.shape == known.operator.shape[1:] and torch.linalg.vector_norm(v).item() == pytest.approx(1)


def test_the_kinds_of_starts():
    """The three that are special, in a matrix where one sees it."""
    known = operators_with_spectrum(min_size=6, max_size=6, kinds=["diagonal"], condition=10)

    @settings(max_examples=60, database=None)
    @given(known.flatmap(lambda k: st.tuples(st.just(k), starts(k))))
    def collect(pair):
        k, v = pair
        if (v == v[0]).all():
            seen.add("constant")
        elif torch.linalg.vector_norm(k.operator @ v - (v @ (k.operator @ v)) * v) <= 1e-14:
            seen.add("eigenvector")
        elif v[np.abs(k.operator.entries.numpy()).argmax()].abs() <= 1e-15:
            seen.add("orthogonal")
        else:
            seen.add("uniform")

    seen = set()
    collect()
    assert seen == {"constant", "eigenvector", "orthogonal", "uniform"}


A = Dense(torch.diag(torch.linspace(1, 2, 6, dtype=F64)), symmetric=True)
V = torch.randn(6, 4, dtype=F64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("fault", ["nan", "inf"])
@pytest.mark.parametrize("at", [0, 2, 5])
def test_a_number_that_is_not_finite_comes_once_and_where_told(fault, at):
    B = Faulty(A, fault=fault, at=at)
    results = torch.cat([B @ V, B.H @ V], dim=1)
    bad = ~results.isfinite()
    assert bad.sum() == 1 and bad[0, at]
    assert torch.equal(results[~bad], torch.cat([A @ V, A @ V], dim=1)[~bad])
    assert str(results[0, at].item()) == fault


def test_an_exception_comes_once_and_when_told():
    B = Faulty(A, fault="raise", at=5)
    _ = B @ V
    with pytest.raises(Injected, match="product number 5"):
        _ = B @ V
    assert torch.equal(B @ V, A @ V)


@given(generators(), st.sampled_from([1e-10, 1e-3, 1.0]))
def test_noise_and_asymmetry_have_the_level_they_are_given(generator, level):
    many = Diagonal(torch.linspace(1, 2, 400, dtype=F64))
    v = many.domain.random(1, generator=generator)
    exact = many @ v
    error = torch.linalg.vector_norm(Faulty(many, noise=level, generator=generator) @ v - exact)
    assert 0.8 * level <= error / torch.linalg.vector_norm(exact) <= 1.2 * level
    B = Faulty(A, asymmetry=level, generator=generator)
    skew = B.dense() - A.dense()
    assert torch.allclose(skew, -skew.T, atol=1e-15)
    assert 0.5 * level <= torch.linalg.matrix_norm(skew, 2) / 2 * (1 + 1e-9) <= level * 1.01
    assert B.symmetric


def test_drift_depends_on_the_past():
    B = Faulty(A, drift=0.5)
    assert torch.allclose(B @ V, A @ V * (1 + 0.5 * torch.arange(4, dtype=F64)))
    assert torch.allclose(B @ V[:, 0], 3 * (A @ V[:, 0]))


@given(faults(A))
def test_the_contract_sees_every_fault_of_a_size_it_can_see(B):
    if B.fault == "raise":
        with pytest.raises(Injected):
            check_operator(B)
    elif B.fault or B.noise > 1e-11 or B.drift > 1e-11 or B.asymmetry > 1e-11:
        with pytest.raises(CheckFailed):
            check_operator(B)


def test_asymmetry_needs_a_symmetric_operator():
    with pytest.raises(ValueError, match="needs a symmetric operator"):
        Faulty(Dense(torch.ones(2, 3)), asymmetry=1.0)
    zero = 0 * Identity(Space(3))
    assert not (Faulty(zero, asymmetry=1.0) @ torch.ones(3, dtype=F64)).any()
