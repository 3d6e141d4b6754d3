"""The closed-form route: Taylor propagation through feed-forward networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from precondlab.differentiation.calculus import Pointwise
from precondlab.differentiation.jets.algebra import JetAlgebra
from precondlab.differentiation.jets.network import Linearized, Network, Unsupported
from precondlab.differentiation.jets.recognition import Taken, places, taken
from precondlab.differentiation.jets.values import Values
from precondlab.differentiation.route import Route
from precondlab.space import Space

__all__ = ["Jets", "NetworkOutputs"]

_CACHE = 2**16  # numbers of one layer's jets that are worked on at once: half a megabyte in float64
_ROWS = 2**8  # rows of a layer's matrix at least, of however many numbers: its weights are read for each group
_POINTS = 512  # points of a network without derivatives that are worked on at once
_OBJECTS = 2**13  # bytes of a group besides its numbers
_COLUMNS = 4  # columns carried together through such a group of points


@dataclass
class _Group:
    """Some points of one block: how to linearize the network there, and the residual's own small linearization.

    A residual may take the network at S places per point: at the point itself and at constant shifts of it.
    """

    build: Callable[[], Linearized]
    kept: Linearized | None
    value: Tensor  # [N c]
    slopes: Tensor  # ∂residual/∂jet [C, S, N, c]

    @property
    def working_bytes(self) -> int:
        """Bytes taken while the network is rebuilt and multiplied with one vector."""
        return 3 * self.network().kept_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes taken in any case."""
        return 2 * self.value.nbytes + self.slopes.nbytes + _OBJECTS

    def keep(self, memory_budget: int) -> int:
        """Keep the network in one piece if the budget allows, else let it go; return what is left."""
        if self.kept is None or self.kept.kept_bytes > memory_budget:
            self.kept = None
            return memory_budget
        self.kept.pack()
        return memory_budget - self.kept.kept_bytes

    def network(self) -> Linearized:
        return self.build() if self.kept is None else self.kept

    def jvp(self, network: Linearized, params: dict[str, Tensor]) -> Tensor:
        moved = network.tangent(params).squeeze(-1)  # [C, S·N, k]
        places = moved.reshape(*self.slopes.shape[:3], -1)
        return torch.einsum("csna,csnk->nak", self.slopes, places).reshape(len(self.value), -1)

    def vjp(self, network: Linearized, U: Tensor, gradients: dict[str, Tensor]) -> None:
        C, S, N, c = self.slopes.shape
        w = torch.einsum("csna,nak->csnk", self.slopes, U.reshape(N, c, -1))
        network.adjoint(w.reshape(C, S * N, -1, 1), gradients)


