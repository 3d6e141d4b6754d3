"""What is measured: networks, equations and sizes, and the figures aimed at."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["CASES", "IMAGE", "LENGTH", "QUICK", "Case", "derivative", "laplacian"]

Task = Literal["laplacian", "derivative", "classification", "normalized", "encoder", "convolution"]
LENGTH = 16  # tokens of the encoder's inputs
IMAGE = 16  # pixels along a side of the convolution's inputs


@dataclass(frozen=True)
class Case:
    """One operator ``A = JᵀJ`` (or ``JᵀHJ`` of a classifier) of a tanh network, float64.

    Parameters
    ----------
    name
        For tables.
    task
        ``"laplacian"``: residual ``-Δu − f`` in the interior and u on the boundary of a square;
        ``"derivative"``: ``∂^order u`` on an interval; ``"classification"``: mean cross-entropy;
        ``"normalized"``: the Laplacian of a network with a normalization before each tanh; ``"encoder"`` and
        ``"convolution"``: mean cross-entropy of a transformer block and of two convolutions.
    sizes
        Widths of the network from input to output; of an encoder those of a token, of the block, of its
        inner layer, and classes; of convolutions two numbers of channels, and classes.
    points, boundary
        Number of interior points (or samples), and of boundary points.
    order
        Of the derivative.
    product, block, memory
        Targets, or None: ratio to the bound of one product, and per vector in a block of 16; MB above base.
    """

    name: str
    task: Task
    sizes: tuple[int, ...]
    points: int
    boundary: int = 0
    order: int = 2
    product: float | None = None
    block: float | None = None
    memory: float | None = None

    @property
    def parameters(self) -> int:
        """Number of weights and biases.

        >>> Case("", "laplacian", (2, 64, 64, 64, 64, 1), 2000, 400).parameters
        12737
        """
        if self.task == "encoder":
            d, w, f, classes = self.sizes
            return (d + 1) * w + 4 * (w + 1) * w + (w + 1) * f + (f + 1) * w + 4 * w + (w + 1) * classes
        if self.task == "convolution":
            a, b, classes = self.sizes
            return 10 * a + (9 * a + 1) * b + (b * (IMAGE // 4) ** 2 + 1) * classes
        return sum(a * b + b for a, b in itertools.pairwise(self.sizes))

    @property
    def plain(self) -> bool:
        """Whether the parameters are those of linear layers one after the other."""
        return self.task not in ("encoder", "convolution")

    @property
    def supervised(self) -> bool:
        """Whether the operator is the curvature of a cross-entropy."""
        return self.task in ("classification", "encoder", "convolution")

    @property
    def features(self) -> int:
        """Numbers per point."""
        return {"encoder": LENGTH * self.sizes[0], "convolution": IMAGE**2}.get(self.task, self.sizes[0])

    @property
    def channels(self) -> int:
        """Numbers C carried per interior point and unit: value and derivatives, tokens, 1 for another classifier."""
        if self.task in ("laplacian", "normalized"):
            return self.sizes[0] + 2
        return self.order + 1 if self.task == "derivative" else LENGTH if self.task == "encoder" else 1

    @property
    def rows(self) -> int:
        """Rows of the matrix that passes through each layer: ``C·points + boundary``."""
        return self.channels * self.points + self.boundary

    @property
    def tiny(self) -> Case:
        """A case of the same kind that takes no time, to load libraries before anything is measured."""
        sizes = (self.sizes[0], 4, 4, self.sizes[-1]) if self.task != "convolution" else (2, 2, self.sizes[-1])
        return dataclasses.replace(self, sizes=sizes, points=8, boundary=min(self.boundary, 8))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Case:
        return cls(**{**values, "sizes": tuple(values["sizes"])})


def laplacian(width: int, points: int, boundary: int, *, depth: int = 4, name: str = "", **targets: Any) -> Case:
    """Return the Laplacian of a network 2-width×depth-1."""
    return Case(name, "laplacian", (2, *[width] * depth, 1), points, boundary, **targets)


def derivative(order: int, *, width: int = 64, depth: int = 4, points: int = 2000) -> Case:
    """Return ``∂^order u`` of a network 1-width×depth-1."""
    return Case(f"order {order}", "derivative", (1, *[width] * depth, 1), points, order=order)


def width_for(parameters: int, depth: int = 4) -> int:
    """Return the width that gives a network 2-w×depth-1 about so many parameters.

    >>> width_for(10_000), width_for(10_000_000)
    (57, 1825)
    """
    a, b = depth - 1, depth + 3  # (depth − 1) w² + (depth + 3) w + 1
    return round((-b + math.sqrt(b * b + 4 * a * (parameters - 1))) / (2 * a))


CASES = (
    laplacian(64, 2000, 400, name="small", product=2.5, block=2.0, memory=30.0),
    laplacian(256, 2000, 400, name="large", product=1.5, block=2.0, memory=30.0),
    Case("supervised", "classification", (784, 512, 512, 10), 2048, product=1.3),
    Case("normalized", "normalized", (2, 64, 64, 64, 64, 1), 1000, 200, product=7.0),
    Case("encoder", "encoder", (16, 64, 128, 10), 256, product=7.0),
    Case("convolution", "convolution", (16, 32, 10), 256, product=7.0),
)
QUICK = (laplacian(16, 60, 16, depth=2, name="quick", product=2.5, block=2.0, memory=30.0),)
