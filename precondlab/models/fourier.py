"""Real Fourier series on boxes: the linear model, whose features diagonalize constant-coefficient D."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from precondlab.symbol import Symbol

__all__ = ["fourier"]

Domain = Sequence[tuple[float, float]]
_LINE: Domain = ((-math.pi, math.pi),)


class FourierFeatures(nn.Module):
    """The travelling waves ``s_i a_i (cos(k_i·x + p_i) − o_i)``, orthonormal on a box for s = 1, o = 0.

    In order: the constant ``1/√|Ω|``, then ``√(2/|Ω|) cos(k·x)`` and then ``√(2/|Ω|) sin(k·x)`` for one
    of each pair ±k (the one whose first non-zero entry is positive), ``k_j = 2π n_j / L_j``,
    ``|n_j| ≤ frequencies_j``.

    Parameters are those of :func:`fourier`.

    Attributes
    ----------
    wavevectors : Tensor [n, d]
        k_i; zero for the constant.
    phases : Tensor [n]
        p_i: 0 for a cosine and the constant, −π/2 for a sine.
    amplitudes, offsets, scale : Tensor [n]
        a_i, o_i and s_i.

    Cost: N·n/2 sines and as many cosines. Memory: N·n numbers.

    >>> features = FourierFeatures(1)
    >>> features(torch.zeros(1, 1, dtype=torch.float64)) * math.sqrt(math.pi)
    tensor([[0.7071, 1.0000, 0.0000]], dtype=torch.float64)
    """

    differentiates = True

    wavevectors: Tensor
    phases: Tensor
    amplitudes: Tensor
    offsets: Tensor
    scale: Tensor

    def __init__(
        self,
        frequencies: int | Sequence[int],
        *,
        domain: Domain = _LINE,
        scale: Tensor | Sequence[float] | float | None = None,
        boundary: Literal["zero"] | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        if boundary not in (None, "zero"):
            raise ValueError(f"fourier: boundary is None or 'zero', got {boundary!r}")
        lengths = [b - a for a, b in domain]
        if not lengths or min(lengths) <= 0:
            raise ValueError(f"fourier: domain expects one interval (a, b), a < b, per dimension, got {domain}")
        numbers = _half_lattice(frequencies, len(lengths))
        pairs = (2 * math.pi * numbers / torch.tensor(lengths, dtype=torch.float64)).reshape(-1, len(lengths))
        self.constant = boundary is None
        self.pairs = len(pairs)
        constant = torch.zeros(int(self.constant), len(lengths), dtype=torch.float64)
        wavevectors = torch.cat([constant, pairs, pairs])
        phases = torch.zeros(len(wavevectors), dtype=torch.float64)
        phases[len(constant) + self.pairs :] = -math.pi / 2
        offsets = torch.zeros_like(phases)
        if boundary == "zero":
            _require_centered_interval(domain)
            offsets[: self.pairs] = 1.0 - 2.0 * (numbers[:, 0] % 2)
        volume = math.prod(lengths)
        amplitudes = torch.full_like(phases, math.sqrt(2 / volume))
        amplitudes[: len(constant)] = math.sqrt(1 / volume)
        self.register_buffer("wavevectors", wavevectors.to(dtype))
        self.register_buffer("phases", phases.to(dtype))
        self.register_buffer("amplitudes", amplitudes.to(dtype))
        self.register_buffer("offsets", offsets.to(dtype))
        self.register_buffer("scale", _scale(scale, len(wavevectors), dtype))

    def waves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``cos(k·x)`` and ``sin(k·x)`` ``[N, pairs]`` for one of each pair ±k."""
        if x.dim() == 0 or x.shape[-1] != self.wavevectors.shape[1]:
            raise ValueError(
                f"fourier: expected points of shape [N, {self.wavevectors.shape[1]}], got {tuple(x.shape)}; "
                "the domain of the model gives the number of coordinates"
            )
        first = int(self.constant)
        angle = x @ self.wavevectors[first : first + self.pairs].T
        return angle.cos(), angle.sin()

    def forward(self, x: Tensor, symbol: Symbol | None = None) -> Tensor:
        """Return the features, or D of them for a differential expression D, ``[N, n]`` at points ``[N, d]``."""
        cos, sin = self.waves(x)
        ones = x.new_ones(*x.shape[:-1], int(self.constant))
        offsets = self.offsets
        if symbol is not None:
            first = int(self.constant)
            sigma = symbol(self.wavevectors[first : first + self.pairs])
            cos, sin = sigma.real * cos - sigma.imag * sin, sigma.imag * cos + sigma.real * sin
            level = symbol.coefficients.get((0,) * symbol.dim, 0.0)
            ones, offsets = level * ones, level * offsets
        return (torch.cat([ones, cos, sin], dim=-1) - offsets) * (self.amplitudes * self.scale)

    def extra_repr(self) -> str:
        return f"{len(self.phases)} features in {self.wavevectors.shape[1]} dimensions"


