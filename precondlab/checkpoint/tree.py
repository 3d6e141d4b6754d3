"""Nested states as JSON beside named tensors: every bit, every dtype, memory layout and sharing included."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from precondlab.errors import CheckpointError

__all__ = ["DTYPES", "decode", "encode", "fingerprint"]

_DEEPEST = 100  # levels; a state that contains itself has more

# dtype → the dtype it is stored as: what every reader of safetensors knows, parts of complex numbers, or bytes
_STORED = {
    dtype: dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
_STORED |= {torch.complex128: torch.float64, torch.complex64: torch.float32, torch.complex32: torch.float16}
_STORED |= dict.fromkeys(
    (
        *(torch.uint16, torch.uint32, torch.uint64),
        *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz, torch.float8_e8m0fnu),
    ),
    torch.uint8,
)
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _STORED}


class _Encoder:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._nodes: dict[tuple, Any] = {}  # of tensors met before
        self._storages: set[int] = set()

    def node(self, value: Any, path: tuple[str, ...]) -> Any:
        """Return the JSON of a value and keep its tensors."""
        kind = type(value)
        if len(path) > _DEEPEST:
            raise ValueError(f"checkpoint: the state is nested more than {_DEEPEST} deep; does it contain itself?")
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if isinstance(value, Mapping):
            return self._mapping(value, path)
        if kind in (list, tuple):
            items = [self.node(item, (*path, str(i))) for i, item in enumerate(value)]
            return items if kind is list else {"$tuple": items}
        if kind is float and not math.isfinite(value):
            return {"$float": struct.pack(">d", value).hex()}
        if value is None or kind in (bool, int, float, str):
            return value
        raise TypeError(
            f"checkpoint: {_name(path)} should be a tensor, int, float, str, bool, None, or a list, tuple or dict of "
            f"those, got {kind.__module__}.{kind.__qualname__}; convert it, e.g. float(x) or torch.as_tensor(x)"
        )

    def _mapping(self, value: Mapping, path: tuple[str, ...]) -> Any:
        pairs = []
        for key, item in value.items():
            if type(key) not in (str, int):
                raise TypeError(f"checkpoint: keys of {_name(path)} should be str or int, got {key!r}; rename the key")
            pairs.append((key, self.node(item, (*path, str(key)))))
        plain = all(isinstance(key, str) and not key.startswith("$") for key in value)
        return dict(pairs) if plain else {"$dict": [list(pair) for pair in pairs]}

    def _tensor(self, value: Tensor, path: tuple[str, ...]) -> Any:
        if value.layout is not torch.strided or value.dtype not in _STORED or value.device.type == "meta":
            raise TypeError(
                f"checkpoint: {_name(path)} should be a dense tensor of {', '.join(DTYPES)}, got a "
                f"{value.layout} tensor of {value.dtype} on {value.device}; convert it"
            )
        memory = value.untyped_storage().data_ptr()
        seen = (value.device, memory, value.storage_offset(), value.shape, value.stride(), value.dtype)
        seen += (value.is_conj(), value.is_neg())
        if value.numel() and seen in self._nodes:
            return self._nodes[seen]
        plain = value.detach().resolve_conj().resolve_neg().cpu()
        free = [axis for axis, size in enumerate(plain.shape) if size > 1 and plain.numel()]
        by_stride = iter(sorted(free, key=lambda axis: -plain.stride(axis)))
        order = [next(by_stride) if axis in free else axis for axis in range(plain.dim())]
        stored = plain.permute(order).contiguous()
        if stored.untyped_storage().data_ptr() in self._storages:
            stored = stored.clone()
        self._storages.add(stored.untyped_storage().data_ptr())
        if _STORED[value.dtype] != value.dtype:
            stored = stored.unsqueeze(-1).view(_STORED[value.dtype])
        name = _name(path).encode("utf-8", "backslashreplace").decode()
        while name in self.tensors or name == "__metadata__":
            name += "_"
        self.tensors[name] = stored
        node: dict[str, Any] = {"$tensor": name, "dtype": str(value.dtype).removeprefix("torch.")}
        if order != list(range(plain.dim())):
            node["order"] = order
        return self._nodes.setdefault(seen, node)


def encode(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """Return the JSON of a nested state and, by name, its tensors: contiguous, on the host, in portable dtypes.

    Tensors are named by their path. One that occurs twice is kept once; axes are ordered by their strides, so
    that dense tensors of any layout are not copied.

    Raises
    ------
    TypeError
        For anything that is not a dense tensor, a plain Python number, string, bool, None, list, tuple or dict.
    ValueError
        For a state nested more than 100 deep.

    >>> tree, tensors = encode({"a": torch.zeros(2), "b": [1, (2.0, None)]})
    >>> tree
    {'a': {'$tensor': 'a', 'dtype': 'float32'}, 'b': [1, {'$tuple': [2.0, None]}]}
    >>> decode(tree, tensors)
    {'a': tensor([0., 0.]), 'b': [1, (2.0, None)]}
    """
    encoder = _Encoder()
    return encoder.node(state, ()), encoder.tensors


def decode(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the state whose :func:`encode` is given.

    Raises
    ------
    CheckpointError
        If :func:`encode` cannot have returned it.
    """
    return _decode(node, tensors, {})


