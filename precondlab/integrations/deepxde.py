"""DeepXDE (PyTorch backend): residual map, optimizers and monitor of a ``dde.Model``, with its own ``data.pde``."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from precondlab.differentiation.watch import refuse_training_mode
from precondlab.integrations.hosted import Hosted, evaluating
from precondlab.map import Map
from precondlab.training.monitor import SpectrumMonitor

if TYPE_CHECKING:
    import deepxde

__all__ = ["metrics", "monitor", "optimizer", "residual"]

_log = logging.getLogger(__name__)


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
    _import()
    return _residual(model, model.data.train_next_batch())


def optimizer(model: deepxde.Model, make: Callable[..., torch.optim.Optimizer], /, **options: Any) -> Hosted:
    """Return an optimizer for ``model.compile(optimizer)``, made for the residual map that DeepXDE trains on.

    It follows the training points: after a resampling, or with another batch, it goes on with the new map. Before
    each step the map's loss is compared with DeepXDE's; see :class:`~precondlab.integrations.hosted.Hosted`.
    ``model.save`` and ``model.restore`` continue bit for bit.

    Parameters
    ----------
    model
        ``dde.Model(data, net)``, to be compiled with the mean squared error and any loss weights.
    make
        For example ``pl.optim.LevenbergMarquardt``.
    options
        For ``make``.

    Raises
    ------
    ValueError
        As :func:`residual`; for a network with a regularizer, dropout or batch normalization.

    Cost per step: that of the optimizer, and one evaluation of the losses and their gradient by DeepXDE.
    """
    _import()
    if getattr(model.net, "regularizer", None) is not None:
        raise ValueError(
            f"deepxde.optimizer: the regularizer {model.net.regularizer} is not part of the residual; "
            "build the network without it"
        )
    was_training = model.net.training
    refuse_training_mode(model.net.train())  # the mode DeepXDE trains in
    model.net.train(was_training)
    hosted = Hosted(model.net.parameters(), make, **options)
    points = None

    def follow(hosted: Any, args: Any, kwargs: Any) -> None:
        nonlocal points
        state = model.train_state
        if state.X_train is not points:
            hosted.follow(_residual(model, (state.X_train, state.y_train, state.train_aux_vars)))
            points = state.X_train

    hosted.register_step_pre_hook(follow)
    return hosted


def monitor(spectrum: SpectrumMonitor, /) -> deepxde.callbacks.Callback:
    """Return a callback for ``model.train(callbacks=[…])`` that measures before every iteration that is due.

    Records are in ``spectrum.history`` and go to the logger ``precondlab.integrations.deepxde``; with
    ``model.compile(metrics=metrics(spectrum))`` into DeepXDE's own table and loss history too.

    Parameters
    ----------
    spectrum
        Its source is a function of the model, such as :func:`residual`.
    """

    class Monitor(_import().callbacks.Callback):
        def on_batch_begin(self) -> None:
            model: Any = self.model
            with evaluating(model.net):
                record = spectrum.step(model)
            if record is not None:
                _log.info("spectrum %s", record)

    return Monitor()


def metrics(
    spectrum: SpectrumMonitor,
    /,
    names: Sequence[str] = ("lambda_max", "lambda_min", "condition_number", "effective_rank", "drift"),
) -> list[Callable[[Any, Any], float]]:
    """Return metrics for ``model.compile(metrics=[…])`` that repeat the latest record of a monitor.

    DeepXDE prints them under "Test metric", keeps them in ``losshistory.metrics_test`` and saves them with
    ``dde.saveplot``, in this order. NaN until :func:`monitor` has measured, which it first does after DeepXDE's test
    at step 0, and for entries the record lacks.

    Parameters
    ----------
    spectrum
        The one given to :func:`monitor`.
    names
        Entries of its records.
    """

    def latest(name: str) -> Callable[[Any, Any], float]:
        def metric(y_true: Any, y_pred: Any) -> float:
            return spectrum.history[-1].get(name, float("nan")) if spectrum.history else float("nan")

        metric.__name__ = name
        return metric

    return [latest(name) for name in names]


def _import() -> Any:
    try:
        import deepxde
        from deepxde.backend import backend_name  # pyright: ignore[reportAttributeAccessIssue] - set at import
    except ImportError as error:
        raise ImportError("precondlab.integrations.deepxde needs DeepXDE: pip install 'precondlab[deepxde]'") from error

    if backend_name != "pytorch":
        raise ValueError(
            f"precondlab.integrations.deepxde: DeepXDE runs on {backend_name!r}; set DDE_BACKEND=pytorch before "
            "importing it"
        )
    return deepxde


def _residual(model: deepxde.Model, batch: Any) -> Map:
    gradients = _import().gradients
    if model.external_trainable_variables:
        raise ValueError(
            "deepxde.residual: external trainable variables are not parameters of the network; "
            "register them as torch.nn.Parameter of model.net"
        )
    net, data = model.net, model.data
    points, targets, auxiliary = (*batch, None)[:3]  # some data have no auxiliary variables
    dtype = next(net.parameters()).dtype
    inputs = _as_inputs(points, dtype)
    targets, auxiliary = (None if x is None else torch.as_tensor(x, dtype=dtype) for x in (targets, auxiliary))
    net.eval()

    def blocks() -> dict[str, Tensor]:
        gradients.clear()  # DeepXDE keeps derivatives of the last evaluation
        net.auxiliary_vars = auxiliary
        errors = data.losses_train(targets, net(inputs), _difference, inputs, model, aux=[net])
        gradients.clear()
        errors = errors if isinstance(errors, list) else [errors]
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