class FourierSeries(nn.Module):
    """The linear model ``u = Σ_i θ_i φ_i(x)`` over :class:`FourierFeatures`; see :func:`fourier`.

    ``model(x, D)`` is D u in closed form: models that offer this set ``differentiates``.

    Attributes
    ----------
    coefficients : Parameter [n]
        θ, the only parameter.
    features : FourierFeatures
        φ, scale included: ``features(x)`` is ``[N, n]``.
    """

    differentiates = True

    def __init__(self, features: FourierFeatures) -> None:
        super().__init__()
        self.features = features
        self.coefficients = nn.Parameter(torch.zeros_like(features.amplitudes))

    @property
    def wavevectors(self) -> Tensor:
        """Wave vectors k_i ``[n, d]``; zero for the constant."""
        return self.features.wavevectors

    @property
    def phases(self) -> Tensor:
        """Phases ``[n]``: 0 for a cosine and the constant, −π/2 for a sine."""
        return self.features.phases

    @property
    def amplitudes(self) -> Tensor:
        """Amplitudes a_i ``[n]`` that make the features orthonormal."""
        return self.features.amplitudes

    @property
    def scale(self) -> Tensor:
        """Factors s_i ``[n]`` on the features."""
        return self.features.scale

    def forward(self, x: Tensor, symbol: Symbol | None = None) -> Tensor:
        """Return u, or D u for a differential expression D, ``[N, 1]`` at points ``[N, d]``.

        D is exact: it multiplies coefficients by its symbol, and the features are not formed.
        """
        features = self.features
        cos, sin = features.waves(x)
        theta = self.coefficients * (features.amplitudes * features.scale)
        first, middle = int(features.constant), int(features.constant) + features.pairs
        a, b = theta[first:middle], theta[middle:]
        level = theta[:first].sum() - features.offsets @ theta
        if symbol is not None:
            sigma = symbol(features.wavevectors[first:middle])
            a, b = sigma.real * a + sigma.imag * b, sigma.real * b - sigma.imag * a
            level = level * symbol.coefficients.get((0,) * symbol.dim, 0.0)
        return (cos @ a + sin @ b + level).unsqueeze(-1)


def fourier(
    frequencies: int | Sequence[int],
    *,
    domain: Domain = _LINE,
    scale: Tensor | Sequence[float] | float | None = None,
    boundary: Literal["zero"] | None = None,
    dtype: torch.dtype = torch.float64,
) -> FourierSeries:
    """Return the Fourier series ``u(x; θ) = Σ_i θ_i s_i φ_i(x)`` on a box, with all coefficients zero.

    The φ_i are the orthonormal waves ``1/√|Ω|``, ``√(2/|Ω|) cos(k·x)`` and ``√(2/|Ω|) sin(k·x)``, one of
    each pair ±k, with the origin of the phase at x = 0: the real form of ``e^{ik·x}``, so that any
    constant-coefficient D turns φ_i into ``|σ(k_i)|`` times a wave of the same k.

    Parameters
    ----------
    frequencies
        Highest number of periods per axis; an integer for all axes. The model has
        ``Π_j (2 frequencies_j + 1)`` coefficients.
    domain
        Box as one interval (a, b) per axis.
    scale
        Factor s_i on each feature ``[n]``, or one number; scaling the features by a diagonal P is
        preconditioning with P.
    boundary
        ``"zero"`` (one interval (−a, a) only): the basis ``cos kx − cos ka``, ``sin kx`` without the
        constant, which vanishes at ±a.
    dtype
        Of coefficients and features.

    Raises
    ------
    ValueError
        For frequencies, a domain or a scale of the wrong length.

    Cost: an evaluation takes N·n/2 sines and as many cosines, and as many numbers of memory.

    >>> model = fourier(2)
    >>> model.wavevectors.T
    tensor([[0., 1., 2., 1., 2.]], dtype=torch.float64)
    >>> with torch.no_grad():
    ...     _ = model.coefficients.copy_(torch.tensor([0.0, 0.0, 0.0, math.sqrt(math.pi), 0.0]))
    >>> model(torch.tensor([[math.pi / 6]], dtype=torch.float64)).item()  # sin(π/6)
    0.5
    """
    return FourierSeries(FourierFeatures(frequencies, domain=domain, scale=scale, boundary=boundary, dtype=dtype))


def _half_lattice(frequencies: int | Sequence[int], dim: int) -> Tensor:
    """Return the integer vectors ``[pairs, dim]`` in a box whose first non-zero entry is positive."""
    limits = [frequencies] * dim if isinstance(frequencies, int | np.integer) else list(frequencies)
    if len(limits) != dim or any(not isinstance(limit, int | np.integer) or limit < 0 for limit in limits):
        raise ValueError(
            f"fourier: frequencies should be an integer ≥ 0 or {dim} of them, one per interval of the "
            f"domain, got {frequencies!r}; for more dimensions give domain=((a, b), …)"
        )
    zero = (0,) * dim
    lattice = itertools.product(*(range(-limit, limit + 1) for limit in limits))
    return torch.tensor([n for n in lattice if n > zero], dtype=torch.float64).reshape(-1, dim)


def _require_centered_interval(domain: Domain) -> None:
    if len(domain) != 1 or not math.isclose(domain[0][0], -domain[0][1]):
        raise ValueError(
            f"fourier: boundary='zero' needs one interval (-a, a), got {tuple(domain)}; "
            "on other boxes use models.masked(model, models.box_mask(domain))"
        )


def _scale(scale: Tensor | Sequence[float] | float | None, size: int, dtype: torch.dtype) -> Tensor:
    factors = torch.as_tensor(1.0 if scale is None else scale, dtype=dtype)
    if factors.dim() > 1 or factors.numel() not in (1, size):
        raise ValueError(
            f"fourier: scale should be a number or have one entry for each of the {size} features, "
            f"got shape {tuple(factors.shape)}"
        )
    return factors.detach().expand(size).clone()
