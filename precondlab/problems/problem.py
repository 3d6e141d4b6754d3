"""Boundary value problems, and the residual maps of models for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from precondlab.differentiation.calculus import Field, Pointwise, apply, at
from precondlab.map import Map
from precondlab.problems.condition import Condition, satisfies
from precondlab.problems.sampling import (
    Clusters,
    Count,
    Domain,
    Rule,
    box_points,
    clustered,
    evaluation_points,
    face_points,
    gathered,
    pool_points,
)
from precondlab.symbol import Symbol

__all__ = ["Problem"]

Equation = Callable[[Tensor, Field], Tensor]

_EVALUATED_AT_ONCE = 4096  # points per evaluation of functions that are given, and of errors


@dataclass(frozen=True)
class Problem:
    """A boundary value problem ``D u = f`` on a box, with conditions ``B u = g`` on sections of it.

    Parameters
    ----------
    name
        For messages.
    domain
        One interval (a, b) per coordinate; time, if any, is the last.
    equation
        D as a :class:`~precondlab.symbol.Symbol`; or, for a nonlinear equation, a function (points
        ``[N, d]``, field u) → ``[N]``, written with :func:`~precondlab.differentiation.calculus.partials`.
    conditions
        Prescribed values; each is a block of the residual.
    exact
        The solution, ``[N, d]`` → ``[N, 1]``, if known.
    source
        f, ``[N, d]`` → ``[N, 1]``. If None, D applied to the exact solution for a symbol, 0 for a function.
    symbol
        The linear part of a nonlinear equation, for preconditioners; D itself is taken for a linear one.

    Raises
    ------
    ValueError
        If the dimensions of domain and symbol differ, names repeat, or a linear problem has neither an exact
        solution nor a source.

    >>> D, ends = -Symbol.laplacian(1), ((0, 0.0), (0, 1.0))
    >>> Problem("rod", ((0.0, 1.0),), D, (Condition("boundary", ends),), exact=lambda x: x * (1 - x))
    Problem(rod: Symbol(-1∂²₁) u = f on (0, 1), boundary)
    """

    name: str
    domain: Domain
    equation: Symbol | Equation
    conditions: tuple[Condition, ...]
    exact: Field | None = None
    source: Field | None = None
    symbol: Symbol | None = None

    def __post_init__(self) -> None:
        if isinstance(self.equation, Symbol):
            object.__setattr__(self, "symbol", self.equation)
            if self.exact is None and self.source is None:
                raise ValueError(f"{self.name}: give the source f, or the exact solution to derive it from")
        if self.symbol is not None and self.symbol.dim != self.dim:
            raise ValueError(f"{self.name}: the domain has {self.dim} coordinates, the symbol {self.symbol.dim}")
        names = ["interior", *(condition.name for condition in self.conditions)]
        if len(set(names)) < len(names):
            raise ValueError(f"{self.name}: blocks need names of their own, got {names}")

    @property
    def dim(self) -> int:
        """Number of coordinates, time included."""
        return len(self.domain)

    @property
    def linear(self) -> bool:
        """Whether the equation is a linear one with constant coefficients."""
        return isinstance(self.equation, Symbol)

    def residual(
        self,
        model: nn.Module,
        *,
        interior: Count,
        boundary: Count = 400,
        initial: Count | None = None,
        weights: Mapping[str, float] | None = None,
        seed: int = 0,
        rule: Rule | None = None,
        clusters: Clusters | None = None,
        adaptive: bool = False,
    ) -> Map:
        """Return the residual of a model: blocks ``interior`` and one per condition, rows times ``√w``.

        So ``½‖r‖² = ½∫_Ω |Du − f|² + Σ_b (λ_b/2) ∫_b |Bu − g|²`` up to quadrature.

        Parameters
        ----------
        model
            Maps ``[N, d]`` to ``[N, 1]``; points are made in its dtype and on its device.
        interior
            Number of points in the box, or one per axis; see
            :func:`~precondlab.problems.sampling.box_points`.
        boundary
            Number of points for each condition, or one per axis of the box; see
            :func:`~precondlab.problems.sampling.face_points`. In one dimension a condition has its points,
            each of weight 1, whatever the number.
        initial
            The same for the condition named ``initial``; as ``boundary`` if None.
        weights
            Block → λ ≥ 0, default 1. In a problem without a block named ``boundary`` this name stands for
            all conditions that are not named themselves, so that λ of the theory is always
            ``weights={"boundary": λ}``.
        seed
            Of quasi-random and random points.
        rule
            Quadrature rule in place of the default.
        clusters
            Axis → centers and widths of layers, for denser points in the box there, as
            :func:`~precondlab.problems.sampling.clustered` moves them. Their weights stay, so the integral is then over
            that density.
        adaptive
            Whether to take points in the box from 8 times as many random ones, gathered where the equation's residual
            of the model is large now, with weights that leave the integral unbiased; see
            :func:`~precondlab.problems.sampling.gathered`.

        Raises
        ------
        ValueError
            For a model of another width, weights of absent blocks, counts that do not fit, or adaptive points of a
            tensor rule.

        Cost: one evaluation of the residual; if adaptive, that of the equation at 8 times the points besides.
        """
        like = next(model.parameters(), None)
        if like is None:
            raise ValueError(f"{self.name}: {type(model).__name__} has no parameters to be trained")
        self._check_model(model, like)
        inner, volumes = (pool_points if adaptive else box_points)(self.domain, interior, rule=rule, seed=seed)
        inner = clustered(inner, self.domain, clusters or {})
        if adaptive:
            rows = self._rows_now(model, inner.to(like))
            inner, volumes = gathered(inner, volumes, rows.cpu(), interior, seed=seed)  # type: ignore[arg-type]
        inner = inner.to(like)
        functions = {"interior": Pointwise(model, self._interior_rows, _at_points(self._source, inner))}
        sampled = {"interior": (inner, volumes)}
        for index, condition in enumerate(self.conditions):
            count = initial if condition.name == "initial" and initial is not None else boundary
            points, quadrature = face_points(
                self.domain, condition.where, count, rule=rule, seed=seed + 1000 * (index + 1)
            )
            points = points.to(like)
            if condition.shift is None:
                known = _at_points(partial(condition.prescribed, self.exact), points)
            elif satisfies(model, condition, points):
                continue
            else:
                known = None
            functions[condition.name] = Pointwise(model, partial(self._condition_rows, condition), known)
            sampled[condition.name] = points, quadrature
        return Map(
            functions,
            dict(model.named_parameters()),
            points={name: points for name, (points, _) in sampled.items()},
            quadrature={name: quadrature.to(like) for name, (_, quadrature) in sampled.items()},
            weights=self._weights(dict(weights or {}), list(sampled)),
        )

    def error(self, model: nn.Module, points: int = 10_000) -> float:
        """Return ``‖u − u*‖ / ‖u*‖`` in L²(Ω), on about ``points`` points of their own.

        Raises
        ------
        ValueError
            If the problem has no exact solution, or it vanishes.

        >>> from precondlab.models import fourier
        >>> from precondlab.problems import poisson
        >>> poisson().error(fourier(1))  # u = 0
        1.0
        """
        if self.exact is None:
            raise ValueError(f"{self.name}: no exact solution is known to measure the error against")
        like = next(model.parameters(), torch.empty(0, dtype=torch.float64))
        difference = total = 0.0
        for x in evaluation_points(self.domain, points).to(like).split(_EVALUATED_AT_ONCE):
            with torch.no_grad():
                exact = self.exact(x)
                difference += (model(x) - exact).double().square().sum().item()
                total += exact.double().square().sum().item()
        if total == 0:
            raise ValueError(f"{self.name}: the exact solution is zero, so there is no relative error")
        return (difference / total) ** 0.5

    def _interior_rows(self, x: Tensor, u: Field, source: Tensor) -> Tensor:
        value = apply(self.equation, u, x) if isinstance(self.equation, Symbol) else self.equation(x, u)
        return _difference(self.name, "interior", value, source)

    def _rows_now(self, model: nn.Module, x: Tensor) -> Tensor:
        """Return the residual of the equation ``[N]`` at points, unweighted."""
        u = at(model, {name: p.detach() for name, p in model.named_parameters()})
        return _at_points(lambda part: self._interior_rows(part, u, self._source(part)), x)

    def _condition_rows(self, condition: Condition, x: Tensor, u: Field, known: Tensor | None = None) -> Tensor:
        right = condition.right_side(u, self.exact, x) if known is None else known
        return _difference(self.name, condition.name, condition.left_side(u, x), right)

    def _source(self, x: Tensor) -> Tensor:
        """Return f ``[N]`` at points; that of the exact solution if the equation is linear and none is given."""
        if self.source is not None:
            return self.source(x).squeeze(1)
        if isinstance(self.equation, Symbol):
            return apply(self.equation, self.exact, x)  # type: ignore[arg-type]  # __post_init__ saw to both
        return torch.zeros_like(x[:, 0])

    def _check_model(self, model: nn.Module, like: Tensor) -> None:
        x = torch.tensor([[(a + b) / 2 for a, b in self.domain]]).to(like)
        try:
            with torch.no_grad():
                shape = tuple(model(x).shape)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{self.name}: the model should take points of shape [N, {self.dim}]: {error}") from error
        if shape != (1, 1):
            raise ValueError(
                f"{self.name}: the model should map points [N, {self.dim}] to values [N, 1]; "
                f"one point gave the shape {shape}"
            )

    def _weights(self, weights: dict[str, float], blocks: list[str]) -> dict[str, float]:
        if "boundary" in weights and "boundary" not in blocks:
            shared = weights.pop("boundary")
            weights = {**dict.fromkeys(blocks[1:], shared), **weights}
        unknown = [name for name in weights if name not in blocks]
        if unknown:
            raise ValueError(f"{self.name}: weights for unknown blocks {unknown}; the residual has {blocks}")
        return weights

    def __repr__(self) -> str:
        box = " × ".join(f"({a:.4g}, {b:.4g})" for a, b in self.domain)
        equation = f"{self.symbol} u = f" if self.linear else "nonlinear"
        return f"Problem({self.name}: {equation} on {box}, {', '.join(c.name for c in self.conditions)})"


def _at_points(function: Field, x: Tensor) -> Tensor:
    """Evaluate a given function, some points at a time."""
    return torch.cat([function(part).detach() for part in x.split(_EVALUATED_AT_ONCE)])


def _difference(problem: str, block: str, left: Tensor, right: Tensor) -> Tensor:
    if left.shape != right.shape:
        raise ValueError(
            f"{problem}: in block {block!r} the left side has shape {tuple(left.shape)}, the right side "
            f"{tuple(right.shape)}; an equation gives [N], its source [N, 1], a condition's target "
            "[N, number of operators]"
        )
    return left - right
