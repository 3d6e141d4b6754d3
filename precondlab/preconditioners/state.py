"""What is saved of a preconditioner: the numbers it consists of, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from precondlab.operator import Operator

__all__ = ["Stateful"]

_NO_STATE = {"A", "domain", "codomain", "shape", "dtype", "num_matvecs", "symmetric", "positive", "_name"}
_SHOWN = 3  # differences that an error names


class Stateful(Operator):
    """An operator whose numbers can be saved, and loaded into another one made in the same way.

    They are found, not declared: tensors, numbers and strings in the attributes of the operator, of the operators
    it is made of, and of dataclasses, lists and dicts there. An operator that is only applied, the user's, is kept in
    an attribute ``A`` and left out.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers the operator consists of, by name: its own tensors, plain numbers and strings.

        ``torch.save`` and :func:`precondlab.checkpoint.save` take them. A tensor that occurs twice is there once. The
        A that a polynomial or a sweep applies is not: save its model.

        Raises
        ------
        TypeError
            If a part that is not of this library holds anything else, a SciPy operator for instance.

        Cost: no product, no copy.

        >>> from precondlab.operators import Diagonal
        >>> from precondlab.preconditioners import jacobi
        >>> jacobi(Diagonal(torch.tensor([1.0, 2.0]))).state_dict()["operator.entries"]
        tensor([1.0000, 0.5000])
        """
        found = _Entries(self)
        return {**found.kinds, **found.values}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Become the operator that was saved: equal products, factor, inverse and repr, bit for bit.

        Make this operator by the same call as the saved one, on any operator of its size, the cheapest is
        ``Identity(A.domain)``; an A that it applies stays its own. Tensors are copied to its device. The parts of a
        composition are loaded with it; factors and inverses are to be taken from it again.

        Raises
        ------
        ValueError
            If a name, kind, shape (the rank, say) or dtype differs; names the first few. Nothing is loaded then.

        Cost: no product, one copy of the state.

        >>> from precondlab.operators import Diagonal
        >>> from precondlab.preconditioners import jacobi
        >>> M, N = (jacobi(Diagonal(torch.tensor(entries))) for entries in ([1.0, 2.0], [4.0, 4.0]))
        >>> N.load_state_dict(M.state_dict())
        >>> N.dense().diagonal()
        tensor([1.0000, 0.5000])
        """
        found, saved = _Entries(self), dict(state_dict)
        expected = {**found.kinds, **{name: _describe(value) for name, value in found.values.items()}}
        got = {name: value if name in found.kinds else _describe(value) for name, value in saved.items()}
        wrong = [
            f"{name} is {got[name]} and not {kind}" for name, kind in expected.items() if got.get(name, kind) != kind
        ]
        wrong += [f"{name} is missing" for name in expected if name not in got]
        wrong += [f"{name} is unexpected" for name in got if name not in expected]
        if wrong:
            more = f", and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            raise ValueError(
                f"load_state_dict: the state belongs to {_title(saved)}, this is {self!r}: "
                f"{', '.join(wrong[:_SHOWN])}{more}. Make it by the call that made the saved one, with the same size, "
                "rank and dtype; nothing was loaded"
            )
        found.replace(saved)


class _Entries:
    """What an operator consists of, by name, depth first; what is shared has the name where it is met first."""

    def __init__(self, root: Operator) -> None:
        m, n = root.shape
        self.kinds: dict[str, str] = {"shape": f"{m}×{n}", "dtype": _dtype(root.domain.dtype)}
        self.values: dict[str, Any] = {}
        self._root = root
        self._places: list[tuple[Any, Any, str]] = []  # a container, the key in it, the name of the value
        self._objects: dict[int, Any] = {}
        self._tensors: dict[tuple[object, ...], str] = {}
        self._enter(root, "")

    def replace(self, values: Mapping[str, Any]) -> None:
        """Put other values of the same kinds in their places, and forget what was computed from the old ones."""
        new = {
            name: _like(old, values[name]) if isinstance(old, Tensor) else values[name]
            for name, old in self.values.items()
        }
        for container, key, name in self._places:
            container[key] = new[name]
        for value in self._objects.values():
            for name in [name for name in vars(value) if _is_cached(value, name)]:
                del vars(value)[name]

    def _enter(self, value: Any, prefix: str) -> None:
        if id(value) in self._objects:
            return
        self._objects[id(value)] = value
        self.kinds[f"{prefix}kind"] = getattr(value, "_name", type(value).__name__)
        for name in vars(value):
            if name not in _NO_STATE and not _is_cached(value, name):
                self._visit(vars(value), name, prefix + name)

    def _visit(self, container: Any, key: Any, name: str) -> None:
        value = container[key].item() if isinstance(container[key], np.generic) else container[key]
        if isinstance(value, Operator) or is_dataclass(value):
            self._enter(value, f"{name}.")
        elif isinstance(value, list | tuple):
            for i in range(len(value)):
                self._visit(value, i, f"{name}.{i}")
        elif isinstance(value, dict):
            for part in value:
                self._visit(value, part, f"{name}.{'/'.join(part) if isinstance(part, tuple) else part}")
        elif isinstance(value, Tensor | bool | int | float | str) and not isinstance(container, tuple):
            if isinstance(value, Tensor):
                name = self._tensors.setdefault(_memory(value), name)
                value = value.detach()
            self.values[name] = value
            self._places.append((container, key, name))
        elif value is not None:
            raise TypeError(
                f"state_dict: {name} of {self._root!r} is of type {type(value).__name__}; save the parts on their own. "
                "Numbers should be in tensors, lists, dicts or dataclasses, an operator that is only applied in A"
            )


def _is_cached(value: object, name: str) -> bool:
    return isinstance(getattr(type(value), name, None), cached_property)


def _memory(x: Tensor) -> tuple[object, ...]:
    """Return what two tensors have in common only if they are one."""
    where = x.device, x.untyped_storage().data_ptr(), x.storage_offset()
    return (*where, x.shape, x.stride(), x.dtype, x.is_conj(), x.is_neg())


def _like(old: Tensor, new: Tensor) -> Tensor:
    """Return a copy with the device and the order in memory of another tensor, which round-off depends on."""
    return _like(old.conj(), new.conj()).conj() if old.is_conj() else torch.empty_like(old).copy_(new.detach())


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{_dtype(value.dtype)} {list(value.shape)}"
    if isinstance(value, str):
        return "a string"
    return "a number" if isinstance(value, bool | int | float) else f"of type {type(value).__name__}"


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _title(state: Mapping[str, Any]) -> str:
    """Return the repr of the operator a state was taken from."""
    facts = ", ".join(str(state[name]) for name in ("shape", "facts") if state.get(name))
    return f"{state['kind']}[{facts}]" if "kind" in state else "no preconditioner"
