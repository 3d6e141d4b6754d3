"""Green's operators on the residual: Sobolev losses by fast transforms on a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from precondlab.map import Map
from precondlab.operator import Operator
from precondlab.operators import BlockDiagonal, Identity
from precondlab.preconditioners.preconditioner import Preconditioner
from precondlab.space import Space

__all__ = ["greens_operator"]

Boundary = Literal["dirichlet", "neumann", "periodic"]

_SIGN = {"dirichlet": -1, "neumann": 1}  # of the reflection at the ends


def greens_operator(
    r: Map,
    /,
    *,
    block: str = "interior",
    boundary: Boundary | Sequence[Boundary] = "dirichlet",
    order: float = 2.0,
    shift: float = 1.0,
) -> Operator:
    """Precondition a residual from the left by ``S = (c − Δ)^(−s/2)``, a power of a Green's operator.

    ``½‖Sr‖²`` is the loss in the Sobolev space H^(−s), and ``S @ J`` its Jacobian, so A becomes ``JᵀS²J``: the
    amplification of high frequencies by an equation of order s is taken back before the model sees it. What a
    preconditioner on the parameters does for Fourier coefficients, this does for any model; the null space of a
    network remains. The other blocks of the residual are left as they are. Values on the boundary are not bounded by
    the norm of L²: with s = 2 and boundary values in the loss, κ still grows like the number of frequencies. Build
    them into the model.

    The points of the block are a uniform grid, and S is diagonal in the sines, cosines or waves of the box made up of
    its cells, with eigenvalues ``(c + |k|²)^(−s/2)``.

    Parameters
    ----------
    r
        Residual given block by block, e.g. by ``problem.residual(model, interior=(32, 32))``.
    block
        The block that S acts on.
    boundary
        Condition of −Δ at the ends of the box: ``"dirichlet"`` (sines), ``"neumann"`` (cosines) or ``"periodic"``,
        one for all axes, or one each.
    order
        s; that of the equation removes its amplification whole, half of it gives the energy norm.
    shift
        c ≥ 0; positive unless some axis is ``"dirichlet"``.

    Returns
    -------
    Operator
        S on the residual, positive, with ``sqrt`` and ``inverse`` of the same kind.

    Raises
    ------
    ValueError
        If the points are no uniform tensor grid with equal weights, or c + |k|² vanishes for constants.

    Cost: no product with J; an application one FFT of 2^d times as many points as the grid has.
    Reference: Son, Jang, Han & Hwang (2023), doi:10.4310/CMS.2023.v21.n6.a11, for Sobolev losses; De Ryck,
    Bonnet, Mishra & de Bézenac (2024), arXiv:2310.05801.

    >>> from precondlab import models, problems
    >>> r = problems.poisson().residual(models.fourier(1), interior=8)  # on (−π, π)
    >>> S = greens_operator(r, boundary="periodic", shift=0.25)
    >>> x = r.points["interior"][:, 0]
    >>> (S @ torch.cat([x.sin(), x.new_zeros(2)]))[:8].div(x.sin()).mean()  # 1/(0.25 + 1)
    tensor(0.8000, dtype=torch.float64)
    """
    if not isinstance(r, Map) or r.points is None:
        raise ValueError(
            f"greens_operator: expected a pl.Map given block by block with points, got {r!r}; "
            "e.g. problem.residual(model, interior=(32, 32))"
        )
    if block not in r.points:
        raise ValueError(f"greens_operator: no block {block!r}; the residual has {list(r.points)}")
    points = r.points[block]
    kinds = [boundary] * points.shape[1] if isinstance(boundary, str) else list(boundary)
    if len(kinds) != points.shape[1] or set(kinds) - {*_SIGN, "periodic"}:
        raise ValueError(
            f"greens_operator: boundary is one of {[*_SIGN, 'periodic']}, or one for each of the {points.shape[1]} "
            f"axes, got {boundary!r}"
        )
    if not (math.isfinite(order) and 0 <= shift < math.inf) or (shift == 0 and "dirichlet" not in kinds):
        raise ValueError(
            f"greens_operator: expected a finite order and a shift ≥ 0, got {order} and {shift}; without an axis that "
            "is 'dirichlet' constants need shift > 0"
        )
    (root,) = (root for name, _, _, root in r.parts({block: slice(None)}) if name == block)
    if root is not None and not torch.allclose(root, root[0]):
        raise ValueError(f"greens_operator: the quadrature weights of {block!r} differ; take the midpoint rule")
    shape, spacing = _grid(points, block)
    symbol = shift + _laplacian(shape, spacing, kinds, points)
    parts = [
        _Filter(symbol, -order / 2, shape, kinds, r.rows_per_point(name))
        if name == block
        else Identity(Space(size.numel(), dtype=r.codomain.dtype, device=r.codomain.device))
        for name, size in r.codomain.shapes.items()
    ]
    facts = (f"order {order:g}", "×".join(map(str, shape)), "×".join(dict.fromkeys(kinds)))
    return Preconditioner(BlockDiagonal(*parts), "GreensOperator", *facts, setup_matvecs=0, space=r.codomain)


class _Filter(Operator):
    """``f^p`` for a function f of −Δ on a grid: multiplication of the waves of the reflected values."""

    def __init__(self, symbol: Tensor, power: float, shape: Sequence[int], kinds: Sequence[str], width: int) -> None:
        space = Space(math.prod(shape) * width, dtype=symbol.dtype, device=symbol.device)
        super().__init__(space, space, positive=True)
        self.symbol, self.power, self.width = symbol, power, width
        self.grid, self.kinds = list(shape), list(kinds)

    @cached_property
    def _multiplier(self) -> Tensor:
        return torch.where(self.symbol > 0, self.symbol.pow(self.power), 0).unsqueeze(-1)  # odd values have no mean

    def _apply(self, V: Tensor) -> Tensor:
        values = V.reshape(*self.grid, -1)
        for axis, kind in enumerate(self.kinds):
            if kind != "periodic":
                values = torch.cat([values, _SIGN[kind] * values.flip(axis)], dim=axis)
        axes = tuple(range(len(self.grid)))
        waves = self._multiplier * torch.fft.rfftn(values, dim=axes)
        filtered = torch.fft.irfftn(waves, s=values.shape[:-1], dim=axes)
        return filtered[tuple(slice(n) for n in self.grid)].reshape(V.shape)

    @cached_property
    def sqrt(self) -> Operator:
        return self._to(self.power / 2)

    @cached_property
    def inverse(self) -> Operator:
        return self._to(-self.power)

    def _to(self, power: float) -> Operator:
        return _Filter(self.symbol, power, self.grid, self.kinds, self.width)


def _laplacian(shape: tuple[int, ...], spacing: Sequence[float], kinds: Sequence[str], like: Tensor) -> Tensor:
    """Return ``|k|²`` for the waves of the reflected grid; the last axis has those with k ≥ 0 only."""
    lengths = [n if kind == "periodic" else 2 * n for n, kind in zip(shape, kinds, strict=True)]
    total = like.new_zeros(())
    for axis, (n, h) in enumerate(zip(lengths, spacing, strict=True)):
        frequencies = torch.fft.rfftfreq if axis + 1 == len(lengths) else torch.fft.fftfreq
        k = 2 * math.pi * frequencies(n, d=h, dtype=like.dtype, device=like.device)
        total = total.unsqueeze(-1) + k**2
    return total


def _grid(points: Tensor, block: str) -> tuple[tuple[int, ...], list[float]]:
    """Return numbers of points and spacings per axis of a uniform tensor grid, the last axis fastest."""
    axes = [column.unique() for column in points.unbind(1)]
    spacing = [float(x[-1] - x[0]) / max(len(x) - 1, 1) for x in axes]
    rounding = 100 * torch.finfo(points.dtype).eps * points.abs().max()
    uniform = all(
        len(x) > 1 and torch.allclose(x, x[0] + h * torch.arange(len(x)).to(x), rtol=0, atol=float(rounding))
        for x, h in zip(axes, spacing, strict=True)
    )
    if math.prod(map(len, axes)) != len(points) or not uniform or not torch.equal(_product(axes), points):
        raise ValueError(
            f"greens_operator: the points of {block!r} are no uniform tensor grid of at least 2 points per axis, the "
            "last axis fastest; give one number of points per axis, e.g. problem.residual(model, interior=(32, 32))"
        )
    return tuple(map(len, axes)), spacing


def _product(axes: Sequence[Tensor]) -> Tensor:
    return torch.cartesian_prod(*axes).reshape(-1, len(axes))
