"""The state of torch in which user code is evaluated, so that it can be differentiated again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["ClosureModule", "differentiable"]


@contextlib.contextmanager
def differentiable() -> Iterator[None]:
    """Record gradients, and take the attention kernel that has second derivatives.

    >>> with torch.no_grad(), differentiable():
    ...     torch.is_grad_enabled()
    True
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class ClosureModule(nn.Module):
    """A module whose forward pass is the user's closure, so that ``functional_call`` can run it."""

    def __init__(self, model: nn.Module, closure: Callable[[], Any]) -> None:
        super().__init__()
        self.model = model
        self._closure = closure

    def forward(self) -> Any:
        return self._closure()
