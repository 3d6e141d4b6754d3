"""Conditions that a solution satisfies on sections of a box: boundary and initial values, periodicity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from precondlab.differentiation.calculus import Field, apply, at
from precondlab.problems.sampling import Face
from precondlab.symbol import Symbol

__all__ = ["Condition"]

Params = dict[str, Tensor]


@dataclass(frozen=True)
class Condition:
    """Values prescribed on sections of a box, one residual row per point and operator.

    Parameters
    ----------
    name
        Of the residual block: ``"boundary"``, ``"initial"``, …
    where
        Sections ``x_axis = coordinate`` as pairs (axis, coordinate), usually faces of the box.
    operators
        What is prescribed, as expressions B applied to u; the value of u if empty.
    target
        Maps points ``[N, d]`` to ``[N, number of operators]``; ``B`` applied to the exact solution if None.
    shift
        If given, the condition is ``B u(x) = B u(x + shift)`` instead: periodicity. Models that satisfy it
        by construction get no residual block.

    >>> Condition("boundary", where=((0, -1.0), (0, 1.0)))  # u(−1) and u(1)
    Condition(name='boundary', where=((0, -1.0), (0, 1.0)), operators=(), target=None, shift=None)
    """

    name: str
    where: tuple[Face, ...]
    operators: tuple[Symbol, ...] = ()
    target: Field | None = None
    shift: tuple[float, ...] | None = None

    def left_side(self, u: Field, x: Tensor) -> Tensor:
        """Return B u at points, ``[N, number of operators]``."""
        if not self.operators:
            return u(x)
        return torch.stack([apply(operator, u, x) for operator in self.operators], dim=1)

    def right_side(self, u: Field, exact: Field | None, x: Tensor) -> Tensor:
        """Return what B u should be at points, ``[N, number of operators]``."""
        return self.prescribed(exact, x) if self.shift is None else self.left_side(u, x + x.new_tensor(self.shift))

    def prescribed(self, exact: Field | None, x: Tensor) -> Tensor:
        """Return the given values at points: the target's, or those of the exact solution."""
        if self.target is not None:
            return self.target(x)
        if exact is None:
            raise ValueError(f"condition {self.name!r} needs a target, as the problem has no exact solution")
        return self.left_side(exact, x)


def satisfies(model: nn.Module, condition: Condition, x: Tensor) -> bool:
    """Whether a model satisfies a periodicity condition to rounding, at parameters in general position."""
    generator = torch.Generator().manual_seed(0)
    params = {name: p + torch.randn(p.shape, generator=generator).to(p) for name, p in model.named_parameters()}
    u = at(model, params)
    with torch.no_grad():
        left, right = condition.left_side(u, x), condition.right_side(u, None, x)
    tolerance = torch.finfo(x.dtype).eps ** 0.5 * left.abs().max().item()
    return bool(((left - right).abs() <= tolerance).all())
