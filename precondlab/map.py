"""Differentiable maps θ ↦ residual: what the user has, in the form operators need."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from precondlab.differentiation import watch
from precondlab.differentiation.arguments import require_functions, same_blocks, split_frozen
from precondlab.differentiation.calculus import Pointwise
from precondlab.differentiation.context import ClosureModule, call, differentiable
from precondlab.space import Space

__all__ = ["Map"]

Params = Mapping[str, Tensor]
Residual = Callable[[dict[str, Tensor]], Any]
BlockResidual = Callable[[dict[str, Tensor], Tensor], Tensor]
Rows = Mapping[str, slice]

_EVALUATED_AT_ONCE = 2**16  # numbers of the widest layer, half a megabyte in float64
_SAMPLE = 48  # rows per block on which routes are checked and memory is measured


class Map:
    """A differentiable map ``θ ↦ r(θ)`` from named parameters to a residual with named blocks.

    Parameters
    ----------
    residual
        Either one function ``residual(params) -> Tensor | dict[str, Tensor]``, or one function
        per block, ``{block: function(params, points) -> Tensor}``, which treats its points row by
        row. The second form lets operators work through the rows in chunks.
    params
        Name → tensor. Tensors that do not require a gradient are kept fixed, unless none does.
    points
        For the second form: block → points ``[N, d]``.
    quadrature
        For the second form: block → quadrature weights ``[N]`` (default 1); row i of the
        residual is multiplied by ``√w_i``.
    weights
        Block → λ ≥ 0 (default 1); the rows of the block are multiplied by ``√λ``, so that the
        loss is ``½ Σ_b λ_b Σ_i w_i r_i²``.

    Raises
    ------
    TypeError, ValueError
        For empty or mixed parameters, unknown blocks, a residual that is not finite or not a tensor, rows that
        depend on other points, layers in training mode, derivatives that torch does not have.

    Cost: one evaluation at construction, and one of a few rows.

    >>> r = Map(lambda p: {"fit": p["a"] * torch.tensor([1.0, 2.0])}, {"a": torch.tensor(3.0)})
    >>> r.value, r.codomain.slices
    (tensor([3., 6.]), {'fit': slice(0, 2, None)})
    """

    def __init__(
        self,
        residual: Residual | Mapping[str, BlockResidual],
        params: Params,
        *,
        points: Mapping[str, Tensor] | None = None,
        quadrature: Mapping[str, Tensor] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        require_functions(residual, points)
        self.params, self.frozen = split_frozen(params)
        self.domain = Space.of(self.params)
        self._module: nn.Module | None = None
        self._state: dict[str, Tensor] = {}
        self._whole: Residual | None = None
        self._parts: Mapping[str, BlockResidual] = {}
        if isinstance(residual, Mapping):
            self._parts = residual
        else:
            self._whole = residual
        self.points = same_blocks(points, residual)
        given = [(name, x.dtype) for name, x in (self.points or {}).items() if isinstance(self._parts[name], Pointwise)]
        wrong = [name for name, dtype in given if dtype != self.domain.dtype]
        if wrong:
            raise TypeError(
                f"Map: the points of {wrong} should be {self.domain.dtype}, as the parameters; convert them"
            )
        self._build(quadrature or {}, weights or {})

    @classmethod
    def of_module(
        cls, model: nn.Module, closure: Callable[[], Any], *, weights: Mapping[str, float] | None = None
    ) -> Map:
        """Return the map from a module's trainable parameters to what ``closure()`` returns.

        The closure calls the model in any way, ``torch.autograd.grad`` included; while it runs, the
        model's parameters are exchanged for the point at which the map is evaluated.

        Raises
        ------
        ValueError
            If the model has no trainable parameter, or has dropout or batch normalization in
            training mode.
        """
        if not isinstance(model, nn.Module) or not callable(closure):
            raise TypeError(
                f"Map.of_module: expected a torch module and a function, got {type(model).__name__} and "
                f"{type(closure).__name__}"
            )
        watch.refuse_training_mode(model)
        host = ClosureModule(model, closure)
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not trainable:
            raise ValueError(
                f"Map.of_module: {type(model).__name__} has no trainable parameter; "
                "set requires_grad_(True) on those to be trained"
            )

        def residual(params: dict[str, Tensor]) -> Any:
            renamed = {f"model.{name}": value for name, value in params.items()}
            return call(host, renamed)

        self = cls.__new__(cls)
        self.params = trainable
        self.frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
        self.domain = Space.of(trainable)
        self._module = model
        self._state = {}
        self._whole = residual
        self._parts = {}
        self.points = None
        self._build({}, weights or {})
        return self

    def _build(self, quadrature: Mapping[str, Tensor], weights: Mapping[str, float]) -> None:
        self._quadrature = {name: self._check_quadrature(name, weight) for name, weight in quadrature.items()}
        for model in self._models():
            watch.refuse_training_mode(model)
        params, rows = watch.detached(self.params), self._spaced(2)
        with self.buffers_unchanged():
            with watch.watched():
                blocks = self._evaluate(params)
            if rows is not None:
                watch.require_rows_apart(blocks, params, rows, lambda p: self._blocks(p, rows), self._evaluate)
        shapes = {name: block.shape for name, block in blocks.items()}
        self.codomain = Space(shapes, dtype=self.domain.dtype, device=self.domain.device)
        self.weights = self._check_weights(weights)
        if self.codomain.size == 0:
            raise ValueError("Map: the residual has no rows; give it at least one point")
        for name, block in blocks.items():
            bad = (~block.isfinite()).sum().item()
            if bad:
                where = f" in block {name!r}" if name else ""
                raise ValueError(
                    f"Map: {bad} of {block.numel()} residual rows{where} are not finite; "
                    "check the points and parameters at which the residual is evaluated"
                )
        self._first = torch.cat([block.reshape(-1) for block in blocks.values()])
        self._versions = watch.versions(self.params)

    # Evaluation ----------------------------------------------------------------------------

    def __call__(self, at: Params | Tensor | None = None) -> Tensor:
        """Return the weighted residual ``[m]`` at a point: a dict, a flat vector, or the current one."""
        params = self.params if at is None else at if isinstance(at, Mapping) else self.domain.unravel(at)
        self.domain.ravel(params)  # raises if a block is missing or has the wrong shape
        return self.unweighted(params) * self.scale()

    @property
    def value(self) -> Tensor:
        """The weighted residual ``[m]`` at the current parameters."""
        return self()

    @property
    def chunkable(self) -> bool:
        """Whether any subset of rows can be evaluated on its own."""
        return self.points is not None

    def raw(self, rows: Rows | None) -> Restriction:
        """Return θ ↦ the unweighted residual of some points of each block, flat; None means all rows."""
        if rows is not None and self.points is None:
            raise ValueError("a map given by one function cannot be evaluated row by row")
        return Restriction(self, rows)

    def sample(self, block: str | None = None) -> tuple[Restriction, int]:
        """Return the map restricted to a few rows of each block, or of one, and how many rows that is."""
        if self.points is None:
            return self.raw(None), self.codomain.size
        rows = {name: part for name, part in (self._spaced(1) or {}).items() if block in (None, name)}
        count = sum(
            len(range(*part.indices(len(self.points[name])))) * self.rows_per_point(name) for name, part in rows.items()
        )
        return self.raw(rows), count

    def rows_per_point(self, block: str) -> int:
        """Number of residual rows that one point of a block gives."""
        shape = self.codomain.shapes[block]
        return shape[1:].numel()

    def scale(self, weights: Mapping[str, float] | None = None) -> Tensor:
        """Return ``√λ`` of every row ``[m]``."""
        weights = self.weights if weights is None else self._check_weights({**self.weights, **weights})
        scale = self.codomain.zeros()
        for name, rows in self.codomain.slices.items():
            scale[rows] = weights[name] ** 0.5
        return scale

    def reweighted(self, weights: Mapping[str, float]) -> Map:
        """Return the same map with other λ for some blocks."""
        other = object.__new__(Map)
        other.__dict__.update(self.__dict__)
        other.weights = self._check_weights({**self.weights, **weights})
        return other

    def fixed(self) -> Map:
        """Return the same map with its own copies of points, frozen tensors and buffers, which nothing changes."""
        other = object.__new__(Map)
        other.__dict__.update(self.__dict__)
        other.frozen = {name: value.detach().clone() for name, value in self.frozen.items()}
        other._quadrature = {name: root.detach().clone() for name, root in self._quadrature.items()}
        given = self.complete(self.params)
        other._parts = {n: f.fixed(given) if isinstance(f, Pointwise) else f for n, f in self._parts.items()}
        if self.points is not None:
            other.points = {name: x.detach().clone().requires_grad_(x.requires_grad) for name, x in self.points.items()}
        if self._module is not None:
            other._state = other.frozen | {n: b.detach().clone() for n, b in self._module.named_buffers()}
        return other

    @property
    def held_bytes(self) -> int:
        """Bytes of points, quadrature, frozen tensors and copies of buffers."""
        parts = [f.held for f in self._parts.values() if isinstance(f, Pointwise)]
        own = [d.values() for d in (self.frozen, self._state, self._quadrature, self.points or {})]
        return sum({id(tensor): tensor.nbytes for tensors in (*own, *parts) for tensor in tensors}.values())

    def unweighted(self, params: Params, blocks: Collection[str] | None = None) -> Tensor:
        """Return the residual ``[m]`` without block weights; of a map with points, some blocks if they are named."""
        return torch.cat([block.reshape(-1) for block in self._evaluate(params, blocks).values()])

    def recalled(self, params: Params) -> Tensor | None:
        """Return the unweighted residual ``[m]`` as at construction, if these are its parameters, not changed since."""
        return self._first if watch.versions(params) == self._versions else None

    def buffers_unchanged(self) -> contextlib.AbstractContextManager[None]:
        """Restore the buffers of modules after a block and refuse a residual that changed them."""
        return watch.buffers_unchanged(self._models())

    # Internals -----------------------------------------------------------------------------

    def _models(self) -> list[nn.Module]:
        """Return the modules that the map is known to call."""
        models = [self._module, *(f.model for f in self._parts.values() if isinstance(f, Pointwise))]
        return list(dict.fromkeys(model for model in models if model is not None))

    def _spaced(self, least: int) -> Rows | None:
        """Return a few points of each block that has any, one in ``least`` at most."""
        if self.points is None:
            return None
        return {name: slice(0, len(x), max(least, -(-len(x) // _SAMPLE))) for name, x in self.points.items() if len(x)}

    def _blocks(self, params: Params, rows: Rows | None) -> dict[str, Tensor]:
        with differentiable():
            if self._whole is not None:
                out = self._whole({**params, **self._state} if self._module is not None else self.complete(params))
                out = out if isinstance(out, Mapping) else {"": out}
                return {name: self._check_block(name, block) for name, block in out.items()}
            blocks = {}
            for name, function, x, root in self.parts(rows):
                block = self._check_block(name, function(self.complete(params), x), len(x))
                blocks[name] = block if root is None else block * root.reshape(-1, *[1] * (block.dim() - 1))
            return blocks

    def _evaluate(self, params: Params, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Return the blocks without their derivatives, from a limited number of points at once."""
        params = watch.detached(params)
        if self.points is None:
            return {name: block.detach() for name, block in self._blocks(params, None).items()}
        width = max((max(value.shape) for value in self.complete(params).values() if value.dim()), default=1)
        size = max(16, _EVALUATED_AT_ONCE // width)
        blocks = {}
        for name, x in self.points.items() if names is None else [(n, self.points[n]) for n in names]:
            starts = range(0, max(1, len(x)), size)
            parts = [self._blocks(params, {name: slice(s, s + size)})[name].detach() for s in starts]
            blocks[name] = torch.cat(parts)
        return blocks

    def complete(self, params: Params) -> dict[str, Tensor]:
        """Return the parameters together with the frozen ones."""
        return {**params, **{name: value.detach() for name, value in self.frozen.items()}}

    def parts(self, rows: Rows | None) -> Iterator[tuple[str, BlockResidual, Tensor, Tensor | None]]:
        """Yield name, function, points and √w of each block given by a function of its own, on some rows."""
        for name, x in (self.points or {}).items():
            part = slice(None) if rows is None else rows.get(name, slice(0, 0))
            if rows is None or name in rows:
                root, function = self._quadrature.get(name), self._parts[name]
                some = x[part]
                if isinstance(function, Pointwise):
                    function, some = function.on(part), some.detach()
                yield name, function, some, None if root is None else root[part]

    def _check_block(self, name: str, block: Any, points: int | None = None) -> Tensor:
        where = f"the residual block {name!r}" if name else "the residual"
        if not isinstance(block, Tensor):
            raise TypeError(
                f"Map: {where} should be a tensor, got {type(block).__name__}; "
                "return a tensor or a dict of tensors (named blocks)"
            )
        block = block.as_subclass(Tensor)
        if block.dtype != self.domain.dtype or block.device != self.domain.device:
            raise TypeError(
                f"Map: {where} is {block.dtype} on {block.device} but the parameters are {self.domain.dtype} "
                f"on {self.domain.device}; convert the points, e.g. points.to({self.domain.dtype})"
            )
        if points is not None and (block.dim() == 0 or len(block) != points):
            raise ValueError(f"Map: {where} should have one row per point ({points}), got shape {tuple(block.shape)}")
        return block

    def _check_quadrature(self, name: str, weight: Tensor) -> Tensor:
        weight = torch.as_tensor(weight, device=self.domain.device)
        if self.points is None or name not in self.points or weight.shape != self.points[name].shape[:1]:
            raise ValueError(f"Map: quadrature for block {name!r} needs one weight per point of that block")
        if not (weight >= 0).all():
            raise ValueError(f"Map: quadrature weights of block {name!r} must be ≥ 0")
        return weight.to(self.domain.dtype).sqrt()

    def _check_weights(self, weights: Mapping[str, float]) -> dict[str, float]:
        unknown = set(weights) - set(self.codomain.shapes)
        if unknown:
            raise ValueError(
                f"Map: weights for unknown blocks {sorted(unknown)}; the residual has {list(self.codomain.shapes)}"
            )
        result = {name: float(weights.get(name, 1.0)) for name in self.codomain.shapes}
        wrong = {name: weight for name, weight in result.items() if not 0 <= weight < float("inf")}
        if wrong:
            raise ValueError(f"Map: weights must be finite and ≥ 0, got {wrong}")
        return result

    def __repr__(self) -> str:
        blocks = ", ".join(f"{name or 'residual'}: {shape.numel()}" for name, shape in self.codomain.shapes.items())
        frozen = f", {len(self.frozen)} frozen tensors" if self.frozen else ""
        return f"Map[{self.domain.size} parameters → {{{blocks}}}{frozen}]"


class Restriction:
    """θ ↦ the unweighted residual, quadrature included, of some points of each block, flat.

    Attributes
    ----------
    map, rows
        The map, and block → slice of its points; None for all.
    """

    def __init__(self, map: Map, rows: Rows | None) -> None:
        self.map, self.rows = map, rows

    def __call__(self, params: dict[str, Tensor]) -> Tensor:
        return torch.cat([block.reshape(-1) for block in self.map._blocks(params, self.rows).values()])
