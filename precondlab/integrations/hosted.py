"""Optimizers that own their residual, inside somebody else's training loop."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from precondlab.errors import Breakdown
from precondlab.map import Map

__all__ = ["Hosted", "evaluating"]

_ROUND_OFF = 1e4  # of the first residual, in units of the spacing of 1


class Hosted(torch.optim.Optimizer):
    """Run an optimizer that needs a residual map where the host constructs it from parameters and steps it.

    The host's loss has to be ``‖r‖²``. Before each step it is evaluated by the host's closure and compared with the
    map; if they differ, nothing is changed. The map comes by :meth:`follow`, batch after batch; the adapters
    of this package do that.

    Parameters
    ----------
    params
        Parameters, as for any optimizer.
    make
        ``make(residual, **options)`` gives the optimizer, e.g. ``pl.optim.LevenbergMarquardt``; called when the
        first map comes.
    options
        For ``make``. The host's schedule scales ``lr``, or what the optimizer chooses in its place: a factor of
        the step for ``LevenbergMarquardt``, the first length tried for methods with a line search.

    Attributes
    ----------
    inner
        The optimizer; None before the first map.

    Raises
    ------
    ValueError
        For a map of other parameters, a step before the first map, a closure with another loss, or a state of other
        parameters or another method.
    Breakdown
        If the host's loss is not finite; the parameters are left as they were.

    Cost per step: that of the optimizer, one evaluation of the map and one call of the closure, whose gradient
    is not used.

    >>> from precondlab.training.optimizers import GradientDescent
    >>> a = torch.tensor([1.0], requires_grad=True)
    >>> optimizer = Hosted([a], GradientDescent, lr=0.5)
    >>> optimizer.follow(Map(lambda p: p["a"] - 3.0, {"a": a}))
    >>> optimizer.step(lambda: (a - 3.0).square().sum()).item(), a.tolist()
    (4.0, [2.0])
    """

    def __init__(self, params: Iterable[Any], make: Callable[..., torch.optim.Optimizer], **options: Any) -> None:
        rate = options.get("lr")
        self._make, self._options = make, options
        self._rate = 1.0 if rate is None else rate
        self._unit = 1.0
        self._largest = 0.0
        self._pending: dict[str, Any] | None = None
        self._residual: Map | None = None
        self.inner: torch.optim.Optimizer | None = None
        super().__init__(params, {"lr": self._rate})

    def follow(self, residual: Map) -> None:
        """Minimize this map from now on; its parameters are those of the optimizer."""
        own = {id(p) for group in self.param_groups for p in group["params"] if p.requires_grad}
        if {id(p) for p in residual.params.values()} != own:
            raise ValueError(
                f"Hosted: expected a map of the optimizer's {len(own)} parameter tensors, got {residual!r}; "
                "build both from the same model"
            )
        self._residual = residual
        if self.inner is None:
            self.inner = self._make(residual, **self._options)
            self._unit = self.inner.param_groups[0]["lr"] / self._rate
            if self._pending is not None:
                self._load(self.inner, self._pending)
        else:
            self.inner.residual = residual  # type: ignore[attr-defined]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Tensor:  # type: ignore[override]
        """Take one step and return the loss ``‖r‖²`` before it, the host's if there is a closure."""
        if self.inner is None or self._residual is None:
            raise ValueError(
                f"Hosted: {self._make.__name__} has no residual yet; call follow(map) before the step, or use the "
                "adapter that does"
            )
        self._schedule(self.inner)
        if closure is None:
            return 2 * self.inner.step()  # type: ignore[operator, return-value]
        with torch.enable_grad():
            loss = closure()
        self._compare(loss, self._residual)
        self.inner.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both optimizers."""
        inner = self._pending if self.inner is None else {"state": self.inner.state_dict(), "unit": self._unit}
        hosted = {"inner": inner, "method": self._make.__name__, "shapes": self._shapes(), "largest": self._largest}
        return {**super().state_dict(), "hosted": hosted}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state; refuses that of other parameters or of another method."""
        state = dict(state_dict)
        hosted = state.pop("hosted", {})
        for key, expected in {"method": self._make.__name__, "shapes": self._shapes()}.items():
            if hosted.get(key) != expected:
                raise ValueError(
                    f"Hosted: the state belongs to another optimizer: its {key} is {hosted.get(key)}, expected "
                    f"{expected}; load what state_dict() returned for this method and model"
                )
        super().load_state_dict(state)
        self._largest = hosted["largest"]
        self._pending = copy.deepcopy(hosted["inner"])
        if self.inner is not None and self._pending is not None:
            self._load(self.inner, self._pending)

    def __getstate__(self) -> dict[str, Any]:
        kept = {**self.__dict__, **super().__getstate__()}
        kept.pop("step", None)  # a scheduler's wrapper, bound to the original
        return kept

    def _shapes(self) -> list[list[int]]:
        return [list(p.shape) for group in self.param_groups for p in group["params"]]

    def _load(self, inner: torch.optim.Optimizer, pending: dict[str, Any]) -> None:
        inner.load_state_dict(pending["state"])
        self._unit, self._pending = pending["unit"], None

    def _schedule(self, inner: torch.optim.Optimizer) -> None:
        for group in inner.param_groups:
            group["lr"] = self._unit * self.param_groups[0]["lr"]

    def _compare(self, loss: Any, residual: Map) -> None:
        if loss is None:
            raise ValueError("Hosted: the closure returned None; let it return the loss")
        theirs, ours = float(loss), residual.value.square().sum().item()
        if not math.isfinite(theirs):
            raise Breakdown(f"Hosted: the host's loss is {theirs}; check the data, or start elsewhere")
        eps = residual.domain.eps
        self._largest = max(self._largest, ours)
        allowed = math.sqrt(eps * max(ours, theirs)) + _ROUND_OFF * eps * math.sqrt(self._largest)
        if abs(math.sqrt(max(theirs, 0.0)) - math.sqrt(ours)) > allowed:
            raise ValueError(
                f"Hosted: the host's loss is {theirs:.8g}, ‖r‖² of the residual is {ours:.8g}; use mean squared "
                "errors, the weights and points of the map, no other terms, and no layer that changes from call to call"
            )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode for a while; every module gets its own mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
