"""What optimizers ask of a residual: its values at trial points, by the way that is right for every block."""

import pytest
import torch
from torch import nn

import precondlab as pl
from precondlab.differentiation.calculus import Pointwise, apply
from precondlab.symbol import Symbol
from precondlab.training.rows import routes, values

F64 = torch.float64


def poisson(model, seed=0, **options):
    return pl.problems.poisson(dim=2).residual(model, interior=70, boundary=20, seed=seed, **options)


def network(*between):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 6), nn.Tanh(), *between, nn.Linear(6, 1)).double()


def compare(r, known=None):
    found = values(r, known)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        theta = r.domain.ravel(r.params).detach() + 0.1 * r.domain.random(generator=generator)
        expected = r(theta)
        assert (found(theta) - expected).norm() <= 1e-13 * expected.norm()


def test_weights_are_those_of_the_map():
    r = poisson(network(), weights={"interior": 1e-2, "boundary": 30.0})
    assert set(routes(r).values()) == {"jets"}
    for other in (
        r,
        r.reweighted({"interior": 7.0}),
        r.reweighted(pl.preconditioners.equalize(pl.Gram(pl.Jacobian(r)))),
    ):
        compare(other, routes(r))


def test_blocks_without_closed_forms_are_evaluated_as_the_map_does():
    """A block of each kind, the one without a closed form in the middle, of several columns and changed weights."""
    model, x = network(), torch.rand(25, 2, dtype=F64)
    rows = Pointwise(model, lambda x, u: apply(Symbol.laplacian(2), u, x))

    def gradient(p, x):
        x = x.detach().requires_grad_()
        u = torch.func.functional_call(model, p, (x,))
        return torch.autograd.grad(u.sum(), x, create_graph=True)[0]

    blocks = {"one": rows, "two": gradient, "three": rows}
    points = {"one": x, "two": x[:7], "three": x[::3]}
    params = dict(model.named_parameters())
    r = pl.Map(blocks, params, points=points, weights={"two": 4.0}, quadrature={"three": torch.rand(9)})
    assert routes(r) == {"one": "jets", "two": "graph", "three": "jets"}
    compare(r)


@pytest.mark.parametrize("layer", [nn.Softmax(-1), None])
def test_trial_points_cost_no_nested_differentiation_where_closed_forms_are_known(monkeypatch, layer):
    model = network(*([] if layer is None else [layer]))
    optimizer = pl.optim.LevenbergMarquardt(poisson(model))
    optimizer.step()
    asked, evaluate = [], pl.Map.unweighted
    monkeypatch.setattr(pl.Map, "unweighted", lambda self, *options: asked.append(1) or evaluate(self, *options))
    optimizer.step()
    assert len(asked) == 0 if layer is None else len(asked) >= optimizer.diagnostics.trials


def test_steps_by_closed_forms_are_those_by_the_map():
    model, twin = network(), network()
    optimizer, plain = pl.optim.LevenbergMarquardt(poisson(model)), pl.optim.LevenbergMarquardt(poisson(twin))
    plain._routes = dict.fromkeys(plain.residual.codomain.shapes, "graph")
    for _ in range(3):
        assert optimizer.step().item() == pytest.approx(plain.step().item(), rel=1e-8)
        assert optimizer.diagnostics.damping == pytest.approx(plain.diagnostics.damping)


@pytest.mark.parametrize("change", ["points", "frozen", "activation"])
def test_what_changes_between_steps_is_seen(change):
    """Points and frozen weights changed in place, and a layer exchanged, against the map as it is then."""
    model = network(nn.Linear(6, 6, bias=False).double().requires_grad_(False))
    optimizer = pl.optim.LevenbergMarquardt(poisson(model))
    optimizer.step()
    with torch.no_grad():
        if change == "points":
            optimizer.residual.points["interior"].mul_(0.9)
        elif change == "frozen":
            model[2].weight.mul_(0.5)
        else:
            model[1] = nn.Sigmoid()
    expected = 0.5 * optimizer.residual.value.square().sum().item()
    assert optimizer.step().item() == pytest.approx(expected, rel=1e-10)
    after = 0.5 * optimizer.residual.value.square().sum().item()
    assert optimizer.diagnostics.accepted and optimizer.diagnostics.reached == pytest.approx(after, rel=1e-10)


def test_closed_forms_that_are_wrong_at_some_points_are_refused():
    """One point, which no sample holds, asks for another derivative than the others."""
    model, x = network(), torch.rand(200, 2, dtype=F64)
    odd = x[3, 0].item()

    def rows(x, u):
        value = apply(Symbol.derivative(2, 0), u, x)
        there = x[:, 0] == odd
        return torch.where(there, apply(Symbol.derivative(0, 2), u, x), value) if there.any() else value

    params = dict(model.named_parameters())
    r = pl.Map({"": Pointwise(model, rows)}, params, points={"": x})
    assert routes(r) == {"": "graph"}
    compare(r)
    optimizer = pl.optim.LevenbergMarquardt(r)
    optimizer.step()
    assert optimizer.diagnostics.accepted
