"""The state of torch in which user code is evaluated, so that it can be differentiated again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["ClosureModule", "call", "differentiable"]


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


def call(
    model: nn.Module,
    params: Mapping[str, Tensor],
    arguments: tuple[Any, ...] = (),
    keywords: Mapping[str, Any] | None = None,
) -> Any:
    """Return what a model returns with other parameters and buffers, given by one of their names.

    Tied parameters are exchanged under each name, but a module that is there twice once: torch would not restore it.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> twice = nn.Sequential(layer, layer)
    >>> call(twice, {"0.weight": torch.tensor([[3.0]])}, (torch.ones(1, 1),))
    tensor([[9.]])
    """
    known = dict(model.named_parameters(remove_duplicate=False))
    given = {id(p): params[name] for name, p in known.items() if name in params}
    exchanged = {
        name: given[id(p)]
        for prefix, module in model.named_modules()
        for name, p in module.named_parameters(prefix, recurse=False, remove_duplicate=False)
        if id(p) in given
    }
    exchanged |= {name: value for name, value in params.items() if name not in known}
    return torch.func.functional_call(model, exchanged, arguments, dict(keywords or {}), tie_weights=False)


class ClosureModule(nn.Module):
    """A module whose forward pass is the user's closure, so that ``functional_call`` can run it."""

    def __init__(self, model: nn.Module, closure: Callable[[], Any]) -> None:
        super().__init__()
        self.model = model
        self._closure = closure

    def forward(self) -> Any:
        return self._closure()
