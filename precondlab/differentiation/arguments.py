"""What a map is given: a residual, parameters and points that belong together."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from precondlab.differentiation.calculus import Pointwise

__all__ = ["require_functions", "same_blocks", "split_frozen"]


def require_functions(residual: object, points: object) -> None:
    """Raise unless a residual is a function of the parameters, or functions of parameters and points."""
    if isinstance(residual, nn.Module):
        raise TypeError(
            "Map: a model is no residual; take pl.Map.of_module(model, closure), where closure() returns the residual, "
            "or problem.residual(model)"
        )
    if isinstance(residual, Pointwise):
        raise TypeError('Map: a Pointwise residual needs points: pl.Map({"": residual}, params, points={"": x})')
    functions = residual.values() if isinstance(residual, Mapping) else [residual]
    if not all(map(callable, functions)):
        raise TypeError(f"Map: expected a function, or a dict of functions, for the residual, got {residual!r}")


def split_frozen(params: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return parameters that require gradients, all if none does, and the others."""
    if not isinstance(params, Mapping) or not params:
        raise ValueError(
            f"Map: expected a non-empty dict of parameter tensors, got {type(params).__name__} "
            f"{'without entries' if isinstance(params, Mapping) else '(use dict(model.named_parameters()))'}"
        )
    for name, value in params.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            found = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"Map: parameter {name!r} should be a floating-point tensor, got {found}")
    trainable = {name: value for name, value in params.items() if value.requires_grad} or dict(params)
    return trainable, {name: value for name, value in params.items() if name not in trainable}


def same_blocks(points: Mapping[str, Tensor] | None, residual: object) -> dict[str, Tensor] | None:
    """Return points, after checking that there are some for each block of the residual."""
    if not isinstance(residual, Mapping):
        if points is not None:
            raise ValueError("Map: points need a residual given block by block, {block: function(params, points)}")
        return None
    wrong = [name for name, x in (points or {}).items() if not isinstance(x, Tensor)]
    if wrong:
        raise TypeError(f"Map: the points of {wrong} should be tensors; use torch.as_tensor")
    if points is None or points.keys() != residual.keys():
        raise ValueError(
            f"Map: the residual has the blocks {list(residual)}, "
            f"points are given for {list(points or {})}; give points for each block"
        )
    return dict(points)
