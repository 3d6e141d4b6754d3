"""Points and quadrature weights on boxes and their faces."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Clusters",
    "Domain",
    "Face",
    "Rule",
    "box_points",
    "clustered",
    "evaluation_points",
    "face_points",
    "gathered",
    "pool_points",
]

Domain = tuple[tuple[float, float], ...]
Face = tuple[int, float]
Rule = Literal["midpoint", "gauss", "sobol", "uniform"]
Count = int | Sequence[int]
Clusters = Mapping[int, Sequence[tuple[float, float]]]

_RULES = ("midpoint", "gauss", "sobol", "uniform")
_BISECTIONS = 60
_POOL = 8  # points from which one is chosen


def box_points(domain: Domain, count: Count, *, rule: Rule | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return points ``[N, d]`` and weights ``[N]`` with ``Σ_i w_i f(x_i) ≈ ∫_Ω f dx``, ``Σ_i w_i = |Ω|``.

    Parameters
    ----------
    domain
        One interval (a, b) per axis.
    count
        Number of points, or one number per axis for a tensor product of rules on the intervals.
    rule
        ``"midpoint"`` (spectrally accurate for periodic functions), ``"gauss"`` (Gauss–Legendre, exact for
        degree 2N − 1), ``"sobol"`` (scrambled Sobol points, equal weights) or ``"uniform"`` (independent
        random points, equal weights). None takes the midpoint rule on an interval and for one number per
        axis, otherwise Sobol points. A tensor rule given a single number takes its d-th root per axis,
        rounded down.
    seed
        Of the random rules.

    Raises
    ------
    ValueError
        For counts below 1, a count per axis that does not fit the rule or the box, an unknown rule.

    >>> box_points(((0.0, 1.0),), 2)
    (tensor([[0.2500], [0.7500]], dtype=torch.float64), tensor([0.5000, 0.5000], dtype=torch.float64))
    """
    dim = len(domain)
    counts = list(count) if isinstance(count, Sequence) else [count]
    if rule is not None and rule not in _RULES:
        raise ValueError(f"sampling: rule is one of {list(_RULES)} or None, got {rule!r}")
    if any(not isinstance(n, int | np.integer) or n < 1 for n in counts) or len(counts) not in (1, dim):
        raise ValueError(f"sampling: expected a number of points ≥ 1 or {dim} of them, one per axis, got {count!r}")
    single = isinstance(count, int | np.integer)
    rule = rule or ("midpoint" if dim == 1 or not single else "sobol")
    if rule in ("sobol", "uniform"):
        if not single and dim > 1:
            raise ValueError(f"sampling: rule {rule!r} takes one number of points, got {count!r}")
        return _random_points(domain, counts[0], rule, seed)
    if single:
        counts = [_root(counts[0], dim)] * dim
    axes = [_interval(a, b, n, rule) for (a, b), n in zip(domain, counts, strict=True)]
    return _tensor_product(axes)