class Jets(Route):
    """Propagate value and derivatives through each layer together, with tangent and adjoint in closed form.

    For residual blocks that are functions of x and of derivatives of one feed-forward network at x
    (:class:`~precondlab.differentiation.calculus.Pointwise`). All channels go through a linear
    layer in one matrix product; ``Jv`` and ``Jᵀu`` cost two matrix products per layer each and
    reuse the primal pass.

    Reference: Bettencourt, Johnson & Duvenaud (2019), Taylor-mode automatic differentiation; Li et al.
    (2024), doi:10.1038/s42256-024-00794-x (forward Laplacian).
    """

    name = "jets"
    derived = True
    bounded = True

    def __init__(
        self,
        function: Callable[[dict[str, Tensor]], Tensor],
        params: Mapping[str, Tensor],
        space: Space,
        memory_budget: int = 2**30,
    ) -> None:
        restriction = getattr(function, "map", None)
        if restriction is None or restriction.points is None:
            raise Unsupported("a residual that is not given block by block")
        self.space = space
        given = restriction.complete(params)
        self._groups: list[_Group] = []
        with torch.inference_mode(False):
            for name, rows, x, root in restriction.parts(function.rows):  # type: ignore[attr-defined]
                if not isinstance(rows, Pointwise):
                    raise Unsupported(f"the block {name!r}, which is not a pl.Pointwise of one model")
                for i, group in enumerate(_groups(rows, rows.complete(given), list(space.shapes), x, root)):
                    if i == 0:  # all groups of a block are alike, the last one perhaps smaller
                        memory_budget -= group.held_bytes * -(-len(x) // group.slopes.shape[2])
                    if not self._groups:  # blocks follow each other: one group at a time is worked on
                        memory_budget -= group.working_bytes
                    memory_budget = group.keep(memory_budget)
                    self._groups.append(group)
        self.value = torch.cat([group.value for group in self._groups])

    @classmethod
    def values(
        cls,
        function: Callable[[dict[str, Tensor]], Tensor],
        params: Mapping[str, Tensor],
        space: Space,
        memory_budget: int = 2**30,
    ) -> Callable[[Mapping[str, Tensor]], Tensor]:
        """Return the function by its primal pass alone, without what tangents need."""
        return Values(function, params, space, memory_budget)

    @property
    def kept_bytes(self) -> int:
        """Bytes kept between products."""
        return sum(group.kept.kept_bytes for group in self._groups if group.kept is not None)

    @property
    def kept_fraction(self) -> float:  # type: ignore[override]
        kept = sum(len(group.value) for group in self._groups if group.kept is not None)
        return kept / len(self.value)

    def jvp(self, V: Tensor) -> Tensor:
        return _by_columns(self._jvp, V, len(self.value))

    def vjp(self, U: Tensor) -> Tensor:
        return _by_columns(self._vjp, U, self.space.size)

    def gram(self, V: Tensor, square: Tensor) -> Tensor:
        """Return ``Jᵀ diag(square) J V``, group by group while its data are in cache."""
        return _by_columns(lambda part: self._gram(part, square), V, self.space.size)

    def dense(self) -> Tensor:
        """Return J ``[m n]`` from one adjoint pass: every row is a sum of outer products per layer."""
        parts = []
        for group in self._groups:
            network, (C, S, N, c) = group.network(), group.slopes.shape
            rows = [
                self._flat(network.rows(group.slopes[..., a].reshape(C, S * N, 1), self._zeros), S * N)
                .view(S, N, -1)
                .sum(0)
                for a in range(c)
            ]
            parts.append(torch.stack(rows, dim=1).reshape(len(group.value), self.space.size))
        return torch.cat(parts)

    def layers(self, scale: Tensor) -> Iterator[tuple[slice, tuple[str, ...], Tensor, Tensor]]:
        """Yield rows, names, inputs a ``[C, N, p]`` and adjoints g ``[C, N, q]`` of linear layers, N rows at a time.

        The gradient of a row, times ``scale`` ``[m]``, is ``Σ_c g aᵀ``, the parameters side by side.
        """
        first = 0
        for group, factor in zip(self._groups, self._apart(scale), strict=True):
            network, (C, S, N, c) = group.network(), group.slopes.shape
            w = (group.slopes * factor.view(N, c)).reshape(C, S * N, c)
            for j, column in enumerate(w.split(1, dim=2)):
                rows = slice(first + j, first + N * c, c)
                for names, a, g in network.layers(column):
                    yield rows, names, a.reshape(C * S, N, a.shape[2]), g.reshape(C * S, N, g.shape[2])
            first += N * c

    def _jvp(self, V: Tensor) -> Tensor:
        params, result = self.space.unravel(V.T.contiguous()), V.new_empty(len(self.value), V.shape[1])
        for group, part in zip(self._groups, self._apart(result), strict=True):
            part.copy_(group.jvp(group.network(), params))  # many small tensors would leave holes in the heap
        return result

    def _vjp(self, U: Tensor) -> Tensor:
        gradients = self._zeros(U.shape[1])
        for group, part in zip(self._groups, self._apart(U), strict=True):
            group.vjp(group.network(), part, gradients)
        return self.space.ravel(gradients).T

    def _gram(self, V: Tensor, square: Tensor) -> Tensor:
        params, gradients = self.space.unravel(V.T.contiguous()), self._zeros(V.shape[1])
        for group, part in zip(self._groups, self._apart(square[:, None]), strict=True):
            network = group.network()
            group.vjp(network, group.jvp(network, params) * part, gradients)
        return self.space.ravel(gradients).T

    def _apart(self, rows: Tensor) -> Sequence[Tensor]:
        """Return the rows of each group."""
        return rows.split([len(group.value) for group in self._groups])

    def _zeros(self, columns: int) -> dict[str, Tensor]:
        return self.space.unravel(self.space.zeros(columns).T.contiguous())

    def _flat(self, rows: dict[str, Tensor], count: int) -> Tensor:
        zero = self.space.zeros(count).T
        return self.space.ravel({**self.space.unravel(zero), **rows})


class NetworkOutputs(Route):
    """The outputs ``[N c]`` of a feed-forward network at inputs ``[N, d]``, without derivatives in x."""

    name = "jets"

    def __init__(self, model: nn.Module, params: dict[str, Tensor], space: Space, inputs: Tensor) -> None:
        network = Network(model, list(space.shapes))
        algebra = JetAlgebra([])
        self.space = space
        self._sizes = [len(part) for part in inputs.split(_POINTS)]
        self._parts = [network.linearize(params, algebra, part) for part in inputs.split(_POINTS)]
        outputs = torch.cat([part.value[0] for part in self._parts])
        self.shape = outputs.shape
        self.value = outputs.reshape(-1)

    @property
    def kept_bytes(self) -> int:
        return sum(part.kept_bytes for part in self._parts)

    def jvp(self, V: Tensor) -> Tensor:
        return _by_columns(self._jvp, V, len(self.value))

    def vjp(self, U: Tensor) -> Tensor:
        return _by_columns(self._vjp, U, self.space.size)

    def _jvp(self, V: Tensor) -> Tensor:
        params = self.space.unravel(V.T.contiguous())
        moved = torch.cat([part.tangent(params)[0] for part in self._parts])  # [N k c]
        return moved.transpose(1, 2).reshape(len(self.value), -1)

    def _vjp(self, U: Tensor) -> Tensor:
        gradients = self.space.unravel(self.space.zeros(U.shape[1]).T.contiguous())
        w = U.reshape(*self.shape, -1).transpose(1, 2).contiguous()  # [N k c]
        for part, weight in zip(self._parts, w.split(self._sizes), strict=True):
            part.adjoint(weight.unsqueeze(0), gradients)
        return self.space.ravel(gradients).T


def _by_columns(product: Callable[[Tensor], Tensor], V: Tensor, size: int) -> Tensor:
    """Apply to a few columns at a time."""
    if V.shape[1] <= _COLUMNS:
        return product(V)
    result = V.new_empty(V.shape[1], size)
    for part, target in zip(V.split(_COLUMNS, dim=1), result.split(_COLUMNS), strict=True):
        target.copy_(product(part).T)
    return result.T


def _groups(
    rows: Pointwise, params: dict[str, Tensor], trainable: list[str], x: Tensor, root: Tensor | None
) -> Iterator[_Group]:
    network, wanted = Network(rows.model, trainable), taken(rows, params, x)
    width = max((value.shape[0] for value in params.values() if value.dim() == 2), default=1)
    size = max(_ROWS, _CACHE // width) // wanted.per_point or 1
    values, slopes = x.new_empty(0), x.new_empty(0)
    for start in range(0, len(x), size):
        some = slice(start, start + size)
        build = partial(_linearized, network, params, wanted, x[some])
        linearized = build()
        value, slope = _local(rows.on(some), x[some], linearized.value, wanted)
        if root is not None:
            value, slope = value * root[some, None], slope * root[some, None]
        if not start:  # one tensor for all groups: many small ones would leave holes in the heap
            values = x.new_empty(len(x), *value.shape[1:])
            slopes = x.new_empty(len(x), slope[:, :, :1].numel())
        values[some], kept = value, slopes[some].view(slope.shape)
        yield _Group(build, linearized, values[some].reshape(-1), kept.copy_(slope))


def _linearized(network: Network, params: dict[str, Tensor], wanted: Taken, x: Tensor) -> Linearized:
    return network.linearize(params, wanted.algebra, places(x, wanted.shifts))


def _local(rows: Pointwise, x: Tensor, jets: Tensor, wanted: Taken) -> tuple[Tensor, Tensor]:
    """Return the residual ``[N c]`` and its derivative ``[C, S, N, c]`` in the jets ``[C, S·N, 1]`` of u."""
    jets = jets.reshape(len(jets), len(wanted.shifts), len(x))
    with torch.enable_grad():
        leaf = jets.detach().requires_grad_()
        value = wanted.rows(rows, x, leaf)
        columns = value.reshape(len(x), -1)
        slopes = [
            torch.autograd.grad(columns[:, a].sum(), leaf, retain_graph=True, allow_unused=True)[0]
            if columns.requires_grad
            else None
            for a in range(columns.shape[1])
        ]
    found = [torch.zeros_like(jets) if slope is None else slope for slope in slopes]
    return columns.detach(), torch.stack(found, dim=3)
