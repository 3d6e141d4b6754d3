"""What is saved of a preconditioner that an optimizer made."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import aslinearoperator

import precondlab as pl
from precondlab.operator import as_operator
from precondlab.operators import Diagonal
from precondlab.preconditioners.preconditioner import Preconditioner


def network(seed=0):
    model = pl.models.mlp((1, 6, 1), seed=seed)
    return model, pl.problems.poisson(dim=1).residual(model, interior=20)


def preconditioned(rank, *, make=None, seed=0):
    model, r = network(seed)
    sgd = torch.optim.SGD(model.parameters(), lr=1e-3)
    make = make or partial(pl.preconditioners.nystrom, rank=rank, damping=1e-2)
    return model, pl.optim.Preconditioned(r, sgd, make=make, every=None)


def test_numbers_of_m_that_do_not_fit_are_made_again_with_a_warning():
    model, optimizer = preconditioned(4)
    optimizer.step()
    for rank, make in ((3, None), (4, lambda A: Diagonal(torch.ones(A.shape[0]).double()))):
        twin, resumed = preconditioned(rank, make=make)
        twin.load_state_dict(model.state_dict())
        resumed.load_state_dict(optimizer.state_dict())
        with pytest.warns(RuntimeWarning, match="M is made again"):
            resumed.step()
        assert resumed.diagnostics.age == 0


def test_an_m_without_a_state_is_made_again_where_it_was_made():
    def inverse(A):
        return aslinearoperator(np.linalg.inv(A.dense().numpy() + np.eye(A.shape[0])))

    for make in (inverse, lambda A: Preconditioner(as_operator(inverse(A)), "Inverse", setup_matvecs=0)):
        model, optimizer = preconditioned(4, make=make)
        for _ in range(3):
            optimizer.step()
        twin, resumed = preconditioned(4, make=make, seed=1)
        twin.load_state_dict(model.state_dict())
        resumed.load_state_dict(optimizer.state_dict())
        assert [resumed.step().item() for _ in range(3)] == [optimizer.step().item() for _ in range(3)]
        assert resumed.diagnostics.age == 5


def test_the_state_of_another_base_is_refused():
    model, r = network()
    make = partial(pl.preconditioners.nystrom, rank=4, damping=1e-2)
    adam = pl.optim.Preconditioned(r, torch.optim.Adam(model.parameters()), make=make)
    sgd = pl.optim.Preconditioned(r, torch.optim.SGD(model.parameters(), lr=0.1), make=make)
    adam.step()
    with pytest.raises(ValueError, match="another base optimizer: Adam where this one has SGD"):
        sgd.load_state_dict(adam.state_dict())
