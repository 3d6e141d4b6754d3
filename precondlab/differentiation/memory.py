"""Measure what a reverse graph keeps in memory, to choose how many rows to differentiate at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from precondlab.differentiation.graph import Graph
from precondlab.space import Space


def graph_bytes(function: Callable[[dict[str, Tensor]], Tensor], params: Mapping[str, Tensor], space: Space) -> int:
    """Return the bytes of the tensors a retained graph and its backward graph keep, without the parameters.

    The graphs are walked node by node and every saved storage is counted once.
    """
    graph = Graph(function, params, space)
    parameters = {leaf.untyped_storage().data_ptr() for leaf in graph.leaves.values()}
    kept: dict[int, int] = {}
    seen: set[object] = set()
    waiting = [tensor.grad_fn for tensor in (graph.output, *graph.pullback[2])]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting.extend(parent for parent, _ in node.next_functions)
        for tensor in _saved(node):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
    return sum(size for pointer, size in kept.items() if pointer not in parameters)


def _saved(node: object) -> list[Tensor]:
    names = [name for name in dir(node) if name == "saved_tensors" or name.startswith("_saved_")]
    found = []
    for name in names:
        value = getattr(node, name)
        items = value if isinstance(value, tuple | list) else [value]
        # torch.func's symbolic zeros have no memory
        found.extend(item for item in items if isinstance(item, Tensor) and not item._is_zerotensor())
    return found