def _decode(node: Any, tensors: Mapping[str, Tensor], found: dict[str, Tensor]) -> Any:
    if not isinstance(node, dict):
        return [_decode(item, tensors, found) for item in node] if isinstance(node, list) else node
    if not any(key.startswith("$") for key in node):
        return {key: _decode(item, tensors, found) for key, item in node.items()}
    match node:
        case {"$tuple": list(items)}:
            return tuple(_decode(item, tensors, found) for item in items)
        case {"$dict": list(pairs)} if all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            if all(type(key) in (str, int) for key, _ in pairs):
                return {key: _decode(item, tensors, found) for key, item in pairs}
        case {"$float": str(bits)} if len(bits) == 16 and set(bits) <= set("0123456789abcdef"):
            return struct.unpack(">d", bytes.fromhex(bits))[0]
        case {"$tensor": str(name), "dtype": str(kind)} if name in tensors and kind in DTYPES:
            if name not in found:
                found[name] = _restore(tensors[name], DTYPES[kind], node)
            return found[name]
    raise CheckpointError(f"meta.json has an entry that is none of schema 1: {str(node)[:200]}")


def _restore(stored: Tensor, dtype: torch.dtype, node: dict[str, Any]) -> Tensor:
    if stored.dtype != _STORED[dtype]:
        raise CheckpointError(f"a tensor of {stored.dtype} should be one of {_STORED[dtype]}: {str(node)[:200]}")
    if stored.dtype != dtype:
        if not stored.dim() or stored.shape[-1] * stored.dtype.itemsize != dtype.itemsize:
            raise CheckpointError(f"a tensor of shape {tuple(stored.shape)} does not hold {dtype}")
        stored = stored.view(dtype).squeeze(-1)
    axes = list(range(stored.dim()))
    order = node.get("order", axes)
    if not isinstance(order, list) or any(type(axis) is not int for axis in order) or sorted(order) != axes:
        raise CheckpointError(f"a tensor of {stored.dim()} axes has another order of axes: {str(node)[:200]}")
    return stored.permute(sorted(axes, key=order.__getitem__))


def _name(path: tuple[str, ...]) -> str:
    return ".".join(path) or "the state"


def fingerprint(state: Any, /) -> str:
    """Return the SHA-256 of a nested state: which problem, model or operator a checkpoint belongs to.

    ``fingerprint(dict(model.named_parameters()))`` hashes parameters; ``fingerprint(A.forward(A.domain.random(1)))``
    any operator, by one product.

    Cost: one pass over the tensors.

    >>> fingerprint({"w": torch.zeros(2)}) == fingerprint({"w": torch.zeros(2)})
    True
    >>> fingerprint({"w": torch.zeros(2)}) == fingerprint({"w": -torch.zeros(2)})
    False
    """
    tree, tensors = encode(state)
    digest = hashlib.sha256(json.dumps(tree, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.unsqueeze(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
