"""Jacobians: dense oracle, chunks, blocks, weights, points, tied and frozen parameters."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import precondlab as pl
from precondlab import problems
from precondlab.map import Map
from precondlab.models import mlp
from precondlab.operators import Gram, Jacobian, Kernel, tangent
from precondlab.testing import check_operator, tolerance
from precondlab.testing.strategies import generators, maps, models

F64 = torch.float64
theta = {"a": torch.tensor([1.0, 2.0], dtype=F64)}


def dense(r, at=None):
    """Return the weighted Jacobian by torch.autograd.functional, row by row."""
    at = r.domain.ravel(r.params).detach() if at is None else at
    raw = torch.autograd.functional.jacobian(lambda t: r.raw(None)(r.domain.unravel(t)), at)
    return r.scale()[:, None] * raw


def assert_close(A, matrix):
    allowed = tolerance(matrix.dtype, size=min(matrix.shape) or 1, gain=matrix.norm().item() + 1)
    assert (A.dense() - matrix).norm() <= allowed


@settings(max_examples=10)
@given(maps(), generators())
def test_contract_and_dense_oracle(r, generator):
    check_operator(Jacobian(r), matrix=dense(r), generator=generator)


@settings(max_examples=5)
@given(maps(styles=["closure"]), generators())
def test_squares_meet_the_contract(r, generator):
    J, matrix = Jacobian(r), dense(r)
    check_operator(Gram(J), matrix=matrix.T @ matrix, generator=generator)
    check_operator(Kernel(J), matrix=matrix @ matrix.T, generator=generator)


@settings(max_examples=6)
@given(maps(dtypes=[torch.float32]), generators())
def test_single_precision(r, generator):
    check_operator(Jacobian(r), generator=generator)


@settings(max_examples=12)
@given(maps(), st.dictionaries(st.sampled_from(["interior", "boundary"]), st.sampled_from([0.0, 0.5, 9.0])))
def test_reweighted_is_rebuilt(r, weights):
    J, rebuilt = Jacobian(r), Jacobian(r.reweighted(weights))
    for A, B in [(J.reweighted(weights), rebuilt), (Gram(J).reweighted(weights), Gram(rebuilt))]:
        torch.testing.assert_close(A.dense(), B.dense())
    torch.testing.assert_close(Kernel(J).reweighted(weights).dense(), Kernel(rebuilt).dense())
    torch.testing.assert_close(J.reweighted(weights).value, rebuilt.value)
    torch.testing.assert_close(J.dense(), dense(r))  # the original is unchanged


@settings(max_examples=12)
@given(maps())
def test_blocks_are_rows_of_the_whole(r):
    J, matrix = Jacobian(r), dense(r)
    parts = {name: matrix[rows] for name, rows in r.codomain.slices.items()}
    for name, rows in parts.items():
        assert_close(J.block(name), rows)
        assert_close(Gram(J).block(name), rows.T @ rows)
        assert_close(Kernel(J).block(name), rows @ rows.T)
        torch.testing.assert_close(J.block(name).value, r.value[r.codomain.slices[name]])
        assert J.block(name).codomain.shapes == {name: r.codomain.shapes[name]}
    assert_close(Kernel(J).block("interior", "boundary"), parts["interior"] @ parts["boundary"].T)
    assert_close(
        J.reweighted({"boundary": 4.0}).block("boundary"),
        dense(r.reweighted({"boundary": 4.0}))[r.codomain.slices["boundary"]],
    )
    check_operator(J.block("boundary"))


@settings(max_examples=10)
@given(maps(styles=["blocks"]), st.integers(1, 6), generators())
def test_chunked_is_whole(r, rows, generator):
    whole = Jacobian(r)
    chunked = next(
        J for budget in (2**k for k in range(8, 31)) if (J := attempt(r, memory_budget=budget * rows)) is not None
    )
    V, U = r.domain.random(2, generator=generator), r.codomain.random(2, generator=generator)
    close = torch.testing.assert_close
    close(chunked @ V, whole @ V)
    close(chunked.H @ U, whole.H @ U)
    close(Gram(chunked) @ V, Gram(whole) @ V)
    close(chunked.value, whole.value)
    for name, part in r.codomain.slices.items():
        close(chunked.block(name) @ V, (whole @ V)[part])
        close(chunked.block(name).H @ U[part], whole.block(name).H @ U[part])


def attempt(r, **options):
    try:
        return Jacobian(r, **options)
    except ValueError:
        return None


def long_map(n=100):
    x = torch.linspace(0, 1, n, dtype=F64)
    return Map(
        {"in": lambda p, x: torch.sin(p["a"][0] * torch.exp(x)), "out": lambda p, x: p["a"][1] ** 2 * x},
        theta,
        points={"in": x, "out": x[:7]},
    )


def test_chunks_are_named_and_vectors_split_inside_them():
    r = long_map()
    J = Jacobian(r, memory_budget=2_000)
    assert "% rebuilt" in repr(J)
    assert_close(J, dense(r))
    check_operator(J)
    check_operator(Gram(J))
    assert "rebuilt" not in repr(Jacobian(r))


@pytest.mark.parametrize("route", ["graph", "jets"])
def test_copies_come_out_of_the_budget(route):
    model = mlp((2, 64, 1), seed=0)
    x, large = torch.rand(4000, 2, dtype=F64), torch.zeros(200_000, dtype=F64)
    copied = x.nbytes + x[:, 0].nbytes  # points and the numbers known at them

    def jacobian(budget, **frozen):
        rows = pl.Pointwise(model, lambda x, u, known: u(x)[:, 0] ** 2 - known, x[:, 0])
        params = {**dict(model.named_parameters()), **frozen}
        return Jacobian(Map({"": rows}, params, points={"": x}), route=route, memory_budget=budget)

    budget, more = 9_000_000, large.nbytes
    made = [jacobian(budget), jacobian(budget + more, large=large), jacobian(budget, large=large)]
    kept = [(J._chunks.rebuilt, [rows for rows, _, _ in J._chunks.rows]) for J in made]
    assert kept[0] == kept[1] and kept[0][0] < kept[2][0]
    needed = f"which needs about .*, and {copied:,} for copies of points"
    with pytest.raises(ValueError, match=f"memory_budget={copied:,} bytes is too small for one row, {needed}"):
        jacobian(copied)
    assert_close(jacobian(copied + 50_000), jacobian(2**30).dense())


def test_rows_with_several_components():
    x = torch.rand(20, 2, dtype=F64)
    r = Map({"": lambda p, x: x[:, :, None] * p["a"] ** 2}, theta, points={"": x})
    assert r.codomain.shapes[""] == (20, 2, 2)
    assert_close(Jacobian(r, memory_budget=1000), dense(r))


@pytest.mark.parametrize("as_dict", [False, True])
def test_another_point(as_dict):
    r, at = long_map(5), torch.tensor([0.3, -2.0], dtype=F64)
    J = Jacobian(r, at=r.domain.unravel(at) if as_dict else at)
    assert_close(J, dense(r, at))
    check_operator(J)


def test_the_point_is_kept_when_parameters_move_on():
    parameter = torch.ones(2, dtype=F64)
    J = Jacobian(Map(lambda p: p["a"] ** 2, {"a": parameter}))
    parameter.mul_(5)
    torch.testing.assert_close(J.dense(), 2 * torch.eye(2, dtype=F64))
    check_operator(J)


@settings(max_examples=10)
@given(models(outputs=1), generators())
def test_tangent_map_of_a_model(model, generator):
    x = torch.randn(5, model[0].in_features, dtype=F64, generator=generator)
    if not any(p.requires_grad for p in model.parameters()):
        return
    T = tangent(model, x)
    rows = [
        torch.autograd.grad(u, [p for p in model.parameters() if p.requires_grad], retain_graph=True)
        for u in model(x)[:, 0]
    ]
    expected = torch.stack([torch.cat([g.reshape(-1) for g in row]) for row in rows])
    assert_close(T, expected)


def test_tied_weights_are_one_parameter():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Tanh(), nn.Linear(2, 2, bias=False)).double()
    model[2].weight = model[0].weight
    x = torch.rand(3, 2, dtype=F64)
    for J in (tangent(model, x), Jacobian(Map.of_module(model, lambda: model(x)))):
        assert J.shape == (6, 4)
        check_operator(J)  # finite differences move both uses


def test_scalar_parameters():
    r = Map(lambda p: p["s"] ** 2 * torch.ones(3, dtype=F64), {"s": torch.tensor(2.0, dtype=F64)})
    torch.testing.assert_close(Jacobian(r).dense(), torch.full((3, 1), 4.0, dtype=F64))


def test_unused_parameters_are_exact_zeros():
    r = Map(lambda p: p["a"] ** 2, {**theta, "unused": torch.ones(3, dtype=F64)})
    for route in ("graph", "functional", "dual"):
        J = Jacobian(r, route=route)
        assert not J.dense()[:, 2:].any()
        assert not (J.H @ torch.ones(2, dtype=F64))[2:].any()


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (
            lambda r: Jacobian(lambda p: p),
            TypeError,
            r"expected a pl.Map, got function; make one by pl.Map\(",
        ),
        (lambda r: Jacobian(r, at=torch.ones(3, dtype=F64)), ValueError, r"size 2, got \(3,\)"),
        (
            lambda r: Jacobian(r, at={"b": theta["a"]}),
            ValueError,
            r"expected the blocks \['a'\], got \['b'\]",
        ),
        (
            lambda r: Jacobian(r, at=torch.ones(2)),
            TypeError,
            r"expected torch.float64.*got torch.float32.*\.to\(",
        ),
        (lambda r: Jacobian(r, at=torch.ones(2, dtype=F64, device="meta")), TypeError, "on cpu.*on meta"),
        (lambda r: Jacobian(r, at=torch.full((2,), torch.nan, dtype=F64)), ValueError, "not finite"),
        (
            lambda r: Jacobian(r, memory_budget=1),
            ValueError,
            "memory_budget=1 bytes is too small for one row",
        ),
        (lambda r: Jacobian(r).block("inn"), ValueError, r"no block 'inn'; the residual has \['in', 'out'\]"),
        (lambda r: Jacobian(r).reweighted({"inn": 1.0}), ValueError, r"unknown blocks \['inn'\]"),
    ],
)
def test_mistakes_are_refused(make, kind, message):
    with pytest.raises(kind, match=message):
        make(long_map())


def test_a_formed_jacobian_is_the_same_operator():
    model = mlp((2, 6, 1), seed=0)
    r = problems.poisson(dim=2).residual(model, interior=20, boundary=8)
    J = Jacobian(r)
    formed = Gram(J).formed().J
    assert "dense" in repr(formed)
    check_operator(formed)
    v = r.domain.random()
    for a, b in ((formed, J), (formed.block("boundary"), J.block("boundary"))):
        torch.testing.assert_close(a @ v, b @ v)
    other = {"boundary": 5.0}
    torch.testing.assert_close(formed.reweighted(other) @ v, J.reweighted(other) @ v)
    with pytest.raises(ValueError, match="stay matrix-free"):
        Jacobian(r, memory_budget=5_000).formed()


def test_a_plan_forms_small_jacobians_for_many_products_and_none_over_the_budget():
    model = mlp((2, 6, 1), seed=0)
    r = problems.poisson(dim=2).residual(model, interior=20, boundary=8)
    plan = Gram(Jacobian(r)).plan(num_matvecs=100_000)
    assert plan.way == "dense"
    free, dense = plan.options
    m, n = Jacobian(r).shape
    assert (dense.flops, dense.bytes) == (4 * m * n, 8 * m * n)
    assert free.flops > 0
    assert "100000 products: dense" in str(plan)
    assert Jacobian(r, memory_budget=5_000).plan(num_matvecs=100_000).way == "matrix-free"


def test_a_plan_costs_little_where_the_matrix_does_not_fit():
    model = pl.models.mlp((2, 30, 30, 1), seed=0)
    x = torch.rand(300, 2, dtype=torch.float64)
    J = Jacobian(Map.of_module(model, lambda: model(x)), memory_budget=10**6)
    plan = J.plan(num_matvecs=10**6)
    assert plan.way == "matrix-free" and plan.options[1].total(1) == np.inf
    assert J.num_matvecs == 0


@pytest.mark.parametrize("route", ["jets", "graph", "functional", "dual"])
def test_every_route_has_a_plan_that_counts_its_operations(route):
    problem, model = pl.problems.poisson(2), pl.models.mlp((2, 8, 8, 1), seed=0)
    J = Jacobian(problem.residual(model, interior=30, boundary=10), route=route)
    free, dense = J.plan().options
    assert free.flops > 4 * 30 * 8 * 8 and dense.flops == 4 * J.shape[0] * J.shape[1]
    assert dense.setup_seconds < np.inf


def test_what_a_plan_of_a_block_promises_can_be_done():
    problem, model = pl.problems.poisson(2), pl.models.mlp((2, 8, 8, 1), seed=0)
    r = problem.residual(model, interior=200, boundary=10)
    J = Jacobian(r, memory_budget=100_000).block("boundary")
    assert J.plan(num_matvecs=10**7).way == "matrix-free"  # all blocks would be formed
    with pytest.raises(ValueError, match="the matrix needs"):
        J.formed()


def test_a_formed_jacobian_fits_the_budget_of_its_matrix():
    a = torch.zeros(2000, dtype=torch.float64)
    r = Map({"": lambda p, x: x @ p["a"]}, {"a": a}, points={"": torch.randn(2000, 2000, dtype=torch.float64)})
    J = Jacobian(r, memory_budget=40_000_000, route="graph")
    assert torch.equal(J.formed().dense(), r.points[""])


def test_an_empty_block_has_products():
    x = torch.rand(4, 1, dtype=torch.float64)
    rows = {"a": lambda p, x: x[:, 0] * p["w"], "e": lambda p, x: x[:, 0] + p["w"]}
    r = Map(rows, {"w": torch.ones((), dtype=torch.float64)}, points={"a": x, "e": x[:0]})
    J = Jacobian(r)
    assert list(J.block("a").codomain.shapes) == ["a"]
    assert (J.block("e") @ J.domain.random()).shape == (0,)
    assert torch.equal(J.block("e").H @ J.block("e").codomain.zeros(), J.domain.zeros())
    assert torch.equal(pl.Gram(J.block("e")) @ J.domain.random(), J.domain.zeros())
    assert torch.equal(J.block("a").dense(), x)
    assert J.block("e").value.shape == (0,)


@pytest.mark.parametrize("budget", [-5, 0, "1GB", None, float("nan"), float("inf")])
def test_a_budget_is_a_number_of_bytes(budget):
    r = Map(lambda p: p["a"], {"a": torch.ones(2)})
    with pytest.raises(ValueError, match="number of bytes > 0"):
        Jacobian(r, memory_budget=budget)


def test_mistakes_with_maps_are_named():
    model = pl.models.mlp((1, 3, 1), seed=0)
    params, x = dict(model.named_parameters()), torch.rand(3, 1)
    u = pl.Pointwise(model, lambda x, u: u(x)[:, 0])
    with pytest.raises(TypeError, match="of_module"):
        Map(model, params)
    with pytest.raises(TypeError, match="needs points"):
        Map(u, params)
    with pytest.raises(TypeError, match="expected a function"):
        Map(3, params)
    with pytest.raises(TypeError, match=r"points of \[''\] should be torch.float64"):
        Map({"": u}, params, points={"": x})
    weighted = Map({"": u}, params, points={"": x.double()}, quadrature={"": [1.0, 2.0, 3.0]})
    assert weighted.value.shape == (3,)
    with pytest.raises(TypeError, match="dict of parameters or a flat tensor, got list"):
        Jacobian(weighted, at=[1.0])


@pytest.mark.parametrize("route", ["jets", "graph", "functional", "dual"])
def test_a_layer_that_is_there_twice_stays_the_layer_of_the_model(route):
    layer = nn.Linear(2, 2, dtype=F64)
    model = nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(2, 1, dtype=F64))
    weight, x = layer.weight, torch.rand(5, 2, dtype=F64)
    rows = pl.Pointwise(model, lambda x, u: u(x)[:, 0])
    J = Jacobian(Map({"": rows}, dict(model.named_parameters()), points={"": x}), route=route)
    closure = Jacobian(Map.of_module(model, lambda: model(x)))
    assert layer.weight is weight and isinstance(weight, nn.Parameter)
    torch.testing.assert_close(J.dense(), closure.dense())
    step, theta = 1e-6 * J.domain.random(), J.map.domain.ravel(J.map.params).detach()
    difference = (J.map(theta + step) - J.map(theta - step)) / 2
    torch.testing.assert_close(J @ step, difference, rtol=1e-6, atol=1e-12)
