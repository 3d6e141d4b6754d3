"""Krylov–Schur decompositions: their relations, their room, and states that belong to something else."""

import numpy as np
import pytest
import torch

from precondlab.errors import CheckpointError
from precondlab.krylov import GolubKahanSchur, KrylovSchur
from precondlab.operators import Dense, Diagonal

KINDS = [KrylovSchur, GolubKahanSchur]


def numbers(n):
    return Diagonal(torch.arange(1.0, n + 1, dtype=torch.float64))


def advanced(kind, A, *, block=1, capacity=12, steps=3):
    K = kind(A, A.domain.random(block), capacity=capacity)
    for _ in range(steps):
        K.step()
    return K


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1, 2, 3])
def test_a_step_without_room_is_refused_and_a_restart_makes_room(kind, block):
    K = advanced(kind, numbers(300), block=block, steps=12 // block - 1)
    before, used = K.state_dict(), K.num_matvecs
    with pytest.raises(ValueError, match=r"basis is full.*restart"):
        K.step()
    assert K.num_matvecs == used and not K.invariant
    assert all(torch.equal(K.state_dict()[name], x) for name, x in before.items() if isinstance(x, torch.Tensor))
    K.restart(*(Y[:, -4:] for Y in K.ritz()[1:-1]))
    K.step()
    assert K.ritz()[-1].max() > 1  # the coupling is there


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_space_needs_no_room(kind):
    K = advanced(kind, numbers(10), block=3, capacity=10, steps=4)
    assert K.complete
    np.testing.assert_allclose(np.sort(K.ritz()[0]), np.arange(1, 11), rtol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_the_relations_hold_and_a_broken_one_is_seen(kind):
    n = 40
    matrix = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    A = Dense(matrix + matrix.T, symmetric=True)
    K = advanced(kind, A, block=2, steps=4)
    weights = [np.ones(size) for size in (K.B.shape if kind is GolubKahanSchur else K.T.shape[:1])]
    assert K.defect(*weights) <= 1e-13 * n
    A.matrix[0, 0] += 1
    assert K.defect(*weights) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda kind: advanced(kind, numbers(50), block=2), "blocks of 2"),
        (lambda kind: advanced(kind, numbers(51)), "shape"),
        (lambda kind: advanced(kind, Diagonal(torch.arange(1.0, 51.0))), "float32"),
        (lambda kind: advanced(kind, numbers(50), capacity=40, steps=30), "capacity"),
        (lambda kind: advanced(kind, 1.01 * numbers(50)), "another operator"),
        (lambda kind: advanced(KINDS[1 - KINDS.index(kind)], numbers(50)), "expected a state"),
    ],
)
def test_the_state_of_something_else_is_refused(kind, other, message):
    K = advanced(kind, numbers(50), steps=0)
    with pytest.raises(CheckpointError, match=message):
        K.load_state_dict(other(kind).state_dict())
    first = advanced(kind, numbers(50))
    K.load_state_dict(first.state_dict())
    assert (K.ritz()[0] == first.ritz()[0]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_capacity_below_a_block_is_refused(kind):
    A = numbers(10)
    with pytest.raises(ValueError, match="capacity should be ≥ 2"):
        kind(A, A.domain.random(2), capacity=1)
    with pytest.raises(TypeError, match="capacity should be an integer"):
        kind(A, A.domain.random(2), capacity=4.0)
