"""The public face of the contract: named checks, clear failures, no false alarm on good operators."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.sparse.linalg import aslinearoperator

import precondlab.testing as testing
from precondlab.models import mlp
from precondlab.operators import Dense, Identity, Jacobian
from precondlab.space import Space
from precondlab.testing import CheckFailed, check_operator, checks, tolerance
from precondlab.testing.strategies import generators, maps, models, operators, problems, spectra


def make():
    return Dense(torch.tensor([[2.0, 1.0], [1.0, 3.0]]), positive=True)


@pytest.mark.parametrize("check", checks(make()), ids=str)  # the two lines of the documentation
def test_mine(check):
    check()


def test_checks_are_named_pairs_and_do_nothing_until_called():
    broken = Dense(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), symmetric=True)
    found = dict(checks(broken))
    assert [str(check) for check in checks(broken)] == list(found)
    with pytest.raises(CheckFailed, match=r"symmetric: Dense\[2×2\]: .*measured .*, allowed "):
        found["symmetric"]()


def test_all_failures_are_told_at_once():
    class Bad(Dense):
        def _apply(self, V):
            return self.matrix @ V + 1

    with pytest.raises(AssertionError) as failure:
        check_operator(Bad(torch.eye(2)))
    assert {line.split(": ")[0] for line in str(failure.value).splitlines()} >= {
        "linear",
        "zero columns",
        "dense",
    }


def test_only_what_applies_is_checked():
    names = {check.name for check in checks(Dense(torch.ones(2, 3)))}
    assert not names & {"symmetric", "positive", "sqrt", "derivative"}
    assert "complex vectors" not in {check.name for check in checks(Dense(torch.ones(2, 2) + 0j))}
    assert "dense" not in {check.name for check in checks(Identity(Space(300)))}
    assert "dense" in {check.name for check in checks(Identity(Space(300)), matrix=torch.eye(300))}


def test_scipy_operators_can_be_checked():
    assert check_operator(aslinearoperator(np.arange(6.0).reshape(2, 3)))


def test_a_matrix_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"expected a matrix \(2, 2\), got \(3, 3\)"):
        check_operator(make(), matrix=torch.eye(3))


def test_rtol_replaces_the_tolerance():
    loose = torch.tensor([[2.0, 1.0], [1.001, 3.0]])
    with pytest.raises(CheckFailed):
        check_operator(Dense(loose, symmetric=True))
    check_operator(Dense(loose, symmetric=True), rtol=1e-2)


def test_a_check_gives_the_same_answer_alone_and_in_any_order():
    class Recording(Dense):
        def _apply(self, V):
            seen.append(V.clone())
            return self.matrix @ V

    seen: list[torch.Tensor] = []
    runs = []
    for order in (1, -1):
        every = checks(Recording(torch.eye(2)), generator=torch.Generator().manual_seed(5))[::order]
        for check in every:
            seen.clear()
            check()
            runs.append((check.name, torch.cat([torch.zeros(0), *(V.reshape(-1) for V in seen)])))
    first, second = dict(runs[: len(every)]), dict(runs[len(every) :])
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_tolerance_grows_with_size_gain_and_round_off():
    assert tolerance(torch.float32) > 1e8 * tolerance(torch.float64)
    assert tolerance(torch.float64, size=100) == pytest.approx(10 * tolerance(torch.float64))
    assert tolerance(torch.float64, gain=5) == pytest.approx(5 * tolerance(torch.float64))
    assert tolerance(torch.complex64) == tolerance(torch.float32)


@settings(max_examples=300)
@given(operators(max_size=9, depth=4), generators())
def test_no_false_alarm(pair, generator):
    operator, matrix = pair
    check_operator(operator, matrix=matrix, generator=generator)


@given(spectra(), spectra(signed=True))
def test_spectra_are_what_they_say(values, signed):
    assert values.abs().max() == 1
    assert (values >= 0).all()
    assert (values[:-1] >= values[1:]).all()
    assert (values[values > 0] >= 1e-12).all()
    assert signed.abs().max() == 1


@given(models())
def test_models_are_small_smooth_and_deterministic(model):
    x = torch.ones(2, model[0].in_features, dtype=torch.float64)
    assert not model.training
    assert torch.equal(model(x), model(x))
    assert sum(p.numel() for p in model.parameters()) < 120


@settings(max_examples=10)
@given(maps())
def test_maps_have_the_promised_blocks(r):
    assert list(r.codomain.shapes) == ["interior", "boundary"]


@settings(max_examples=10)
@given(problems(), generators())
def test_residuals_of_every_problem_meet_the_contract(problem, generator):
    model = mlp([problem.dim, 5, 1], seed=generator.initial_seed() % 1000)
    r = problem.residual(model, interior=9, boundary=4, seed=generator.initial_seed() % 1000)
    for check in checks(Jacobian(r), generator=generator):
        check()


def test_without_hypothesis_the_checks_work_and_strategies_say_what_to_install():
    program = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import torch, precondlab.testing as t\n"
        "from precondlab.operators import Dense\n"
        "t.check_operator(Dense(torch.eye(2)))\n"
        "try: t.strategies\n"
        "except ImportError as error: sys.exit('precondlab[testing]' not in str(error))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_unknown_names_are_attribute_errors():
    assert testing.strategies.spectra is spectra
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        testing.nothing  # noqa: B018
