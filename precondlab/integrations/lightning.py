"""Lightning: a module that is given by its residual, and callbacks that follow batches and log the spectrum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from precondlab.integrations.hosted import Hosted, evaluating
from precondlab.map import Map
from precondlab.training.monitor import SpectrumMonitor

try:
    import lightning.pytorch as L
except ImportError as error:
    raise ImportError(
        "precondlab.integrations.lightning needs lightning: pip install 'precondlab[lightning]'"
    ) from error

__all__ = ["Follow", "LeastSquares", "Monitor", "residual"]


class LeastSquares(L.LightningModule):
    """A module whose loss is the sum of mean squares of a residual; subclasses write :meth:`residual`.

    ``configure_optimizers`` may return any optimizer, or one of this library as ``Hosted(self.parameters(), make)``.
    Its closure is Lightning's own, optimization stays automatic.
    """

    def residual(self, batch: Any) -> Tensor | dict[str, Tensor]:
        """Return the residual of a batch, or its blocks by name."""
        raise NotImplementedError(f"{type(self).__name__} should define residual(batch)")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = torch.stack([block.square().mean() for block in _blocks(self, batch).values()]).sum()
        self.log("train_loss", loss.detach())
        return loss

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        _follow(self.trainer, lambda: residual(self, batch))


class Follow(L.Callback):
    """Hand the residual map of every batch to the trainer's :class:`Hosted` optimizers.

    For modules that are not :class:`LeastSquares`, such as PINA's solvers.

    Parameters
    ----------
    residual
        ``residual(module, batch) -> Map``.
    """

    def __init__(self, residual: Callable[[Any, Any], Map]) -> None:
        self.residual = residual

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        _follow(trainer, lambda: self.residual(pl_module, batch))


class Monitor(L.Callback):
    """Log a spectrum during training, and continue it from checkpoints.

    Records go to the trainer's loggers when they are made, whatever ``log_every_n_steps``, and are in
    ``trainer.callback_metrics``. The module is in evaluation mode while it is measured.

    Parameters
    ----------
    monitor
        Its source is a map, or a function of module and batch, such as :func:`residual`. Drift between different
        batches includes the difference of the batches; a function that returns the map of a fixed one has none.
    """

    def __init__(self, monitor: SpectrumMonitor) -> None:
        self.monitor = monitor

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        with evaluating(pl_module):
            record = self.monitor.step(pl_module, batch)
        if record is None:
            return
        values = {name: value for name, value in record.items() if name != "step"}
        pl_module.log_dict(values, logger=False, on_step=True, on_epoch=False)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        return self.monitor.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.monitor.load_state_dict(state_dict)


def residual(module: LeastSquares, batch: Any) -> Map:
    """Return the residual map of a :class:`LeastSquares` module on a batch.

    The rows of a block are divided by √N, so that ``‖r‖²`` is the module's loss.

    Raises
    ------
    ValueError
        If the module has dropout or batch normalization in training mode.

    Cost: one evaluation of the residual.
    """

    def blocks() -> dict[str, Tensor]:
        return {name: block / max(1, block.numel()) ** 0.5 for name, block in _blocks(module, batch).items()}

    return Map.of_module(module, blocks)


def _blocks(module: LeastSquares, batch: Any) -> dict[str, Tensor]:
    out = module.residual(batch)
    return dict(out) if isinstance(out, Mapping) else {"": out}


def _follow(trainer: L.Trainer, make: Callable[[], Map]) -> None:
    for optimizer in trainer.optimizers:
        if isinstance(optimizer, Hosted):
            optimizer.follow(make())
