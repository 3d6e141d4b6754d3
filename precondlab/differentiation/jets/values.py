"""The values of residuals at many θ: the primal pass alone, on the channels that are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from precondlab.differentiation.calculus import Pointwise
from precondlab.differentiation.jets.algebra import JetAlgebra
from precondlab.differentiation.jets.layers import Layer
from precondlab.differentiation.jets.linearized import Step
from precondlab.differentiation.jets.network import Network, Unsupported
from precondlab.differentiation.jets.recognition import places, taken
from precondlab.differentiation.jets.sparse import Jet, coordinates
from precondlab.space import Space

__all__ = ["Values"]

_CACHE = 2**16  # numbers of one channel of a layer that are worked on at once: half a megabyte in float64


class Values:
    """θ ↦ the residual ``[m]`` of rows that are functions of derivatives of one network, not differentiable in θ.

    Points, frozen parameters and buffers are those at construction and should not change while it is used: jets that
    follow from them alone are computed once.

    Parameters
    ----------
    function
        A restriction of a map to some rows.
    params
        Any θ.
    space
        Of the parameters.
    memory_budget
        Bytes for jets that are kept; those beyond it are computed in every evaluation.

    Raises
    ------
    Unsupported
        As :class:`~precondlab.differentiation.jets.route.Jets`.

    Cost: at construction a trace of the network, and the rows at two points of every block. An evaluation is one matrix
    product per layer and wanted channel; its memory some layers' channels, half a megabyte each.
    """

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
        self._complete: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = restriction.complete
        self._budget = memory_budget
        self._blocks: list[_Block] = []
        networks: dict[nn.Module, Network] = {}
        for name, rows, x, root in restriction.parts(function.rows):  # type: ignore[attr-defined]
            if not isinstance(rows, Pointwise):
                raise Unsupported(f"the block {name!r}, which is not a pl.Pointwise of one model")
            if rows.model not in networks:
                networks[rows.model] = Network(rows.model, list(space.shapes))
            if len(x):
                self._blocks.append(_Block(networks[rows.model], rows, self._complete(params), x, root))

    @torch.no_grad()
    def __call__(self, params: Mapping[str, Tensor]) -> Tensor:
        """Return the residual at some θ."""
        given = self._complete(params)
        with torch.inference_mode(False):
            return torch.cat([value for block in self._blocks for value in block.values(given, self._keep)])

    def _keep(self, jets: Mapping[int, Jet]) -> bool:
        """Return whether the budget has room for some jets, and take it."""
        size = sum(part.nbytes for jet in jets.values() for part in jet.values())
        room = size <= self._budget
        self._budget -= size if room else 0
        return room


@dataclass
class _Group:
    """Some points of a block, and the jets there of what θ does not enter, if they are kept."""

    rows: Pointwise
    x: Tensor
    root: Tensor | None
    start: Jet  # of the coordinates
    fixed: dict[int, Jet] = field(default_factory=dict)


class _Block:
    """One block: its groups of points, and the channels of every layer that its rows are made of."""

    def __init__(
        self, network: Network, rows: Pointwise, given: dict[str, Tensor], x: Tensor, root: Tensor | None
    ) -> None:
        given = rows.complete(given)
        self._network, self._rows, self._taken = network, rows, taken(rows, given, x)
        steps, algebra = network.steps, self._taken.algebra
        self._wanted = _wanted(steps, network.layers(given), algebra, {0, *self._taken.channels.values()})
        self._last_use = {i: place for place, step in enumerate(steps, 1) if place in self._wanted for i in step.inputs}
        used = {i for place, step in enumerate(steps, 1) if step.trainable for i in step.inputs} | {len(steps)}
        self._fixed = {i for i in used & self._wanted.keys() if i and not steps[i - 1].trainable}
        width = max((value.shape[0] for value in given.values() if value.dim() == 2), default=1)
        size = max(1, _CACHE // (width * len(self._taken.shifts)))
        self._groups = []
        for some in (slice(start, start + size) for start in range(0, len(x), size)):
            start = coordinates(algebra, places(x[some], self._taken.shifts))
            self._groups.append(_Group(rows.on(some), x[some], None if root is None else root[some], start))

    def values(self, given: dict[str, Tensor], keep: Callable[[Mapping[int, Jet]], bool]) -> Iterator[Tensor]:
        """Yield the residual, group by group."""
        given, algebra, S = self._rows.complete(given), self._taken.algebra, len(self._taken.shifts)
        for group in self._groups:
            output = self._output(self._network.layers(given), group, keep)
            jets = group.x.new_zeros(algebra.size, S * len(group.x))
            for k, part in output.items():
                jets[k] = part[:, 0]
            with torch.enable_grad():  # rows may differentiate something else
                value = self._taken.rows(group.rows, group.x, jets.view(algebra.size, S, -1)).detach()
            value = value.reshape(len(group.x), -1)
            yield (value if group.root is None else value * group.root[:, None]).reshape(-1)

    def _output(self, layers: Sequence[Layer], group: _Group, keep: Callable[[Mapping[int, Jet]], bool]) -> Jet:
        algebra, steps = self._taken.algebra, self._network.steps
        results = {0: group.start, **group.fixed}
        found: dict[int, Jet] = {}
        for place, (step, layer) in enumerate(zip(steps, layers, strict=True), 1):
            if place not in self._wanted or (group.fixed and not step.trainable):
                continue
            results[place] = layer.some(algebra, self._wanted[place], *(results[i] for i in step.inputs))
            if place in self._fixed:
                found[place] = results[place]
            for i in step.inputs:
                if self._last_use[i] == place:
                    results.pop(i, None)
        if found and keep(found):
            group.fixed = found
        return results[len(steps)]


def _wanted(
    steps: Sequence[Step], layers: Sequence[Layer], algebra: JetAlgebra, output: set[int]
) -> dict[int, set[int]]:
    """Return the channels of each result that some channels of the last one are made of."""
    wanted = {len(steps): output}
    for place in range(len(steps), 0, -1):
        if place in wanted:
            channels = layers[place - 1].channels(algebra, wanted[place])
            for i in steps[place - 1].inputs:
                wanted.setdefault(i, set()).update(channels)
    return wanted
