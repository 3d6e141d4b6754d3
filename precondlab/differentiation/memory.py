"""Memory of products: what a reverse graph keeps, and what the C library keeps of what was freed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["keep_freed", "nodes", "reachable_bytes"]


@cache
def keep_freed() -> None:
    """Let the C library keep what a product frees for the next one: fresh pages cost up to a fifth of a product.

    glibc hands back to the system what lies free above twice the largest block that it saw freed. One of 16 MB,
    never written to, is enough for the temporaries of all routes, which fit the cache.
    """
    torch.empty(2**24, dtype=torch.uint8)


def reachable_bytes(outputs: Iterable[Tensor], *, without: Iterable[Tensor]) -> int:
    """Return the bytes of all tensors saved in the graphs of some outputs, without those of given tensors.

    The graphs are walked node by node and every saved storage is counted once.
    """
    excluded = {tensor.untyped_storage().data_ptr() for tensor in without}
    kept: dict[int, int] = {}
    for node in nodes(outputs):
        for tensor in _saved(node):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
    return sum(size for pointer, size in kept.items() if pointer not in excluded)


def nodes(outputs: Iterable[Tensor]) -> set[Any]:
    """Return the nodes of the graphs of some outputs."""
    seen: set[Any] = set()
    waiting: list[Any] = [tensor.grad_fn for tensor in outputs]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(parent for parent, _ in node.next_functions)
    return seen


def _saved(node: object) -> list[Tensor]:
    names = [name for name in dir(node) if name == "saved_tensors" or name.startswith("_saved_")]
    found = []
    for name in names:
        value = getattr(node, name)
        items = value if isinstance(value, tuple | list) else [value]
        # torch.func's symbolic zeros have no memory
        found.extend(item for item in items if isinstance(item, Tensor) and not item._is_zerotensor())
    return found
