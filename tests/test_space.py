"""Spaces: blocks, ravel and unravel, the inner product, and what they refuse."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precondlab.space import Space, numpy_dtype

SHAPES = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    min_size=1,
    max_size=4,
)


@given(SHAPES, st.lists(st.integers(1, 3), max_size=2))
def test_ravel_undoes_unravel(shapes, lead):
    space = Space(shapes)
    vectors = torch.randn((*lead, space.size), dtype=space.dtype)
    blocks = space.unravel(vectors)
    assert {name: tuple(block.shape) for name, block in blocks.items()} == {
        name: (*lead, *shape) for name, shape in shapes.items()
    }
    assert torch.equal(space.ravel(blocks), vectors)
    assert all(
        torch.equal(vectors[..., part], blocks[k].reshape((*lead, part.stop - part.start)))
        for k, part in space.slices.items()
    )


def test_slices_are_consecutive_and_in_order():
    space = Space({"b": (2, 2), "a": (), "c": (0, 5)})
    assert space.slices == {"b": slice(0, 4), "a": slice(4, 5), "c": slice(5, 5)}
    assert space.size == 5


def test_inner_is_conjugate_linear_in_the_first_argument():
    space = Space(2, dtype=torch.complex128)
    u, v = torch.tensor([[1j], [2.0]]), torch.tensor([[3.0 + 0j], [1j]])
    assert space.inner(u, v).item() == -3j + 2j


def test_random_vectors_repeat_for_one_seed_and_are_standard_normal():
    space = Space(20_000)
    seed = torch.Generator().manual_seed
    assert torch.equal(space.random(generator=seed(3)), space.random(generator=seed(3)))
    assert torch.equal(space.random(2), space.random(2))
    assert abs(space.random().var().item() - 1) < 0.05
    assert space.random(2, 3).shape == (20_000, 2, 3)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.float32, np.float32), (torch.float64, np.float64), (torch.complex64, np.complex64)],
)
def test_numpy_dtype(dtype, expected):
    assert numpy_dtype(dtype) == expected == Space(1, dtype=dtype).numpy_dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_dtypes_without_operators_are_refused(dtype):
    with pytest.raises(TypeError, match=r"float32, float64, complex64 or complex128.*model\.double\(\)"):
        Space(1, dtype=dtype)


def test_of_tensors():
    space = Space.of({"w": torch.ones(2, 3), "b": torch.ones(())})
    assert (space.size, space.dtype, repr(space)) == (7, torch.float32, "ℝ^7[float32]")


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"a": torch.ones(1), "b": torch.ones(1, dtype=torch.float64)},
        {"a": torch.ones(1), "b": torch.ones(1, device="meta")},
    ],
)
def test_mixed_or_missing_tensors_are_refused(tree):
    with pytest.raises(ValueError, match=r"one dtype on one device, got"):
        Space.of(tree)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": torch.ones(2)}, r"expected the blocks \['a', 'b'\], got \['a'\]"),
        ({"a": torch.ones(2), "b": torch.ones(4)}, r"block 'b' should have shape \(3,\), got \(4,\)"),
    ],
)
def test_ravel_names_what_is_wrong(tree, message):
    with pytest.raises(ValueError, match=message):
        Space({"a": (2,), "b": (3,)}, dtype=torch.float32).ravel(tree)


def test_unravel_names_both_sizes():
    with pytest.raises(ValueError, match=r"size 3, got \(4,\)"):
        Space(3).unravel(torch.ones(4))


def test_spaces_match_by_size_dtype_and_device_whatever_the_blocks():
    assert Space(3).matches(Space({"a": (1, 3)}))
    assert not Space(3).matches(Space(3, dtype=torch.float32))
    assert not Space(3).matches(Space(3, device="meta"))
    assert not Space(3).matches(Space(4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_dots_are_the_diagonal_of_inner(dtype):
    space = Space(7, dtype=dtype)
    U, V = space.random(3), space.random(3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(space.dots(U, V), space.inner(U, V).diagonal())


def test_inner_products_in_single_precision_are_exact_to_it_for_millions_of_entries():
    """One running sum over them is off by a percent."""
    space = Space(3_000_000, dtype=torch.float32)
    U = space.random(2)
    exact = U.double().T @ U.double()
    torch.testing.assert_close(space.inner(U, U).double().diagonal(), exact.diagonal(), rtol=1e-6, atol=0)
    torch.testing.assert_close(space.inner(U[:, :1], U[:, :1]).double(), exact[:1, :1], rtol=1e-6, atol=0)
    torch.testing.assert_close(space.dots(U, U).double(), exact.diagonal(), rtol=1e-6, atol=0)
