"""Nested states: what goes in comes out, to the last bit."""

import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precondlab.checkpoint import CheckpointError, fingerprint
from precondlab.checkpoint.tree import DTYPES, decode, encode

SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
NUMBERS = st.one_of(
    st.floats(),
    st.sampled_from([-0.0, struct.unpack(">d", bytes.fromhex("fff8dead0000beef"))[0]]),
    st.integers(),
    st.integers(min_value=2**64, max_value=2**4000),
)


@st.composite
def tensors(draw):
    """A tensor of random bits: any dtype, any order of axes, strided or not, sharing memory with nothing."""
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = draw(SHAPES)
    count = int(np.prod([1, *shape], dtype=int)) * 2 * dtype.itemsize
    data = bytearray(draw(st.binary(min_size=count, max_size=count)))
    if dtype is torch.bool:
        data = bytearray(byte & 1 for byte in data)
    flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
    step = draw(st.sampled_from([1, 2]))
    tensor = flat[: len(flat) // 2 * step : step].reshape(shape)
    return tensor.permute(draw(st.permutations(range(len(shape)))))


KEYS = st.one_of(st.text(max_size=4), st.integers(), st.sampled_from(["$tensor", "$", "__metadata__", "a.b", "a"]))
LEAVES = st.one_of(tensors(), NUMBERS, st.booleans(), st.none(), st.text(st.characters(), max_size=5))
STATES = st.dictionaries(
    KEYS,
    st.recursive(
        LEAVES,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.dictionaries(KEYS, inner, max_size=3),
        ),
        max_leaves=8,
    ),
    max_size=4,
)


def same(a, b):
    """Whether two states agree in types, structure and every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        bits = [t.contiguous().unsqueeze(-1).view(torch.uint8) for t in (a, b)]
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)
    if isinstance(a, dict):
        return list(map(repr, a)) == list(map(repr, b)) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return struct.pack("d", a) == struct.pack("d", b) if isinstance(a, float) else a == b


def through_json(state):
    tree, tensors = encode(state)
    return decode(json.loads(json.dumps(tree, allow_nan=False)), {name: t.clone() for name, t in tensors.items()})


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@given(STATES)
def test_any_state_comes_back_bit_for_bit(state):
    back = through_json(state)
    assert same(back, state)
    assert fingerprint(back) == fingerprint(state)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_dense_tensors_keep_their_layout_and_are_not_copied(order):
    tensor = torch.arange(24.0).reshape(2, 3, 4).permute(order)
    (stored,) = encode({"x": tensor})[1].values()
    assert stored.data_ptr() == tensor.data_ptr()
    assert through_json({"x": tensor})["x"].stride() == tensor.stride()


def test_one_tensor_twice_stays_one_and_overlapping_ones_become_two():
    x = torch.arange(4.0)
    tied = torch.nn.Parameter(x)
    state = through_json({"a": tied.data, "b": [tied.detach()], "c": x[1:], "d": x[:2]})
    assert state["a"] is state["b"][0]
    state["a"].zero_()
    assert state["c"].tolist() == [1, 2, 3] and state["d"].tolist() == [0, 1]


def test_views_that_are_lazily_conjugated_or_negated_are_stored_by_value():
    z = torch.tensor([1 + 2j, 3 - 4j])
    state = through_json({"z": z, "conj": z.conj(), "imag": z.conj().imag})
    assert torch.equal(state["conj"], z.conj()) and torch.equal(state["imag"], -z.imag)


@pytest.mark.parametrize(
    ("bad", "kind", "message"),
    [
        (np.float64(1), TypeError, r"a\.b should be .* got numpy\.float64"),
        (np.zeros(2), TypeError, "numpy.ndarray"),
        (1j, TypeError, "complex"),
        ({1, 2}, TypeError, "set"),
        (torch.float64, TypeError, "torch.dtype"),
        (torch.eye(2).to_sparse(), TypeError, "sparse"),
        (torch.zeros(2, device="meta"), TypeError, "meta"),
        ({True: 1}, TypeError, "keys of a.b"),
        ({None: 1}, TypeError, "keys of a.b"),
    ],
)
def test_what_would_not_come_back_is_refused(bad, kind, message):
    with pytest.raises(kind, match=message):
        encode({"a": {"b": bad}})


def test_a_state_that_contains_itself_is_refused():
    state = {}
    state["self"] = [state]
    with pytest.raises(ValueError, match="contain itself"):
        encode(state)


@pytest.mark.parametrize(
    "node",
    [
        {"$tensor": "y", "dtype": "float32"},
        {"$tensor": "x", "dtype": "float64"},
        {"$tensor": "x", "dtype": "complex128"},
        {"$tensor": "x", "dtype": "object"},
        {"$tensor": ["x"], "dtype": "float32"},
        {"$tensor": "x", "dtype": "float32", "order": [0, 0]},
        {"$tensor": "x", "dtype": "float32", "order": [1.0, 0]},
        {"$tensor": "x", "dtype": "float32", "order": "10"},
        {"$tensor": "x", "dtype": "complex64"},
        {"$tensor": "bytes", "dtype": "uint32"},
        {"$tuple": 1},
        {"$dict": [1]},
        {"$dict": [[[], 1]]},
        {"$float": "nan"},
        {"$other": 1},
    ],
)
def test_entries_that_were_never_written_are_refused(node):
    with pytest.raises(CheckpointError):
        decode({"a": [node]}, {"x": torch.zeros(2, 3), "bytes": torch.zeros(3, dtype=torch.uint8)})


def test_a_fingerprint_sees_every_bit_shape_name_and_number():
    x = torch.arange(6.0)
    states = [
        *({"x": x}, {"y": x}, {"x": x.double()}, {"x": x.reshape(2, 3)}, {"x": x.roll(1)}, {"x": [x]}),
        *({"x": x, "n": 1}, {"x": x, "n": 1.0}, {"x": x, "n": "1"}, {"x": torch.nextafter(x, x + 1)}),
    ]
    assert len({fingerprint(state) for state in states}) == len(states)
    assert fingerprint({"x": x.clone(), "n": 1}) == fingerprint({"n": 1, "x": x})
