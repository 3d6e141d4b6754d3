"""Whether to form a Jacobian: time and memory of the alternatives, from short measurements."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = ["Option", "Plan"]

_LONG = 0.5  # seconds that no warm-up matters to

Way = Literal["matrix-free", "dense"]


@dataclass(frozen=True)
class Option:
    """One way to multiply by A: seconds to set up and per product, operations per product, bytes kept.

    What does not fit in memory is not measured: its seconds are infinite.
    """

    way: Way
    setup_seconds: float
    product_seconds: float
    flops: int
    bytes: int
    fits: bool

    def total(self, num_matvecs: int) -> float:
        """Seconds for a number of products."""
        return self.setup_seconds + num_matvecs * self.product_seconds


@dataclass(frozen=True)
class Plan:
    """The faster way that fits in memory for a number of products, and what was compared.

    >>> free = Option("matrix-free", 0.0, 0.1, 10, 100, True)
    >>> dense = Option("dense", 1.0, 0.01, 5, 1000, True)
    >>> Plan(5, (free, dense)).way, Plan(100, (free, dense)).way
    ('matrix-free', 'dense')
    """

    num_matvecs: int
    options: tuple[Option, ...]

    @property
    def way(self) -> Way:
        """The way to take."""
        return min((o for o in self.options if o.fits), key=lambda o: o.total(self.num_matvecs)).way

    def __str__(self) -> str:
        lines = [f"{self.num_matvecs} products: {self.way}"]
        for o in self.options:
            over = "" if o.fits else "  over the budget"
            lines.append(
                f"  {o.way:11}  {o.setup_seconds:8.3g} s set-up  {o.product_seconds:8.3g} s a product  "
                f"{o.total(self.num_matvecs):8.3g} s in all  {o.flops / 1e9:8.3g} GFlop a product  "
                f"{o.bytes / 1e6:8.4g} MB{over}"
            )
        return "\n".join(lines)


class Flops(TorchDispatchMode):
    """Count the operations of matrix products and convolutions, two for a multiplication and an addition.

    >>> with Flops() as counter:
    ...     _ = torch.ones(2, 3) @ torch.ones(3, 4)
    >>> counter.total
    48
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        self.total += 0 if count is None else count(*args, **kwargs, out_val=result)
        return result


def seconds(action: Callable[[], object]) -> float:
    """Return the shorter of two timings after one call to warm up; of a long action, the time of that call."""
    timings = []
    while len(timings) < 3 and sum(timings) < _LONG:
        _synchronize()
        start = time.perf_counter()
        action()
        _synchronize()
        timings.append(time.perf_counter() - start)
    return min(timings[1:] or timings)


def _synchronize() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