def face_points(
    domain: Domain, faces: Sequence[Face], count: Count, *, rule: Rule | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return points ``[N, d]`` and weights ``[N]`` for integrals over sections ``x_axis = coordinate``.

    On an interval a section is one point of weight 1, whatever the count. Otherwise an integer count is
    shared among the sections in proportion to their area; one number per axis gives each section the
    numbers of its own axes. The rule on each section is that of :func:`box_points`.

    Parameters
    ----------
    domain, rule, seed
        As for :func:`box_points`.
    faces
        Pairs (axis, coordinate).
    count
        Number of points on all sections together, or one number per axis of the box.

    Raises
    ------
    ValueError
        As :func:`box_points`; also for a face outside the box.

    >>> face_points(((-1.0, 1.0),), [(0, -1.0), (0, 1.0)], 400)
    (tensor([[-1.], [ 1.]], dtype=torch.float64), tensor([1., 1.], dtype=torch.float64))
    """
    dim = len(domain)
    for axis, coordinate in faces:
        if not (0 <= axis < dim and domain[axis][0] <= coordinate <= domain[axis][1]):
            raise ValueError(f"sampling: the face x_{axis} = {coordinate:g} does not meet the box {domain}")
    sides = [tuple(side for axis, side in enumerate(domain) if axis != face[0]) for face in faces]
    if dim == 1:
        counts: list[Count] = [1] * len(faces)
    elif isinstance(count, int | np.integer):
        counts = list(_shares(count, [math.prod(b - a for a, b in side) for side in sides]))
    else:
        if len(count) != dim:
            raise ValueError(
                f"sampling: a count per axis has {dim} entries (that of the face's own axis is not used), "
                f"got {tuple(count)}"
            )
        counts = [tuple(n for axis, n in enumerate(count) if axis != face[0]) for face in faces]
    points, weights = [], []
    for index, ((axis, coordinate), side, number) in enumerate(zip(faces, sides, counts, strict=True)):
        if not side:
            inner, weight = torch.zeros(1, 0, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        else:
            inner, weight = box_points(side, number, rule=rule, seed=_stream(seed, index))
        fixed = torch.full((len(inner), 1), coordinate, dtype=torch.float64)
        points.append(torch.cat([inner[:, :axis], fixed, inner[:, axis:]], dim=1))
        weights.append(weight)
    return torch.cat(points), torch.cat(weights)


def clustered(points: Tensor, domain: Domain, clusters: Clusters) -> Tensor:
    """Return uniform points ``[N, d]`` moved along some axes to the density ``∝ Σ_(c, w) 1/√((x − c)² + w²)``.

    Where a solution has a layer at c of width w, its points then have neighbors as near as the layer is wide, and
    elsewhere as their distance from it is large: each decade of distances has the same number of them.

    Parameters
    ----------
    points
        Of any rule of :func:`box_points`.
    domain
        One interval (a, b) per axis.
    clusters
        Axis → pairs (c, w), center and width > 0.

    Raises
    ------
    ValueError
        For an axis that the box does not have, no clusters on one, or a width that is not positive.

    >>> box = ((-1.0, 1.0),)
    >>> clustered(torch.tensor([[-0.5], [0.0], [1.0]]), box, {0: [(0.0, 0.1)]}).T  # sinh(ξ asinh 10)/10
    tensor([[-0.2127,  0.0000,  1.0000]])
    """
    moved = points.clone()
    for axis, centers in clusters.items():
        if not 0 <= axis < len(domain) or not centers or not all(w > 0 for _, w in centers):
            raise ValueError(
                f"sampling: clusters are axis -> [(center, width > 0), …], axes 0 to {len(domain) - 1}, got {clusters}"
            )
        (a, b), (c, w) = domain[axis], points.new_tensor(centers).T
        below = ((a - c) / w).asinh().sum()
        mass = below + (points[:, axis] - a) / (b - a) * (((b - c) / w).asinh().sum() - below)
        left, right = torch.full_like(mass, a), torch.full_like(mass, b)
        for _ in range(_BISECTIONS):
            middle = (left + right) / 2
            less = ((middle[:, None] - c) / w).asinh().sum(dim=1) < mass
            left, right = torch.where(less, middle, left), torch.where(less, right, middle)
        moved[:, axis] = (left + right) / 2
    return moved


def pool_points(domain: Domain, count: Count, *, rule: Rule | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return 8 times as many points as asked for, and weights, from which :func:`gathered` chooses.

    Sobol points, or independent ones for ``rule="uniform"``; arguments are those of :func:`box_points`.

    Raises
    ------
    ValueError
        For another rule, or a count per axis: a part of a tensor product integrates nothing.
    """
    if not isinstance(count, int | np.integer) or rule not in (None, "sobol", "uniform"):
        raise ValueError(
            "sampling: adaptive points are some of many random ones: they take one number of points and the rule "
            f"'sobol' or 'uniform', got {count!r} and {rule!r}"
        )
    if count < 1:
        raise ValueError(f"sampling: expected a number of points ≥ 1, got {count}")
    return box_points(domain, _POOL * count, rule=rule or "sobol", seed=seed)


def gathered(points: Tensor, weights: Tensor, size: Tensor, count: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Choose N of M points, gathered where a function ρ is large, and weights that leave integrals unbiased.

    Point i is among them with probability ``π_i ∝ 1 + |ρ_i|²/mean |ρ|²``, ``Σπ_i = N``, ``π_i ≤ 1``, and then has the
    weight ``w_i/π_i``; so the mean of ``Σ w_i f(x_i)/π_i`` over seeds is that over all M points, for every f. They are
    drawn systematically along a Z-order curve, which keeps them apart.

    Parameters
    ----------
    points, weights
        ``[M, d]`` and ``[M]``.
    size
        ρ at them, ``[M]``.
    count
        N ≤ M.
    seed
        Of the draw.

    Raises
    ------
    ValueError
        For ρ that is not finite, or N > M.

    Reference: Wu, Zhu, Tan, Kartha & Lu (2023), doi:10.1016/j.cma.2022.115671.

    >>> x, w = box_points(((0.0, 1.0),), 8)
    >>> gathered(x, w, torch.zeros(8), 2)[1]
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    if count > len(points) or not size.isfinite().all():
        raise ValueError(
            f"sampling: expected finite values at {count} points or more, got {int(size.isfinite().sum())} at "
            f"{len(points)}"
        )
    size = size.to(weights).abs()
    size = size / size.max().clamp(min=torch.finfo(size.dtype).tiny)
    chance = 1 + size**2 / size.square().mean().clamp(min=torch.finfo(size.dtype).tiny)
    chance = chance * (count / chance.sum())
    while chance.max() > 1:
        sure = chance >= 1
        rest = chance[~sure].sum()
        chance = torch.where(sure, 1.0, chance * ((count - sure.sum()) / rest))
    order = _z_order(points)
    offset = torch.rand(1, dtype=weights.dtype, generator=torch.Generator().manual_seed(_stream(seed, 2**21)))
    marks = torch.arange(count, dtype=weights.dtype) + offset
    chosen = order[torch.searchsorted(chance[order].cumsum(0), marks, right=True).clamp(max=len(points) - 1)]
    return points[chosen], weights[chosen] / chance[chosen]


def evaluation_points(domain: Domain, count: int) -> Tensor:
    """Return about ``count`` points ``[N, d]`` of a box that no rule of :func:`box_points` uses.

    Up to three dimensions a uniform grid, shifted within its cells by the golden section; above, Sobol
    points of a seed of their own.

    >>> evaluation_points(((0.0, 1.0),), 2).T
    tensor([[0.3090, 0.8090]], dtype=torch.float64)
    """
    if len(domain) > 3:
        return _random_points(domain, count, "sobol", _stream(0, 2**20))[0]
    shift = (math.sqrt(5) - 1) / 2
    n = _root(count, len(domain))
    axes = [a + (b - a) * (torch.arange(n, dtype=torch.float64) + shift) / n for a, b in domain]
    return torch.cartesian_prod(*axes).reshape(-1, len(domain))


def _interval(a: float, b: float, count: int, rule: str) -> tuple[Tensor, Tensor]:
    if rule == "gauss":
        nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(count))
        return (a + b) / 2 + nodes * ((b - a) / 2), weights * ((b - a) / 2)
    nodes = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return a + nodes * (b - a), torch.full_like(nodes, (b - a) / count)


def _tensor_product(axes: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    points = torch.cartesian_prod(*(nodes for nodes, _ in axes)).reshape(-1, len(axes))
    weights = torch.cartesian_prod(*(weights for _, weights in axes)).reshape(-1, len(axes))
    return points, weights.prod(1)


def _random_points(domain: Domain, count: int, rule: str, seed: int) -> tuple[Tensor, Tensor]:
    if rule == "sobol":
        engine = torch.quasirandom.SobolEngine(len(domain), scramble=True, seed=seed)
        unit = engine.draw(count, dtype=torch.float64)
    else:
        generator = torch.Generator().manual_seed(seed)
        unit = torch.rand(count, len(domain), dtype=torch.float64, generator=generator)
    lower, upper = torch.tensor(domain, dtype=torch.float64).T
    volume = math.prod(b - a for a, b in domain)
    return lower + unit * (upper - lower), torch.full((count,), volume / count, dtype=torch.float64)


def _z_order(points: Tensor) -> Tensor:
    """Return the order of points along a Z-order curve, by the leading bits of their coordinates."""
    lower, upper = points.min(0).values, points.max(0).values
    axes = min(points.shape[1], 62)
    bits = min(62 // axes, 20)
    unit = ((points - lower) / (upper - lower).clamp(min=torch.finfo(points.dtype).tiny))[:, :axes]
    cells = (unit * 2**bits).long().clamp(max=2**bits - 1)
    key = torch.zeros(len(points), dtype=torch.int64)
    for bit, axis in itertools.product(range(bits), range(axes)):
        key |= ((cells[:, axis] >> bit) & 1) << (bit * axes + axis)
    return key.argsort()


def _root(count: int, dim: int) -> int:
    """Return the largest n with n^dim ≤ count."""
    n = max(1, round(count ** (1 / dim)))
    return n - 1 if n > 1 and n**dim > count else n


def _shares(count: int, areas: Sequence[float]) -> list[int]:
    """Divide a number of points in proportion to areas, at least one each."""
    if count < len(areas):
        raise ValueError(f"sampling: {count} points do not reach for {len(areas)} faces, one each")
    edges = [round(count * part / sum(areas)) for part in itertools.accumulate(areas, initial=0.0)]
    return [max(1, stop - start) for start, stop in itertools.pairwise(edges)]


def _stream(seed: int, index: int) -> int:
    """Return a seed of its own for one of several sets of points that belong to one seed."""
    return int(np.random.SeedSequence([seed, index + 1]).generate_state(1)[0])
