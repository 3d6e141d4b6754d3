"""Models on parts of the domain: the partition of unity, its derivatives, and what it is for."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import precondlab as pl
from precondlab.models import mlp, partitioned
from precondlab.problems import Condition, Problem
from precondlab.symbol import Symbol


class One(nn.Module):
    def forward(self, x):
        return torch.ones_like(x[..., :1])


@given(
    parts=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    overlap=st.floats(0.05, 1.0),
    low=st.floats(-5, 5),
    width=st.floats(0.1, 10),
    seed=st.integers(0, 2**31),
)
def test_the_windows_are_a_partition_of_unity(parts, overlap, low, width, seed):
    domain = [(low, low + width)] * len(parts)
    model = partitioned(lambda j: One(), domain=domain, parts=parts, overlap=overlap)
    assert len(model.parts) == math.prod(parts)
    draw = torch.Generator().manual_seed(seed)
    x = low + width * torch.rand(20, len(parts), dtype=torch.float64, generator=draw)
    torch.testing.assert_close(model(x), torch.ones(20, 1, dtype=torch.float64), rtol=0, atol=1e-14)
    assert all((window(x) >= 0).all() for window in model.windows)


def test_a_part_sees_its_box_as_the_unit_box_and_is_hardly_seen_elsewhere():
    model = partitioned(lambda j: mlp((2, 4, 1), seed=j), domain=((0.0, 4.0), (0.0, 1.0)), parts=(4, 1), overlap=0.5)
    x = torch.tensor([[0.75, 0.0], [2.25, 1.0]], dtype=torch.float64)  # ends of the second part with its overlap
    torch.testing.assert_close(model.charts[1](x), torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64))
    centers = torch.tensor([[i + 0.5, 0.3] for i in range(4)], dtype=torch.float64)
    weights = torch.cat([window(centers) for window in model.windows], dim=1)
    assert weights.diagonal().min() > 0.98
    assert torch.cat([model.windows[0](x + 2.0), model.windows[3](x - 2.25)]).max() < 1e-6


def test_closed_forms_read_it_and_agree_with_automatic_differentiation():
    problem = pl.problems.poisson(dim=2)
    model = partitioned(lambda j: mlp((2, 5, 1), seed=j), domain=problem.domain, parts=(2, 3))
    r = problem.residual(model, interior=60, boundary=16)
    closed, graph = pl.Jacobian(r), pl.Jacobian(r, route="graph")
    assert closed.route == "jets"
    torch.testing.assert_close(closed.dense(), graph.dense(), rtol=1e-10, atol=1e-10)


def test_parts_learn_a_frequency_that_one_network_does_not():
    """u = sin 2πx + sin(24πx)/10: eight parts see three periods where the whole sees twelve."""
    problem = Problem(
        "two scales",
        ((0.0, 1.0),),
        -Symbol.laplacian(1),
        (Condition("boundary", ((0, 0.0), (0, 1.0))),),
        exact=lambda x: torch.sin(2 * math.pi * x) + 0.1 * torch.sin(24 * math.pi * x),
    )

    def error(model):
        optimizer = pl.optim.LevenbergMarquardt(problem.residual(model, interior=400, weights={"interior": 1e-4}))
        for _ in range(28):
            optimizer.step()
        return problem.error(model)

    assert error(mlp((1, 24, 24, 1), seed=0, domain=problem.domain)) > 0.1
    assert error(partitioned(lambda j: mlp((1, 8, 8, 1), seed=j), domain=problem.domain, parts=(8,))) < 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": (2, 2)}, "expected 1 numbers of parts"),
        ({"parts": (0,)}, "parts ≥ 1"),
        ({"parts": (2,), "domain": ((1.0, 1.0),)}, "a < b"),
        ({"parts": (2,), "overlap": 0.0}, r"overlap in \(0, 1\]"),
    ],
)
def test_what_is_no_decomposition_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        partitioned(lambda j: One(), **{"domain": ((0.0, 1.0),), **options})
