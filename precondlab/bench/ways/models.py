"""Networks of the cases, in plain torch, their parameters taken from the inputs of a case."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from precondlab.bench.cases import IMAGE, LENGTH
from precondlab.bench.inputs import Inputs

__all__ = ["module"]


def module(inputs: Inputs) -> nn.Module:
    """Return the network of a case; ``named_parameters`` has the order of flat vectors."""
    sizes = inputs.case.sizes
    make = {"encoder": encoder, "convolution": convolution, "normalized": normalized}
    net = make.get(inputs.case.task, feed_forward)(sizes).double()
    if not inputs.case.plain:
        with torch.no_grad():
            nn.utils.vector_to_parameters(torch.from_numpy(inputs.theta), net.parameters())
        return net
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    for layer, (weight, bias) in zip(linear, inputs.layers, strict=True):
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))
    return net


def feed_forward(sizes: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with tanh between them."""
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1])


class Normalize(nn.Module):
    """Divide by the root of the mean square."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5)


def normalized(sizes: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with a normalization and tanh between them."""
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), Normalize(), nn.Tanh())]
    return nn.Sequential(*layers[:-2])


class Attention(nn.Module):
    """Self-attention with four heads, written out, so that every library can differentiate it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inward, self.outward = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.inward(x).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)  # [N, heads, T, w / 4]
        weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
        return self.outward((weights @ v).transpose(1, 2).flatten(2))


class Residual(nn.Module):
    """``x + f(norm(x))``."""

    def __init__(self, width: int, inner: nn.Module) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(width), inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(self.norm(x))


class Mean(nn.Module):
    """The mean over tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def encoder(sizes: tuple[int, ...]) -> nn.Sequential:
    """A transformer block on tokens ``[N, T·d]``: d-w, attention, w-f-w, mean over tokens, w-classes."""
    d, width, inner, classes = sizes
    return nn.Sequential(
        nn.Unflatten(1, (LENGTH, d)),
        nn.Linear(d, width),
        Residual(width, Attention(width)),
        Residual(width, nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))),
        Mean(),
        nn.Linear(width, classes),
    )


def convolution(sizes: tuple[int, ...]) -> nn.Sequential:
    """Two convolutions 3×3 on images ``[N, IMAGE²]``, each averaged over 2×2, and a linear layer."""
    first, second, classes = sizes
    return nn.Sequential(
        nn.Unflatten(1, (1, IMAGE, IMAGE)),
        nn.Conv2d(1, first, 3, padding=1),
        nn.SiLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(first, second, 3, padding=1),
        nn.SiLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(second * (IMAGE // 4) ** 2, classes),
    )
