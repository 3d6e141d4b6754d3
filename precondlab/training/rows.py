"""The rows ``[J r]`` of a linearized residual, a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from precondlab.differentiation import ROUTES, linearize
from precondlab.differentiation import values as values_by
from precondlab.differentiation.choose import choose, close, round_off
from precondlab.errors import Breakdown
from precondlab.map import Map

__all__ = ["compressed", "finite", "reduced_rows", "routes", "row_norms", "values", "weighted_rows", "whole_bytes"]

_COPIES = 4  # of the rows that exist while they are reduced


def routes(residual: Map) -> dict[str, str]:
    """Return the fastest right way to differentiate each block; one for all if the map is one function.

    A way with values of its own has to have those of the map, at all points.

    Raises
    ------
    Breakdown
        If the residual is not finite.

    Cost: that of :func:`~precondlab.differentiation.choose.choose` for every block, and two evaluations.
    """
    at = {name: value.detach() for name, value in residual.params.items()}
    expected = finite(residual.value, residual)
    if residual.points is None:
        return dict.fromkeys(residual.codomain.shapes, choose(residual.raw(None), at, residual.domain))
    known = {}
    for name in residual.points:
        sample = residual.sample(name)[0]
        known[name] = choose(sample, at, residual.domain)
        if ROUTES[known[name]].derived and (reason := _wrong(residual, name, known[name], expected)):
            known[name] = choose(sample, at, residual.domain, refused={known[name]: reason})
    return known


def _wrong(residual: Map, block: str, route: str, expected: Tensor) -> str | None:
    """Return why a block's values by a route are not the expected ones, up to round-off, or None."""
    space, rows = residual.domain, residual.codomain.slices[block]
    at, whole = {name: value.detach() for name, value in residual.params.items()}, residual.raw({block: slice(None)})
    try:
        found = values_by(whole, at, space, route)(at) * residual.scale()[rows]
    except RuntimeError as error:
        return str(error)
    if close(found, expected[rows], space.eps**0.5, 0.0):
        return None
    v = space.random()
    Jv = linearize(whole, at, space, route).jvp(v[:, None])[:, 0] * residual.scale()[rows]
    right = close(found, expected[rows], space.eps**0.5, round_off(at, space, v, Jv))
    return None if right else "its value is not that of the residual"


def values(
    residual: Map, known: Mapping[str, str] | None = None, *, memory_budget: int = 2**30
) -> Callable[[Tensor], Tensor]:
    """Return ``θ ↦ r(θ)``, ``[n] → [m]``, for many θ while the points and all that is fixed of the map stay.

    Blocks whose route has values of its own take those, others the map's: up to round-off they are the same.

    Parameters
    ----------
    known
        What :func:`routes` returns.
    memory_budget
        Bytes for what is kept between evaluations.

    Cost: a trace of every model with values of its own, and the rows at two points of every block.

    >>> a = torch.tensor([1.0, 2.0])
    >>> values(Map(lambda p: p["a"] ** 2, {"a": a}))(torch.tensor([2.0, 3.0]))
    tensor([4., 9.])
    """
    known = routes(residual) if known is None else known
    derived = {name: route for name, route in known.items() if ROUTES[route].derived}
    if residual.points is None or not derived:
        return residual
    space, scale, slices = residual.domain, residual.scale(), residual.codomain.slices
    at = {name: value.detach() for name, value in residual.params.items()}
    ways: list[tuple[list[str], Callable[..., Tensor]]] = []
    for route in dict.fromkeys(derived.values()):
        names = [name for name in slices if derived.get(name) == route]
        function = residual.raw(dict.fromkeys(names, slice(None)))
        ways.append((names, values_by(function, at, space, route, memory_budget=memory_budget)))
    if rest := [name for name in slices if name not in derived]:
        ways.append((rest, lambda params: residual.unweighted(params, rest)))

    def value(theta: Tensor) -> Tensor:
        params, parts = space.unravel(theta), {}
        for names, way in ways:
            sizes = [slices[name].stop - slices[name].start for name in names]
            parts |= zip(names, way(params).split(sizes), strict=True)
        return torch.cat([parts[name] for name in slices]) * scale

    return value


