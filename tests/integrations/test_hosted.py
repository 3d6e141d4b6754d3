"""Optimizers under a bare torch loop that builds them from parameters and calls step(closure)."""

import copy
import importlib
import sys

import pytest
import torch

import precondlab as pl
from precondlab.errors import Breakdown
from precondlab.integrations import Hosted

X = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]


def fit(model, x=X):
    return (model(x) - torch.sin(3 * x)) / len(x) ** 0.5


def make(seed=0, method=pl.optim.LevenbergMarquardt, **options):
    model = pl.models.mlp((1, 8, 1), seed=seed)
    optimizer = Hosted(model.parameters(), method, **options)
    optimizer.follow(pl.Map.of_module(model, lambda: fit(model)))

    def closure():
        optimizer.zero_grad()
        loss = fit(model).square().sum()
        loss.backward()
        return loss

    return model, optimizer, closure


def parameters(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def test_it_takes_the_steps_of_the_optimizer_itself_and_returns_the_hosts_loss():
    model, optimizer, closure = make()
    twin = copy.deepcopy(model)
    alone = pl.optim.LevenbergMarquardt(pl.Map.of_module(twin, lambda: fit(twin)))
    losses = []
    for _ in range(20):
        expected = closure().item()
        losses.append(optimizer.step(closure).item())
        assert losses[-1] == expected
        assert 2 * alone.step().item() == pytest.approx(expected, rel=1e-6)
    assert torch.equal(parameters(model), parameters(twin))
    assert losses[-1] < 1e-3 * losses[0]


def test_without_a_closure_the_loss_is_the_same():
    _, optimizer, _ = make()
    assert optimizer.step().item() == pytest.approx(make()[2]().item(), rel=1e-12)


@pytest.mark.parametrize("early", [True, False], ids=["before the first map", "after it"])
@pytest.mark.parametrize(
    ("method", "options"),
    [(pl.optim.LevenbergMarquardt, {}), (pl.optim.GradientDescent, {}), (pl.optim.GradientDescent, {"lr": 0.1})],
)
def test_a_saved_run_continues_bit_for_bit(tmp_path, method, options, early):
    model, optimizer, closure = make(1, method, **options)
    for _ in range(3):
        optimizer.step(closure)
    torch.save((model.state_dict(), optimizer.state_dict()), tmp_path / "run.pt")
    twin, resumed, again = make(2, method, **options)
    weights, state = torch.load(tmp_path / "run.pt", weights_only=True)
    twin.load_state_dict(weights)
    if early:
        resumed = Hosted(twin.parameters(), method, **options)
        resumed.load_state_dict(state)
        resumed.follow(pl.Map.of_module(twin, lambda: fit(twin)))
    else:
        resumed.load_state_dict(state)
    for _ in range(3):
        assert torch.equal(optimizer.step(closure), resumed.step(again))
    assert torch.equal(parameters(model), parameters(twin))


@pytest.mark.parametrize(
    ("method", "options"),
    [(pl.optim.GradientDescent, {}), (pl.optim.GradientDescent, {"lr": 0.05}), (pl.optim.LevenbergMarquardt, {})],
)
def test_a_schedule_scales_the_learning_rate_chosen_or_given(method, options):
    model, optimizer, closure = make(0, method, **options)
    before = parameters(model)
    optimizer.step(closure)
    whole = parameters(model) - before
    model, optimizer, closure = make(0, method, **options)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.25)
    optimizer.step(closure)
    torch.testing.assert_close(parameters(model) - before, 0.25 * whole)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda model: 1.01 * fit(model).square().sum(), ValueError, "the host's loss is"),
        (lambda model: fit(model).square().sum() + 1e-3 * parameters(model).norm(), ValueError, "no other terms"),
        (lambda model: fit(model, X[:10]).square().sum(), ValueError, "points of the map"),
        (lambda model: torch.nn.functional.dropout(fit(model), 0.5).square().sum(), ValueError, "call to call"),
        (lambda model: fit(model).sum() * float("nan"), Breakdown, "the host's loss is nan"),
        (lambda model: None, ValueError, "let it return the loss"),
    ],
    ids=["factor", "penalty", "points", "dropout", "nan", "none"],
)
def test_a_closure_that_does_not_match_the_map_changes_nothing(wrong, error, message):
    model, optimizer, _ = make()
    before, state = parameters(model), optimizer.inner.state_dict()
    with pytest.raises(error, match=message):
        optimizer.step(lambda: wrong(model))
    assert torch.equal(parameters(model), before)
    assert optimizer.inner.state_dict() == state


def test_a_run_down_to_round_off_matches_all_the_way():
    _, optimizer, closure = make()
    losses = [optimizer.step(closure).item() for _ in range(60)]
    assert losses[-1] < 1e-10 * losses[0]


def test_another_models_state_or_map_is_refused():
    model, optimizer, closure = make()
    other = pl.models.mlp((1, 5, 1), seed=0)
    foreign = Hosted(other.parameters(), pl.optim.LevenbergMarquardt)
    before = parameters(model)
    with pytest.raises(ValueError, match="its shapes is"):
        optimizer.load_state_dict(foreign.state_dict())
    with pytest.raises(ValueError, match="its method is GradientDescent"):
        optimizer.load_state_dict(Hosted(model.parameters(), pl.optim.GradientDescent).state_dict())
    with pytest.raises(ValueError, match="its method is None"):
        optimizer.load_state_dict(torch.optim.SGD(model.parameters(), lr=1).state_dict())
    with pytest.raises(ValueError, match="build both from the same model"):
        optimizer.follow(pl.Map.of_module(other, lambda: fit(other)))
    with pytest.raises(ValueError, match="no residual yet"):
        foreign.step()
    assert torch.equal(parameters(model), before)
    optimizer.step(closure)


def test_a_deep_copy_goes_its_own_way():
    model, optimizer, closure = make()
    optimizer.step(closure)
    before = parameters(model)
    twin = copy.deepcopy(optimizer)
    losses = [twin.step().item() for _ in range(2)]
    assert torch.equal(parameters(model), before)
    assert [optimizer.step().item() for _ in range(2)] == losses


@pytest.mark.parametrize(
    ("module", "packages"),
    [
        ("deepxde", ["deepxde"]),
        ("pina", ["pina", "pina.problem"]),
        ("lightning", ["lightning", "lightning.pytorch"]),
        ("huggingface", ["transformers"]),
    ],
)
def test_a_host_that_is_not_installed_is_named_with_its_extra(monkeypatch, module, packages):
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"precondlab.integrations.{module}", raising=False)

    def use():
        adapter = importlib.import_module(f"precondlab.integrations.{module}")
        adapter.residual(*[None] * (2 if module == "pina" else 1))

    with pytest.raises(ImportError, match=rf"pip install 'precondlab\[{module}\]'"):
        use()
