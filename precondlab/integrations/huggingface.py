"""Hugging Face: a Trainer whose optimizers get a closure, and a callback that logs the spectrum."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd as _Dropout

from precondlab.integrations.hosted import Hosted, evaluating
from precondlab.map import Map
from precondlab.training.monitor import SpectrumMonitor

try:
    import transformers
    from safetensors import safe_open
    from safetensors.torch import save_file
except ImportError as error:
    raise ImportError(
        "precondlab.integrations.huggingface needs transformers: pip install 'precondlab[huggingface]'"
    ) from error

__all__ = ["Monitor", "Trainer"]

_FILE = "spectrum_monitor.safetensors"


class Trainer(transformers.Trainer):
    """``transformers.Trainer`` that hands its optimizer a closure: the loss of the batch, and its gradient.

    For optimizers that evaluate the loss themselves, such as ``torch.optim.LBFGS``, and with ``residual`` for
    :class:`Hosted` ones: ``optimizers=(Hosted(model.parameters(), make), None)``, for methods that find the length of
    their steps themselves with ``lr_scheduler_type="constant"``. Gradients are not clipped in the closure.

    Parameters
    ----------
    residual
        ``residual(model, inputs) -> Map`` with ``‖r‖²`` the model's loss.

    Raises
    ------
    ValueError
        For gradient accumulation, or a model with dropout: its loss would change from call to call.

    Cost per step: one evaluation with its gradient besides those the optimizer asks for.
    """

    def __init__(self, *args: Any, residual: Callable[[nn.Module, Any], Map] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.args.gradient_accumulation_steps != 1:
            raise ValueError(
                f"Trainer: expected gradient_accumulation_steps=1, got {self.args.gradient_accumulation_steps}; "
                "a closure has one batch: raise per_device_train_batch_size"
            )
        modules = cast(nn.Module, self.model).named_modules()
        noisy = [name for name, module in modules if isinstance(module, _Dropout) and module.p > 0]
        if noisy:
            raise ValueError(
                f"Trainer: the layers {noisy} drop other entries in every call; set the dropout probabilities in the "
                "model's configuration to 0"
            )
        self._residual = residual
        self._hooked: Any = None

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model)
        if self._hooked is not optimizer:
            optimizer.register_step_pre_hook(self._supply)
            self._hooked = optimizer
        return optimizer

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        self._batch = (model, self._prepare_inputs(inputs), num_items_in_batch)
        return super().training_step(model, inputs, num_items_in_batch)

    def _supply(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any]:
        model, inputs, count = self._batch
        if isinstance(optimizer, Hosted) and self._residual is not None:
            optimizer.follow(self._residual(model, inputs))

        def closure() -> Tensor:
            model.zero_grad()
            with self.compute_loss_context_manager():
                loss = cast(Tensor, self.compute_loss(model, inputs, num_items_in_batch=count))
            self.accelerator.backward(loss)
            return loss.detach()

        return (args[0], closure), {}


class Monitor(transformers.TrainerCallback):
    """Log a spectrum during training through ``trainer.log``, and continue it from checkpoints.

    The model is in evaluation mode while it is measured. Usage: ``trainer.add_callback(Monitor(monitor, trainer))``.

    Parameters
    ----------
    monitor
        Its source is a function of the model, such as ``lambda model: pl.GGN(model, loss_fn, batch)``.
    trainer
        The trainer that logs.
    """

    def __init__(self, monitor: SpectrumMonitor, trainer: transformers.Trainer) -> None:
        self.monitor, self.trainer = monitor, trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        file = _checkpoint(args, state) / _FILE
        if state.global_step and file.exists():
            with safe_open(file, "pt") as saved:
                entries = json.loads(saved.metadata()["state"])
                entries["reference"] = [saved.get_tensor(name) for name in saved.keys()] or None  # noqa: SIM118
            self.monitor.load_state_dict(entries)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        with evaluating(kwargs["model"]):
            record = self.monitor.step(kwargs["model"])
        if record is not None:
            self.trainer.log({name: value for name, value in record.items() if name != "step"})

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        entries = self.monitor.state_dict()
        reference: dict[str, Tensor] = {str(index): part for index, part in enumerate(entries.pop("reference") or ())}
        save_file(reference, _checkpoint(args, state) / _FILE, metadata={"state": json.dumps(entries)})


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
