"""What every optimizer of the package does, found by walking it: descent, checkpoints, copies, schedules, refusals."""

import copy
import importlib
import inspect
import io
import itertools
import pkgutil
from functools import partial

import pytest
import torch

import precondlab as pl
from precondlab.errors import Breakdown


def discover():
    """Return the concrete optimizers that the modules of the package name, by name."""
    found = {}
    for info in pkgutil.iter_modules(pl.optim.__path__):
        module = importlib.import_module(f"{pl.optim.__name__}.{info.name}")
        for name in module.__all__:
            candidate = getattr(module, name)
            if inspect.isclass(candidate) and issubclass(candidate, torch.optim.Optimizer):
                found[name] = candidate
    return {name: kind for name, kind in sorted(found.items()) if not inspect.isabstract(kind)}


def preconditioned(base, **options):
    def make(residual):
        sketch = partial(pl.preconditioners.nystrom, rank=min(5, residual.domain.size), damping=1.0)
        return pl.optim.Preconditioned(residual, base(residual.params.values()), make=sketch, every=3, **options)

    return make


# Only optimizers that need more than a residual, or draw random numbers if they are told to, are named here.
NEEDY = {
    "LevenbergMarquardt": {
        "LevenbergMarquardt": pl.optim.LevenbergMarquardt,
        "LevenbergMarquardt, sketched": partial(pl.optim.LevenbergMarquardt, solver="sketch", size=12),
    },
    "Preconditioned": {
        "Preconditioned SGD": preconditioned(partial(torch.optim.SGD, lr=0.1)),
        "Preconditioned momentum": preconditioned(partial(torch.optim.SGD, lr=0.05, momentum=0.5), drift=0.1),
        "Preconditioned Adam": preconditioned(partial(torch.optim.Adam, lr=1e-2)),
    },
}
OPTIMIZERS = {
    title: make
    for name, kind in discover().items()
    for title, make in NEEDY.get(name, {name: kind}).items()
}  # fmt: skip
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
LAYERED = {"KFAC"}  # look into the layers of a network
ANY = {title: make for title, make in OPTIMIZERS.items() if title not in LAYERED}
every_optimizer_of_any_map = pytest.mark.parametrize("make", ANY.values(), ids=ANY.keys())


def poisson(seed=0, sizes=(2, 16, 1)):
    model = pl.models.mlp(sizes, seed=seed)
    return model, pl.problems.poisson(dim=sizes[0]).residual(model, interior=24, boundary=8, seed=0)


def half_square(residual):
    return 0.5 * residual.value.square().sum().item()


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_the_walk_finds_what_users_see():
    assert list(discover()) == sorted(pl.optim.__all__)


@every_optimizer
def test_the_loss_before_each_step_is_returned_and_falls(make):
    _, r = poisson()
    optimizer = make(r)
    first = half_square(r)
    for k in range(30):
        before = half_square(r)
        assert optimizer.step().item() == pytest.approx(before, rel=1e-12)
        assert optimizer.diagnostics.loss == pytest.approx(before, rel=1e-12)
        assert isinstance(optimizer.diagnostics.limit, str)
        assert optimizer.diagnostics.accepted or optimizer.diagnostics.limit == "stationary"
        if k >= 5 and half_square(r) < 0.8 * first:
            break
    assert half_square(r) < 0.8 * first


@every_optimizer
def test_a_step_is_as_long_as_it_says(make):
    _, r = poisson()
    optimizer = make(r)
    for _ in range(3):
        before = r.domain.ravel({name: p.detach().clone() for name, p in r.params.items()})
        optimizer.step()
        moved = (r.domain.ravel(r.params) - before).norm().item()
        assert optimizer.diagnostics.length == pytest.approx(moved, rel=1e-6)


@every_optimizer
def test_a_checkpoint_continues_bit_for_bit(make):
    model, r = poisson()
    optimizer = make(r)
    for _ in range(5):
        optimizer.step()
    saved = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    expected = [optimizer.step().item() for _ in range(5)]
    twin, r_twin = poisson(seed=1)
    resumed = make(r_twin)
    resumed.step()
    twin.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    assert [resumed.step().item() for _ in range(5)] == expected
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


@every_optimizer
def test_single_precision_stays_single_and_resumes(make):
    def build(seed):
        model = pl.models.mlp((1, 8, 1), dtype=torch.float32, seed=seed)
        return model, make(pl.problems.poisson(dim=1).residual(model, interior=20))

    model, optimizer = build(0)
    for _ in range(3):
        assert optimizer.step().dtype == torch.float32
    saved = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    twin, resumed = build(1)
    twin.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    assert [resumed.step().item() for _ in range(3)] == [optimizer.step().item() for _ in range(3)]


@every_optimizer
def test_a_deep_copy_goes_its_own_way_also_under_a_scheduler(make):
    model, r = poisson()
    optimizer = make(r)
    optimizer.step()
    torch.optim.lr_scheduler.StepLR(optimizer, 10)
    before = copy.deepcopy(model.state_dict())
    twin = copy.deepcopy(optimizer)
    losses = [twin.step().item() for _ in range(3)]
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert [optimizer.step().item() for _ in range(3)] == losses


