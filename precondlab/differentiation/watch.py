"""What evaluating user code may not do: change buffers, mix points, or take derivatives that are not there."""

from __future__ import annotations

import contextlib
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from precondlab.differentiation.memory import nodes
from precondlab.errors import NotDeterministic

__all__ = [
    "buffers_unchanged",
    "detached",
    "missing_derivative",
    "refuse_training_mode",
    "require_rows_apart",
    "versions",
    "watched",
]

Values = Mapping[str, Tensor]

_ONE_BY_ONE = (
    "A function of (params, points) should treat its points one by one, without mean, norm or number of points; "
    "give what needs all of them as one function: Map(lambda params: …, params)"
)

_NOISY_IN_TRAINING = (
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.RReLU),
)

#: Node of a first derivative in torch's graph → layer whose second derivative is zero wherever it exists.
_KINKED = {
    "ThresholdBackwardBackward0": "ReLU",
    "HardtanhBackwardBackward0": "Hardtanh or ReLU6",
    "LeakyReluBackwardBackward0": "LeakyReLU",
    "PreluKernelBackwardBackward0": "PReLU",
    "RreluWithNoiseBackwardBackward0": "RReLU",
    "SoftshrinkBackwardBackward0": "Softshrink",
    "HardshrinkBackwardBackward0": "Hardshrink",
}


def refuse_training_mode(model: nn.Module) -> None:
    """Raise ValueError for a model whose layers in training mode change their output or buffers in every call."""
    noisy = [name or type(module).__name__ for name, module in model.named_modules() if _noisy(module)]
    if noisy:
        raise ValueError(
            f"the model is in training mode and its layers {noisy} change from call to call; call model.eval() first"
        )


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Refuse layers in training mode before they run, and name layers without the derivatives that are taken of them.

    Raises
    ------
    ValueError
        For dropout or batch normalization in training mode, and for a derivative that torch does not have.

    Warns
    -----
    UserWarning
        Where a derivative of second order is taken of a layer of ReLU type: it is zero.
    """
    hook = register_module_forward_pre_hook(_refuse_noise)
    kinked: set[str] = set()
    try:
        with _Derivatives(kinked):
            yield
    except RuntimeError as error:
        missing = missing_derivative(error)
        if missing is None:
            raise
        raise ValueError(f"Map: {missing}") from error
    finally:
        hook.remove()
    if kinked:
        warnings.warn(
            f"a second derivative is taken of layers of ReLU type ({', '.join(sorted(kinked))}), where it is zero: an "
            "equation of second or higher order is not seen by the model; take a smooth activation, e.g. tanh or SiLU",
            UserWarning,
            stacklevel=_outside(),
        )


def missing_derivative(error: RuntimeError) -> str | None:
    """Return what to do about torch's error for a derivative that it does not have; None for another error.

    >>> missing_derivative(RuntimeError("derivative for aten::hardsigmoid_backward is not implemented"))
    'torch has no second derivative of hardsigmoid; take a smooth activation, e.g. tanh or SiLU'
    """
    found = re.match(r"derivative for aten::_?(\w+?)(_backward)* is not implemented", str(error))
    if found is None:
        return None
    order = "second " if found[2] else ""
    return f"torch has no {order}derivative of {found[1]}; take a smooth activation, e.g. tanh or SiLU"


@contextlib.contextmanager
def buffers_unchanged(models: Iterable[nn.Module]) -> Iterator[None]:
    """Restore the buffers of models after the block and raise NotDeterministic if they were changed."""
    buffers = [(name, value) for model in models for name, value in model.named_buffers()]
    before = [value.clone() for _, value in buffers]
    changed = []
    try:
        yield
    finally:
        for (name, value), old in zip(buffers, before, strict=True):
            if not torch.equal(value, old):
                changed.append(name)
                value.copy_(old)
    if changed:
        raise NotDeterministic(
            f"evaluating the residual changes the buffers {changed}; put the model in evaluation mode "
            "(model.eval()) before building the map"
        )


def require_rows_apart(
    among: Values,
    params: Values,
    rows: Mapping[str, slice],
    few: Callable[[Values], Values],
    whole: Callable[[Values], Values],
) -> None:
    """Refuse blocks whose rows depend on other points than their own.

    Parameters
    ----------
    among
        Blocks evaluated at all points.
    few, whole
        Params → blocks evaluated at ``rows`` only, and at all points.

    Raises
    ------
    ValueError
        Naming the block.

    Cost: one evaluation of ``few`` if values agree; else two more and one of ``whole``.
    """
    rtol = torch.finfo(next(iter(params.values())).dtype).eps ** 0.5
    try:
        alone = few(params)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"Map: the residual cannot be evaluated at some of its points only ({reason}). {_ONE_BY_ONE}"
        ) from error
    apart = [name for name, part in rows.items() if _distance(alone[name], among[name][part]) > rtol]
    if not apart:
        return
    # it may be round-off of a small residual, or chance: look again where the residual is not small
    generator = torch.Generator().manual_seed(0)
    elsewhere = {
        name: value * (1 + 0.1 * torch.randn(value.shape, generator=generator).to(value))
        for name, value in params.items()
    }
    once, again, all_rows = few(elsewhere), few(elsewhere), whole(elsewhere)
    for name in apart:
        if _distance(once[name], again[name]) <= rtol < _distance(once[name], all_rows[name][rows[name]]):
            raise ValueError(
                f"Map: rows of {f'block {name!r}' if name else 'the residual'} change with the other points they are "
                f"evaluated with. {_ONE_BY_ONE}"
            )


def detached(params: Values) -> dict[str, Tensor]:
    """Return the values without their graphs."""
    return {name: value.detach() for name, value in params.items()}


def versions(params: Values) -> list[tuple[int, int]]:
    """Return numbers that change where a tensor is replaced or changed in place."""
    return [(value.data_ptr(), 0 if value.is_inference() else value._version) for value in params.values()]


def _distance(found: Tensor, expected: Tensor) -> float:
    """Return the relative distance of two tensors; 0 where they are equal or not finite."""
    distance, size = (found - expected).norm().item(), expected.norm().item()
    return distance / size if distance * size > 0 else 1.0 if distance > 0 else 0.0


class _Derivatives(TorchFunctionMode):
    """Note the layers of ReLU type in what :func:`torch.autograd.grad` is asked to differentiate a second time."""

    def __init__(self, kinked: set[str]) -> None:
        super().__init__()
        self._kinked = kinked

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.autograd.grad and args:
            outputs = [args[0]] if isinstance(args[0], Tensor) else list(args[0])
            self._kinked |= {_KINKED[name] for node in nodes(outputs) if (name := node.name()) in _KINKED}
        return func(*args, **(kwargs or {}))


def _outside() -> int:
    """Return the stack level, seen from the caller, of the first frame outside this package."""
    package, frame, level = __name__.split(".")[0], sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals["__name__"].split(".")[0] in (package, "contextlib"):
        frame, level = frame.f_back, level + 1
    return level


def _noisy(module: nn.Module) -> bool:
    return module.training and isinstance(module, _NOISY_IN_TRAINING) and getattr(module, "p", 1) > 0


def _refuse_noise(module: nn.Module, inputs: Any) -> None:
    if _noisy(module):
        refuse_training_mode(module)
