"""The rows of a Jacobian in chunks that fit a memory budget."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from precondlab.differentiation import ROUTES, Route, linearize
from precondlab.differentiation.choose import close, round_off
from precondlab.map import Map, Rows

__all__ = ["Chunks"]

_LARGEST = 4096  # rows per chunk where not all chunks can be kept
_VECTORS = 6  # of parameters and of rows, that exist at once in a product
_USABLE = 15 / 16  # of a budget; the rest is lost to holes in the heap,
_HEAP = 2_000_000  # and so many bytes whatever the budget


class Chunks:
    """Consecutive groups of rows with one route each, kept as far as memory allows, else rebuilt in every product.

    The copies of points and of all else that the map holds come out of the budget first. A route that keeps to a budget
    by itself gets each block whole, with its share of what is left.
    """

    def __init__(self, map: Map, at: dict[str, Tensor], route: str, memory_budget: int) -> None:
        self._map, self._at, self._route = map, at, route
        self.rows: list[tuple[slice, Rows | None, int]] = []
        bounded = ROUTES[route].bounded
        if map.points is None:
            self.rows.append((slice(0, map.codomain.size), None, memory_budget))
            self._kept = [self._linearize(None, memory_budget)]
            return
        per_row = {name: self._bytes_per_row(name) for name, x in map.points.items() if len(x)}
        total = sum(size * len(map.points[name]) * map.rows_per_point(name) for name, size in per_row.items())
        largest = max(per_row.values())
        held = map.held_bytes
        if held + largest > memory_budget:
            raise ValueError(
                f"Jacobian: memory_budget={memory_budget:,} bytes is too small for one row, "
                f"which needs about {held + largest:,.0f} bytes: {largest:,.0f}, and {held:,} for copies of points, "
                "of numbers known at them, of frozen tensors and of buffers"
            )
        memory_budget -= held
        if bounded:
            vectors = _VECTORS * map.domain.dtype.itemsize * (map.domain.size + map.codomain.size)
            memory_budget = max(0, int(_USABLE * memory_budget) - _HEAP - vectors)
        whole = bounded or total <= memory_budget
        step = max(1, min(int(memory_budget / max(largest, 1.0)) // 4, _LARGEST))
        kept = 0.0
        for name, size in per_row.items():
            width, points = map.rows_per_point(name), len(map.points[name])
            share = int(memory_budget * size * points * width / max(total, 1.0))
            self._split(name, points if whole else max(1, step // width), share)
        self._kept = []
        for rows, points, share in self.rows:
            kept += largest * (rows.stop - rows.start)
            if whole or kept <= memory_budget - largest * step:
                self._kept.append(self._linearize(points, share))

    def wrong_value(self, expected: Tensor) -> str | None:
        """Return why the unweighted residual that the kept routes know is not the expected one ``[m]``, or None.

        Cost: none; one product if they are not equal up to ``√ε``.
        """
        space = self._map.domain
        parts = list(zip(self.rows, self._kept, strict=False))
        apart = [
            (rows, route)
            for (rows, _, _), route in parts
            if not close(route.value, expected[rows], space.eps**0.5, 0.0)
        ]
        v = space.random()
        for rows, route in apart:
            slack = round_off(self._at, space, v, route.jvp(v[:, None])[:, 0])
            if not close(route.value, expected[rows], space.eps**0.5, slack):
                distance = (route.value - expected[rows]).norm() / expected[rows].norm()
                return f"its value is not that of the residual: {distance:.1e} off in rows {rows.start} to {rows.stop}"
        return None

    @property
    def rebuilt(self) -> float:
        """Fraction of the rows whose derivatives are rebuilt in every product."""
        total = self.rows[-1][0].stop
        kept = sum(
            (rows.stop - rows.start) * route.kept_fraction
            for (rows, _, _), route in zip(self.rows, self._kept, strict=False)
        )
        return 1 - kept / total

    def _bytes_per_row(self, name: str) -> float:
        function, rows = self._map.sample(name)
        return linearize(function, self._at, self._map.domain, self._route).kept_bytes / rows

    def _split(self, name: str, step: int, share: int) -> None:
        assert self._map.points is not None  # the caller knows
        width, start = self._map.rows_per_point(name), self._map.codomain.slices[name].start
        points = len(self._map.points[name])
        for first in range(0, points, step):
            last = min(first + step, points)
            self.rows.append((slice(start + first * width, start + last * width), {name: slice(first, last)}, share))

    def _linearize(self, points: Rows | None, share: int) -> Route:
        return linearize(self._map.raw(points), self._at, self._map.domain, self._route, memory_budget=share)

    def __call__(self, wanted: slice) -> Iterator[tuple[slice, slice, Route]]:
        """Yield, for each chunk that meets the wanted rows: their place in the result, in the chunk, its route."""
        for index, (rows, points, share) in enumerate(self.rows):
            first, last = max(rows.start, wanted.start), min(rows.stop, wanted.stop)
            if first < last:
                route = self._kept[index] if index < len(self._kept) else self._linearize(points, share)
                yield (
                    slice(first - wanted.start, last - wanted.start),
                    slice(first - rows.start, last - rows.start),
                    route,
                )
