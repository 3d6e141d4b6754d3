"""DeepXDE (PyTorch backend): the residual map of a ``dde.Model``, through its own ``data.pde``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from precondlab.map import Map

if TYPE_CHECKING:
    import deepxde

__all__ = ["residual"]


def residual(model: deepxde.Model, /) -> Map:
    """Return the residual map of a DeepXDE model on its training points.

    The blocks are those of ``model.data``: ``interior`` (``interior_2`` … for a system), then one for
    each boundary or initial condition, named after its class. Block rows are divided by √N, so that
    ``‖r‖²`` is the sum of DeepXDE's mean-squared losses with the loss weights it was compiled with. The
    network's parameters are the live ones; training goes on as before.

    Parameters
    ----------
    model
        ``dde.Model(data, net)``; it need not be compiled, unless loss weights are to be used.

    Raises
    ------
    ValueError
        For another backend than PyTorch, or a model with trainable variables outside its network.

    Cost: one evaluation of the losses.
    """
    from deepxde import gradients
    from deepxde.backend import backend_name  # pyright: ignore[reportAttributeAccessIssue] - set at import

    if backend_name != "pytorch":
        raise ValueError(
            f"deepxde.residual: DeepXDE runs on {backend_name!r}; set DDE_BACKEND=pytorch before importing it"
        )
    if model.external_trainable_variables:
        raise ValueError(
            "deepxde.residual: external trainable variables are not parameters of the network; "
            "register them as torch.nn.Parameter of model.net"
        )
    net, data = model.net, model.data
    points, _, auxiliary = data.train_next_batch()
    dtype = next(net.parameters()).dtype
    net.auxiliary_vars = None if auxiliary is None else torch.as_tensor(auxiliary, dtype=dtype)
    inputs = _as_inputs(points, dtype)
    net.eval()

    def blocks() -> dict[str, Tensor]:
        gradients.clear()  # DeepXDE keeps derivatives of the last evaluation
        errors = data.losses_train(None, net(inputs), _difference, inputs, model, aux=[net])
        gradients.clear()
        weights = _loss_weights(model, len(errors))
        return {
            name: error * (weight / max(1, error.numel())) ** 0.5
            for name, error, weight in zip(_names(data, len(errors)), errors, weights, strict=True)
        }

    return Map.of_module(net, blocks)


def _difference(target: Tensor, output: Tensor) -> Tensor:
    return output - target


def _as_inputs(points: Any, dtype: torch.dtype) -> Any:
    if isinstance(points, tuple):
        return tuple(_as_inputs(part, dtype) for part in points)
    return torch.as_tensor(points, dtype=dtype).clone().requires_grad_()


def _loss_weights(model: deepxde.Model, count: int) -> list[float]:
    weights = getattr(model, "loss_weights", None)
    return [1.0] * count if weights is None else [float(weight) for weight in weights]


def _names(data: Any, count: int) -> list[str]:
    conditions = [type(condition).__name__ for condition in getattr(data, "bcs", [])]
    stems = ["interior"] * (count - len(conditions)) + conditions
    seen: Counter[str] = Counter()
    names = []
    for stem in stems:
        seen[stem] += 1
        names.append(stem if seen[stem] == 1 else f"{stem}_{seen[stem]}")
    return names