def weighted_rows(residual: Map, known: Mapping[str, str] | None, memory_budget: int) -> Iterator[Tensor]:
    """Yield ``[J r]`` ``[b n+1]``, a few rows at a time if they can be differentiated on their own.

    Raises
    ------
    ValueError
        If they cannot, and exceed the budget.
    """
    if whole_bytes(residual) > memory_budget:
        raise ValueError(
            f"{residual!r} cannot be evaluated in parts, and the rows of its Jacobian need {whole_bytes(residual):,} "
            f"bytes at once where memory_budget is {memory_budget:,}: give it block by block with points, "
            "pl.Map({block: function}, params, points={block: x}), raise the budget, or take a Krylov solver"
        )
    at = {name: value.detach() for name, value in residual.params.items()}
    known = routes(residual) if known is None else known
    scale = residual.scale()
    for place, points in _pieces(residual, memory_budget // 8):
        route = known[next(iter(points or known))]
        part = linearize(residual.raw(points), at, residual.domain, route)
        yield torch.cat([part.dense(), part.value[:, None]], dim=1).mul_(scale[place, None])


def whole_bytes(residual: Map) -> int:
    """Return the bytes that rows of J take where all have to be had at once, and else 0."""
    m, n, itemsize = residual.codomain.size, residual.domain.size, residual.domain.dtype.itemsize
    return _COPIES * m * (n + 1) * itemsize if residual.points is None else 0


def _pieces(residual: Map, size: int) -> Iterator[tuple[slice, dict[str, slice] | None]]:
    """Yield places in the residual and the points they belong to, so that the rows of J take about ``size`` bytes."""
    if residual.points is None:
        yield slice(0, residual.codomain.size), None
        return
    for name, x in residual.points.items():
        width, first = residual.rows_per_point(name), residual.codomain.slices[name].start
        step = max(1, size // (residual.domain.size * residual.domain.dtype.itemsize * width))
        for start in range(0, len(x), step):
            stop = min(start + step, len(x))
            yield slice(first + start * width, first + stop * width), {name: slice(start, stop)}


def reduced_rows(residual: Map, *, known: Mapping[str, str] | None = None, memory_budget: int = 2**30) -> Tensor:
    """Return ``Qᵀ[J r]`` with at most n + 1 rows, Q orthogonal: all that least squares need.

    Raises
    ------
    Breakdown
        If the residual or its Jacobian is not finite.

    Cost: one pass over the rows and ``2mn²`` operations; memory n² numbers and the budget for rows at a time.
    """
    reduced = None
    for piece in weighted_rows(residual, known, memory_budget):
        reduced = compressed(reduced, finite(piece, residual))
    assert reduced is not None  # a map has rows
    return reduced


def compressed(above: Tensor | None, rows: Tensor) -> Tensor:
    """Return rows of which no more are kept than there are columns, by an orthogonal transformation."""
    rows = rows if above is None else torch.cat([above, rows])
    return torch.linalg.qr(rows, mode="r").R if len(rows) > rows.shape[1] else rows


def row_norms(residual: Map, *, known: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """Return the norms of some rows of J in every block, about 50 points each."""
    at = {name: value.detach() for name, value in residual.params.items()}
    scale, found = residual.scale(), {}
    for name, route in (routes(residual) if known is None else known).items():
        sample = residual.sample(None if residual.points is None else name)[0]
        rows = linearize(sample, at, residual.domain, route).dense()
        found[name] = rows.norm(dim=1) * scale[residual.codomain.slices[name]][: len(rows)]
    return found


def finite(values: Tensor, residual: Map) -> Tensor:
    """Return rows, or raise Breakdown if one is not finite."""
    if not values.isfinite().all():
        raise Breakdown(
            f"{residual!r} or its Jacobian is not finite at these parameters; check the points, or start elsewhere"
        )
    return values
