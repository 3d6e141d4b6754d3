"""Feed-forward networks as plain ``nn.Sequential``, with PyTorch's default initialization."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from precondlab.models.fourier import Domain, FourierFeatures

__all__ = ["fourier_mlp", "mlp"]

Activation = str | Callable[[], nn.Module]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "mish": nn.Mish,
}


def mlp(
    sizes: Sequence[int],
    *,
    activation: Activation = nn.Tanh,
    domain: Domain | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int | None = None,
) -> nn.Sequential:
    """Return the network ``x ↦ W_L σ(… σ(W_1 x + b_1) …) + b_L``.

    Parameters
    ----------
    sizes
        Widths from input to output, e.g. ``(2, 20, 20, 1)``.
    activation
        σ as a module class (or any function that makes a module), or one of the names tanh, gelu, silu,
        sigmoid, softplus, mish.
    domain
        One interval per coordinate: the first layer starts as one for the box [−1, 1]ᵈ that is mapped to this one.
    dtype
        Of the parameters.
    seed
        For weights that repeat, drawn without touching the global random state, which is used if None.

    Raises
    ------
    ValueError
        For fewer than two widths, widths below 1, an unknown activation, or a box that does not fit. The network
        itself raises one for points of the wrong width.

    >>> sum(p.numel() for p in mlp((1, 12, 5, 1)).parameters())
    95
    """
    layers = _layers(sizes, activation, dtype, seed)
    if domain is not None:
        _rescale(layers[0], domain)  # type: ignore[arg-type]  # the first of the layers is linear
    return _expecting(sizes[0], nn.Sequential(*layers))


def fourier_mlp(
    frequencies: int | Sequence[int],
    hidden: Sequence[int],
    *,
    activation: Activation = nn.Tanh,
    domain: Domain = ((-math.pi, math.pi),),
    scale: Tensor | Sequence[float] | float | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int | None = None,
) -> nn.Sequential:
    """Return a network of fixed Fourier features, ``x ↦ mlp(s·φ(x))``.

    Parameters
    ----------
    frequencies, domain, scale
        Of the features φ, as for :func:`precondlab.models.fourier`.
    hidden
        Widths of the hidden layers; the output has width 1.
    activation, dtype, seed
        As for :func:`mlp`.

    >>> sum(p.numel() for p in fourier_mlp(12, (5,), activation="gelu").parameters())
    136
    """
    features = FourierFeatures(frequencies, domain=domain, scale=scale, dtype=dtype)
    layers = _layers((len(features.phases), *hidden, 1), activation, dtype, seed)
    return nn.Sequential(features, *layers)


def _layers(sizes: Sequence[int], activation: Activation, dtype: torch.dtype, seed: int | None) -> list[nn.Module]:
    if len(sizes) < 2 or any(not isinstance(size, int | np.integer) or size < 1 for size in sizes):
        raise ValueError(f"mlp: sizes should be at least two widths ≥ 1, from input to output, got {sizes!r}")
    if isinstance(activation, str) and activation not in _ACTIVATIONS:
        raise ValueError(f"mlp: activation should be a module class or one of {list(_ACTIVATIONS)}, got {activation!r}")
    make = _ACTIVATIONS[activation] if isinstance(activation, str) else activation
    layers: list[nn.Module] = []
    with _seeded(seed):
        for width, following in itertools.pairwise(sizes):
            layers += [nn.Linear(width, following, dtype=dtype), make()]
    return layers[:-1]


@torch.no_grad()
def _rescale(first: nn.Linear, domain: Domain) -> None:
    """Compose a layer with the map of a box to [−1, 1]ᵈ."""
    if len(domain) != first.in_features or any(not a < b for a, b in domain):
        raise ValueError(f"mlp: domain should be {first.in_features} intervals (a, b), a < b, got {domain!r}")
    lower, upper = first.weight.new_tensor(domain).T
    first.weight.mul_(2 / (upper - lower))
    first.bias.sub_(first.weight @ ((lower + upper) / 2))


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _expecting(width: int, model: nn.Sequential) -> nn.Sequential:
    model.register_forward_pre_hook(partial(_check_width, width=width))
    return model


def _check_width(module: nn.Module, inputs: tuple[Tensor, ...], *, width: int) -> None:
    shape = inputs[0].shape
    if not shape or shape[-1] != width:
        raise ValueError(
            f"mlp: expected points of shape [N, {width}], got {tuple(shape)}; "
            "the first of the sizes is the number of coordinates"
        )