@every_optimizer
def test_a_closure_is_called_once_with_gradients_on(make):
    _, r = poisson()
    optimizer, called = make(r), []
    optimizer.step(lambda: called.append(torch.is_grad_enabled()))
    assert called == [True]


@every_optimizer
def test_a_scheduler_shortens_steps(make):
    lengths = []
    for factor in (1.0, 0.125):
        optimizer = make(poisson()[1])
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _, factor=factor: factor)
        optimizer.step()
        lengths.append(optimizer.diagnostics.length)
    assert lengths[1] <= lengths[0] / 2


@every_optimizer_of_any_map
def test_a_loss_that_is_not_finite_leaves_everything_as_it_was(make):
    a = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    r = pl.Map(lambda p: p["a"].log() - 1, {"a": a})
    optimizer = make(r)
    optimizer.step()
    with torch.no_grad():
        a.copy_(torch.tensor([-1.0, 3.0]))
    with pytest.raises(Breakdown, match=r"not finite|loss is nan"):
        optimizer.step()
    assert a.tolist() == [-1.0, 3.0]
    with torch.no_grad():
        a.fill_(1.0)
    assert optimizer.step().item() == 1.0


@every_optimizer
def test_the_state_of_other_parameters_is_refused(make):
    optimizer = make(poisson()[1])
    with pytest.raises(ValueError, match="other parameters"):
        optimizer.load_state_dict(make(poisson(sizes=(2, 5, 1))[1]).state_dict())


@pytest.mark.parametrize(("one", "other"), list(itertools.pairwise(discover())))
def test_the_state_of_another_optimizer_is_refused(one, other):
    one, other = (NEEDY.get(name, {name: discover()[name]}) for name in (one, other))
    one, other = (next(iter(makes.values()))(poisson()[1]) for makes in (one, other))
    with pytest.raises(ValueError, match="belongs to another optimizer"):
        one.load_state_dict(other.state_dict())


@every_optimizer
def test_the_state_of_a_plain_torch_optimizer_is_refused(make):
    model, r = poisson()
    with pytest.raises(ValueError, match="belongs to"):
        make(r).load_state_dict(torch.optim.Adam(model.parameters()).state_dict())


@every_optimizer_of_any_map
def test_a_rank_deficient_jacobian_is_harmless(make):
    a = torch.tensor([1.0, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    optimizer = make(pl.Map(lambda p: (p["a"][0] + 2 * p["a"][1] - 5) * torch.ones(4).double(), {"a": a}))
    losses = [optimizer.step().item() for _ in range(40)]
    assert losses[-1] < losses[0] and a.isfinite().all()
    assert a[2].item() == pytest.approx(3.0, abs=1e-6)  # seen by no row


@every_optimizer
def test_the_residual_can_be_replaced_by_one_of_the_same_model(make):
    model, r = poisson()
    optimizer = make(r)
    optimizer.step()
    optimizer.residual = pl.problems.poisson(dim=2).residual(model, interior=30, boundary=8, seed=5)
    assert optimizer.step().item() == pytest.approx(optimizer.diagnostics.loss)
    with pytest.raises(ValueError, match="same model"):
        optimizer.residual = poisson()[1]


@every_optimizer
def test_a_residual_that_is_no_map_is_refused(make):
    if make in NEEDY["Preconditioned"].values():
        make = partial(pl.optim.Preconditioned, base=torch.optim.SGD([torch.ones(1)]), make=pl.preconditioners.jacobi)
    with pytest.raises(TypeError, match=r"expected a pl\.Map"):
        make([torch.ones(2)])


@every_optimizer
def test_a_residual_is_replaced_by_a_map_only(make):
    optimizer = make(poisson()[1])
    with pytest.raises(TypeError, match=r"expected a pl\.Map, got int"):
        optimizer.residual = 3


@every_optimizer
@pytest.mark.parametrize("state", [{}, {"state": {}}, [1, 2]])
def test_what_is_no_state_is_refused(make, state):
    with pytest.raises(
        ValueError, match=r"expected what state_dict\(\) returned, with 'state' and 'param_groups', got"
    ):
        make(poisson()[1]).load_state_dict(state)


@every_optimizer
def test_parameters_cannot_be_added(make):
    optimizer = make(poisson()[1])
    with pytest.raises(ValueError, match="build a new Map that has the others too"):
        optimizer.add_param_group({"params": [torch.ones(1, requires_grad=True)]})
    assert len(optimizer.param_groups) == 1


@every_optimizer
def test_options_are_loaded_with_the_state(make):
    one, other = make(poisson()[1]), make(poisson()[1])
    for name, value in one.param_groups[0].items():
        if name != "params" and isinstance(value, int | float) and not isinstance(value, bool):
            one.param_groups[0][name] = value + 1
    other.load_state_dict(through_a_file(one.state_dict()))
    for name, value in one.param_groups[0].items():
        assert name == "params" or other.param_groups[0][name] == value


@pytest.mark.parametrize("name", ["LevenbergMarquardt", "LBFGS", "KFAC", "SelfScaledBroyden"])
def test_a_learning_rate_is_positive_and_one_if_none_is_given(name):
    kind = getattr(pl.optim, name)
    assert kind(poisson()[1]).param_groups[0]["lr"] == 1.0
    with pytest.raises(ValueError, match=f"{name}: lr should be positive, got 0"):
        kind(poisson()[1], lr=0)
