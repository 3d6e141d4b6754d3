"""The Jacobian of a map, and the tangent map of a model."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from precondlab.differentiation import ROUTES, linearize
from precondlab.differentiation.choose import RouteName, choose
from precondlab.differentiation.context import call
from precondlab.differentiation.watch import refuse_training_mode
from precondlab.map import Map
from precondlab.operator import Operator
from precondlab.operators.chunks import Chunks
from precondlab.operators.plan import Flops, Option, Plan, seconds
from precondlab.space import Space

__all__ = ["Jacobian", "tangent"]


_BEYOND_CACHE = 2**28  # bytes
_COLUMNS = 4  # of a product by which forming J is timed where its rows come together


class Jacobian(Operator):
    """The Jacobian ``J = ∂r/∂θ`` of a map at a point, ``[m n]``, as products only.

    Parameters
    ----------
    map
        The residual map r.
    at
        Point of linearization: a dict of parameters or a flat vector; the current parameters if None.
    route
        How to differentiate: ``"jets"``, ``"graph"``, ``"functional"``, ``"dual"``, or ``"auto"`` for the
        fastest one that passes the self-check (adjoint identity, finite differences,
        repeatability, unchanged buffers). The repr names the route in use.
    memory_budget
        Bytes. A map given block by block is differentiated in chunks of rows if it needs more; chunks that
        do not fit together are rebuilt in every product. With ``jets`` it covers set-up and a product with
        one vector, everything included, down to the least that these take: copies of points and of what else is
        fixed, 6 vectors, the residual's derivatives in value and derivatives of the model, and a chunk; each
        further column of a block takes 3 vectors more. With other routes it covers those copies and what is kept
        between products, and the working memory of a product comes on top; a map given by one function keeps its
        whole graph, whatever the budget.

    Raises
    ------
    WrongDerivative, NotDeterministic, ValueError
        As :func:`precondlab.differentiation.choose.choose`; ValueError also if the budget is
        too small for the copies and one row.

    Later changes of points, frozen weights and buffers do not reach it, except through what a function closes over.

    Cost: at construction one evaluation and what its derivative needs, with ``jets`` one more evaluation if the point
    is not that at which the map was made; a product ``Jv`` or ``Jᵀu`` is
    then two matrix products per layer (``jets``), or one or two backward passes (``graph``).

    >>> r = Map(lambda p: p["a"] ** 2, {"a": torch.tensor([1.0, 3.0])})
    >>> J = Jacobian(r)
    >>> J, J @ torch.tensor([1.0, 1.0])
    (Jacobian[2×2, graph], tensor([2., 6.]))
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        map: Map,
        *,
        at: Mapping[str, Tensor] | Tensor | None = None,
        route: RouteName = "auto",
        memory_budget: int = 2**30,
    ) -> None:
        if not isinstance(map, Map):
            raise TypeError(
                f"Jacobian: expected a pl.Map, got {type(map).__name__}; "
                "make one by pl.Map(residual, params) or pl.Map.of_module(model, closure)"
            )
        if not isinstance(memory_budget, numbers.Real) or not 0 < memory_budget < math.inf:
            raise ValueError(f"Jacobian: expected memory_budget to be a number of bytes > 0, got {memory_budget!r}")
        super().__init__(map.domain, map.codomain)
        self.map = map
        self.at = _point(map, at)
        with map.buffers_unchanged():
            self.route, self._chunks = _routed(map, self.at, route, memory_budget, map.params if at is None else None)
        self._memory_budget = memory_budget
        self._matrix: Tensor | None = None
        self._scale = map.scale()
        self._rows = slice(0, map.codomain.size)

    @property
    def memory_budget(self) -> int:
        """Bytes that products and formed matrices are given."""
        return self._memory_budget

    @property
    def value(self) -> Tensor:
        """The weighted residual ``[m]`` at the point of linearization."""
        raw = torch.cat([self._scale[:0], *(route.value[part] for _, part, route in self._chunks(self._rows))])
        return raw * self._scale[self._rows]

    def reweighted(self, weights: Mapping[str, float]) -> Jacobian:
        """Return the Jacobian with other λ for some blocks; nothing is recomputed."""
        scale = self.map.scale(weights)
        return self._view(self._rows, self.map.reweighted(weights), scale)

    def block(self, name: str) -> Jacobian:
        """Return the rows of one named block; nothing is recomputed."""
        if name not in self.codomain.slices:
            raise ValueError(f"{self!r}: no block {name!r}; the residual has {list(self.codomain.slices)}")
        return self._view(self.map.codomain.slices[name], self.map, self._scale, [name])

    def moved(self, at: Mapping[str, Tensor] | Tensor) -> Jacobian:
        """Return the Jacobian of the same map at another point, by the same route, which is not checked again.

        >>> r = Map(lambda p: p["a"] ** 2, {"a": torch.tensor([1.0, 3.0])})
        >>> Jacobian(r).moved(torch.tensor([2.0, 2.0])).dense()
        tensor([[4., 0.],
                [0., 4.]])
        """
        view = self._view(self._rows, self.map, self._scale)
        view.at, view._matrix = _point(self.map, at), None
        with self.map.buffers_unchanged():
            view._chunks = Chunks(self.map.fixed(), view.at, self.route, self._memory_budget)
        return view

    def plan(self, *, num_matvecs: int = 300) -> Plan:
        """Compare products as they are with a formed J, for a number of products with ``JᵀJ``.

        J is formed for all blocks. Cost: at most five products; if J fits the memory budget also the rows of J at a few
        points, or products with a few columns where rows cannot be had on their own.
        """
        v = self.domain.random(1)
        with Flops() as counter:
            self._free_gram(v)
        free = Option(
            "matrix-free",
            setup_seconds=0.0,
            product_seconds=seconds(lambda: self._free_gram(v)),
            flops=counter.total,
            bytes=sum(route.kept_bytes for _, _, route in self._chunks(self._rows)),
            fits=True,
        )
        m, n = self.map.codomain.size, self.domain.size
        size = m * n * self.domain.dtype.itemsize
        fits = size <= self._memory_budget
        setup, product = self._dense_seconds(v) if fits else (math.inf, math.inf)
        dense = Option("dense", setup, product * self.shape[0] / m, flops=4 * self.shape[0] * n, bytes=size, fits=fits)
        return Plan(num_matvecs, (free, dense))

    def _dense_seconds(self, v: Tensor) -> tuple[float, float]:
        """Return estimates of the seconds to form J, all blocks of it, and to multiply by JᵀJ then."""
        (m, n), itemsize = (self.map.codomain.size, self.domain.size), self.domain.dtype.itemsize
        if self._matrix is not None:
            matrix, setup = self._matrix, 0.0
        elif self.map.chunkable:
            sample, rows = self.map.sample()
            route = linearize(sample, self.at, self.domain, self.route)
            setup = m / rows * seconds(route.dense)
            # as in the whole product, the matrix should not fit in cache
            matrix = route.dense().repeat(max(1, min(m // rows, _BEYOND_CACHE // (rows * n * itemsize))), 1)
        else:
            ((_, _, route),) = self._chunks(slice(0, m))
            columns = min(_COLUMNS, m, n)
            V = self.domain.random(columns) if n <= m else self.map.codomain.random(columns)
            setup = min(m, n) / columns * seconds(lambda: route.jvp(V) if n <= m else route.vjp(V))
            matrix = v.new_ones(max(1, min(m, _BEYOND_CACHE // (n * itemsize))), n)
        return setup, m / len(matrix) * seconds(lambda: matrix.T @ (matrix @ v))

    def formed(self) -> Jacobian:
        """Return the same operator with its matrix formed once, of all blocks; products are then dense.

        Raises
        ------
        ValueError
            If the matrix does not fit the memory budget.

        Cost: one pass over the rows for the ``jets`` route, min(m, n) products for others.
        """
        size = self.map.codomain.size * self.domain.size * self.domain.dtype.itemsize
        if size > self._memory_budget:
            raise ValueError(
                f"{self!r}: the matrix needs {size:,} bytes, the budget is {self._memory_budget:,}; "
                "raise memory_budget or stay matrix-free"
            )
        view = self._view(self._rows, self.map, self._scale)
        view._matrix = self._free_dense(slice(0, self.map.codomain.size))
        return view

    def layers(self) -> Iterator[tuple[slice, tuple[str, ...], Tensor, Tensor]]:
        """Yield rows, names, inputs a ``[C, N, p]`` and adjoints g ``[C, N, q]`` of linear layers, N rows at a time.

        Row i of J, on the parameters of these names side by side ``[q, p]``, is ``Σ_c g_ci a_ciᵀ``, summed over all
        that is yielded for it; the C channels are the value and the derivatives that the residual takes.

        Raises
        ------
        ValueError
            For a route other than ``jets``.

        Cost: one backward pass per residual row.

        >>> from precondlab.differentiation.calculus import Pointwise
        >>> model = nn.Sequential(nn.Linear(1, 1))
        >>> rows, x = Pointwise(model, lambda x, u: u(x)[:, 0]), torch.tensor([[2.0], [5.0]])
        >>> J = Jacobian(Map({"": rows}, dict(model.named_parameters()), points={"": x}))
        >>> [(names, a.tolist()) for _, names, a, g in J.layers()]
        [(('0.weight', '0.bias'), [[[2.0, 1.0], [5.0, 1.0]]])]
        """
        if self.route != "jets":
            raise ValueError(
                f"{self!r}: inputs and adjoints of layers are known to the route 'jets' only; give the residual as "
                "pl.Pointwise functions of one feed-forward model, e.g. by problem.residual(model)"
            )
        scale = self._scale[self._rows]
        for place, _, route in self._chunks(self._rows):
            for rows, names, a, g in route.layers(scale[place]):  # type: ignore[attr-defined]
                yield slice(place.start + rows.start, place.start + rows.stop, rows.step), names, a, g

    def _view(self, rows: slice, map: Map, scale: Tensor, blocks: Iterable[str] | None = None) -> Jacobian:
        shapes = {name: map.codomain.shapes[name] for name in (self.codomain.shapes if blocks is None else blocks)}
        view = object.__new__(Jacobian)
        Operator.__init__(view, self.domain, Space(shapes, dtype=self.domain.dtype, device=self.domain.device))
        view.map, view.at, view.route, view._chunks = map, self.at, self.route, self._chunks
        view._memory_budget, view._matrix = self._memory_budget, self._matrix
        view._scale, view._rows = scale, rows
        return view

    def _apply(self, V: Tensor) -> Tensor:
        if self._matrix is not None:
            # rows of few vectors times a matrix: three times faster than the matrix times few columns
            return (V.T.contiguous() @ self._matrix[self._rows].T).T * self._scale[self._rows, None]
        parts = [V[:0], *(route.jvp(V)[part] for _, part, route in self._chunks(self._rows))]
        return torch.cat(parts) * self._scale[self._rows, None]

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        U = U * self._scale[self._rows, None]
        if self._matrix is not None:
            return (U.T.contiguous() @ self._matrix[self._rows]).T
        chunks = self._chunks(self._rows)
        return self._sum(U, (route.vjp(_pad(U[rows], part, len(route.value))) for rows, part, route in chunks))

    def gram(self, V: Tensor) -> Tensor:
        """Return ``JᵀJ V`` for a block ``[n k]``, visiting every chunk once."""
        return self._free_gram(V) if self._matrix is None else self._apply_adjoint(self._apply(V))

    def dense(self) -> Tensor:
        matrix = self._free_dense(self._rows) if self._matrix is None else self._matrix[self._rows]
        return matrix * self._scale[self._rows, None]

    def _free_gram(self, V: Tensor) -> Tensor:
        square = self._scale[self._rows, None] ** 2
        chunks = self._chunks(self._rows)
        return self._sum(
            V, (route.gram(V, _pad(square[rows], part, len(route.value))[:, 0]) for rows, part, route in chunks)
        )

    def _sum(self, V: Tensor, terms: Iterator[Tensor]) -> Tensor:
        """Add new tensors into the first of them; of none the sum is zero."""
        total = next(terms, None)
        if total is None:
            return self.domain.zeros(V.shape[1])
        for term in terms:
            total += term
        return total

    def _free_dense(self, rows: slice) -> Tensor:
        size = rows.stop - rows.start, self.domain.size
        matrix = torch.empty(size, dtype=self.domain.dtype, device=self.domain.device)
        for place, part, route in self._chunks(rows):
            matrix[place] = route.dense()[part]
        return matrix

    def __repr__(self) -> str:
        m, n = self.shape
        rebuilt = self._chunks.rebuilt
        how = ", dense" if self._matrix is not None else f", {rebuilt:.0%} rebuilt" if rebuilt else ""
        return f"Jacobian[{m}×{n}, {self.route}{how}]"


def tangent(model: nn.Module, points: Tensor, **options: object) -> Jacobian:
    """Return the tangent map ``T: v ↦ Σ_i v_i ∂u/∂θ_i(x)`` of a model at points ``[N d]``, ``[N n]``.

    Options are those of :class:`Jacobian`.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> tangent(model, torch.tensor([[2.0], [5.0]])).dense()
    tensor([[2.],
            [5.]])
    """

    def value(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return call(model, {**buffers, **params}, (x,))

    refuse_training_mode(model)
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    params = dict(model.named_parameters())
    return Jacobian(Map({"": value}, params, points={"": points}), **options)  # type: ignore[arg-type]


def _point(map: Map, at: Mapping[str, Tensor] | Tensor | None) -> dict[str, Tensor]:
    if not isinstance(at, Mapping | Tensor | None):
        raise TypeError(f"Jacobian: at should be a dict of parameters or a flat tensor, got {type(at).__name__}")
    params = map.params if at is None else at if isinstance(at, Mapping) else map.domain.unravel(at)
    map.domain.ravel(params)  # raises if a block is missing or has the wrong shape
    for name, value in params.items():
        if (value.dtype, value.device) != (map.domain.dtype, map.domain.device):
            raise TypeError(
                f"Jacobian: at: expected {map.domain.dtype} on {map.domain.device}, "
                f"got {value.dtype} on {value.device} for {name!r}; use .to(...)"
            )
    point = {name: params[name].detach().clone() for name in map.domain.shapes}
    if any(not value.isfinite().all() for value in point.values()):
        raise ValueError("Jacobian: the point of linearization has entries that are not finite")
    return point


def _routed(
    map: Map, at: dict[str, Tensor], asked: RouteName, memory_budget: int, current: Mapping[str, Tensor] | None
) -> tuple[str, Chunks]:
    """Return the fastest route that is right on a sample of the rows and knows the value of all, and its chunks."""
    fixed, refused = map.fixed(), {}
    while True:
        route = choose(fixed.sample()[0], at, map.domain, asked, refused=refused)
        chunks = Chunks(fixed, at, route, memory_budget)
        known = None if current is None else map.recalled(current)
        if not ROUTES[route].derived or (known is not None and chunks.wrong_value(known) is None):
            return route, chunks
        reason = chunks.wrong_value(fixed.unweighted(at))
        if reason is None:
            return route, chunks
        refused[route] = reason


def _pad(U: Tensor, part: slice, size: int) -> Tensor:
    if len(U) == size:
        return U
    padded = U.new_zeros(size, U.shape[1])
    padded[part] = U
    return padded
