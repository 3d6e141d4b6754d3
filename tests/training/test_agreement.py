"""A closure belongs to the residual that is minimized: multiples of its loss pass, anything else changes nothing."""

import copy

import pytest
import torch

import precondlab as pl
from precondlab.errors import Breakdown
from precondlab.preconditioners import jacobi
from precondlab.training.optimizers.agreement import agreement

X = torch.linspace(0, 1, 30, dtype=torch.float64)[:, None]


def sgd(residual):
    return pl.optim.Preconditioned(residual, torch.optim.SGD(residual.params.values(), lr=1e-2), make=jacobi)


KINDS = [pl.optim.LevenbergMarquardt, pl.optim.LBFGS, pl.optim.Spring, sgd]


def make(kind=pl.optim.LevenbergMarquardt, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(1, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)).to(dtype)
    return model, kind(pl.Map.of_module(model, lambda: fit(model)))


def fit(model, x=X):
    x = x.to(next(model.parameters()).dtype)
    return (model(x) - torch.sin(5 * x))[:, 0]


def closure(model, loss, *, backward=True, zero=True):
    def run():
        if zero:
            model.zero_grad()
        value = loss(model)
        if backward:
            value.backward()
        return value

    return run


def parameters(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def mean(model):
    return fit(model).square().mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_any_multiple_of_the_loss_takes_the_same_steps_as_no_closure(kind, backward, dtype):
    model, optimizer = make(kind, dtype)
    twin, alone = make(kind, dtype)
    for _ in range(4):
        optimizer.step(closure(model, mean, backward=backward))
        alone.step()
    assert torch.equal(parameters(model), parameters(twin))


WRONG = {
    "points": lambda model: fit(model, X[:10]).square().sum(),
    "penalty": lambda model: mean(model) + 1e-3 * parameters_of(model).square().sum(),
    "model": lambda model: mean(copy.deepcopy(model)) + 0 * mean(model),
    "sign": lambda model: -mean(model),
}


def parameters_of(model):
    return torch.cat([p.reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_another_loss_is_refused_before_anything_moves(kind, backward, wrong):
    model, optimizer = make(kind)
    before, state = parameters(model), copy.deepcopy(optimizer.solver)
    with pytest.raises(ValueError, match=r"closure's loss is .* build the Map from the model"):
        optimizer.step(closure(model, wrong, backward=backward))
    assert torch.equal(parameters(model), before)
    assert str(state) == str(optimizer.solver)
    assert backward or all(p.grad is None for p in model.parameters())


def numbers(run):
    """Return a closure that returns a bare number, without a graph."""
    return lambda: run().item()


@pytest.mark.parametrize("wrong", [WRONG["points"], WRONG["penalty"]])
def test_of_a_bare_number_the_multiple_must_stay_the_same(wrong):
    model, optimizer = make()
    run = numbers(closure(model, wrong, backward=False))
    optimizer.step(run)
    before = parameters(model)
    with pytest.raises(ValueError, match="in the first step it was"):
        optimizer.step(run)
    assert torch.equal(parameters(model), before)


def test_the_graph_of_the_loss_is_left():
    model, optimizer = make()
    loss = mean(model)
    with torch.no_grad():
        assert agreement(lambda: loss, optimizer, None).proved
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_graph_that_the_closure_used_up_proves_nothing():
    model, optimizer = make()

    def run():
        loss = mean(model)
        torch.autograd.grad(loss, list(model.parameters()))
        return loss

    twin, alone = make()
    for _ in range(3):
        optimizer.step(run)
        alone.step()
    assert torch.equal(parameters(model), parameters(twin))


def test_every_map_is_compared_anew():
    model, optimizer = make()
    optimizer.step(closure(model, mean))
    optimizer.residual = pl.Map.of_module(model, lambda: fit(model, X[:20]))
    with pytest.raises(ValueError, match="its gradient is not"):
        optimizer.step(closure(model, mean))
    optimizer.step(closure(model, lambda model: fit(model, X[:20]).square().mean()))


def test_a_loss_that_is_not_finite_is_a_breakdown():
    model, optimizer = make()
    before = parameters(model)
    with pytest.raises(Breakdown, match="closure's loss is nan"):
        optimizer.step(lambda: float("nan"))
    assert torch.equal(parameters(model), before)


def test_what_is_no_loss_is_refused():
    model, optimizer = make()
    with pytest.raises(TypeError, match="should return its loss, a number, or None, got Tensor"):
        optimizer.step(lambda: fit(model))
    with pytest.raises(TypeError, match="got dict"):
        optimizer.step(lambda: {"loss": 1.0})


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_closures_own(kind):
    model, optimizer = make(kind)
    optimizer.step()
    optimizer.step(closure(model, mean, backward=False))
    assert all(p.grad is None for p in model.parameters())
    expected = torch.autograd.grad(mean(model), list(model.parameters()))
    optimizer.residual = pl.Map.of_module(model, lambda: fit(model))
    optimizer.step(closure(model, mean))
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def test_a_closure_may_add_to_gradients_that_are_there():
    model, optimizer = make()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    expected = torch.autograd.grad(mean(model), list(model.parameters()))
    optimizer.step(closure(model, mean, zero=False))
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, 1 + gradient)


def test_gradients_that_were_there_are_not_taken_for_the_closures():
    model, optimizer = make()
    mean(model).backward()
    run = numbers(closure(model, WRONG["points"], backward=False, zero=False))
    optimizer.step(run)
    with pytest.raises(ValueError, match="in the first step it was"):
        optimizer.step(run)


@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_round_off_is_no_disagreement(backward, dtype):
    """Down to where loss and gradient are round-off of numbers of size 1, on a new map in every step."""
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 1).to(dtype)
    x, target = torch.randn(9, 6, dtype=dtype), torch.randn(9, 1, dtype=dtype)
    for consistent in (False, True):
        y = target if not consistent else x.sum(1, keepdim=True) + 1
        optimizer = pl.optim.LevenbergMarquardt(pl.Map.of_module(model, lambda y=y: model(x) - y))

        def loss(model, y=y):  # summed in another order
            return 3 * sum((model(x[i : i + 1]) - y[i]).square().sum() for i in reversed(range(9)))

        for k in range(12):
            if k % 2:
                optimizer.residual = pl.Map.of_module(model, lambda y=y: model(x) - y)
            optimizer.step(closure(model, loss, backward=backward))
        assert optimizer.diagnostics.limit == "stationary" or optimizer.diagnostics.loss < 1e-6


def test_a_loss_of_zero_is_right_only_where_ours_is_round_off():
    a = torch.tensor([0.1 + 0.2], dtype=torch.float64, requires_grad=True)
    optimizer = pl.optim.LBFGS(pl.Map(lambda p: p["a"] - 0.3, {"a": a}))
    assert 0 < optimizer.step(lambda: 0.0) < 1e-30
    with torch.no_grad():
        a.fill_(1.0)
    with pytest.raises(ValueError, match="it should be a positive multiple"):
        optimizer.step(lambda: 0.0)
