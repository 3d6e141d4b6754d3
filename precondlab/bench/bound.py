"""The arithmetic bound that products are compared with."""

from __future__ import annotations

import itertools
import math

from precondlab.bench.cases import IMAGE, LENGTH, Case

__all__ = ["flops", "shapes"]

_CHUNK = 250  # points; the channels of so many fit the cache


def flops(case: Case) -> int:
    """Return the flops of the linear passes of one product ``A v``: the bound is ``flops / rate``.

    Through a layer ``Z = X Wᵀ`` with C numbers per interior point (value, gradient, Laplacian: C = d + 2;
    derivatives up to order m on a line: C = m + 1; classifier: C = 1) and one per boundary point pass
    ``rows = C·points + boundary`` rows. The primal is kept, so a product costs

    * the tangent pass ``Ż = Ẋ Wᵀ + X Ẇᵀ``: 2 matrix products,
    * the adjoint pass ``X̄ = Z̄ W``, ``W̄ = Z̄ᵀ X``: 2 matrix products,

    each ``2·rows·w_in·w_out`` flops. The first layer needs only ``X Ẇᵀ`` and ``Z̄ᵀ X``, for its input has neither
    a tangent nor an adjoint (0.5 % of the whole for 2-64×4-1, but 30 % for 784-512-512-10): so
    ``2·rows·(2·first + 4·others)`` with ``first`` and ``others`` the sums of ``w_in·w_out``. Activations, biases
    and the equation itself are free.

    Parameters
    ----------
    case
        Network and numbers of points.

    For an encoder the rows are tokens, and the two products of attention count as layers; for convolutions a
    row is an image.

    >>> flops(Case("", "laplacian", (2, 3, 1), points=10, boundary=5))  # 2·(4·10 + 5)·(2·6 + 4·3)
    2160
    """
    first, others = _multiplications(case)
    return 2 * case.rows * (2 * first + 4 * others)


def shapes(case: Case) -> list[tuple[int, int, int]]:
    """Return shapes (m, k, n) of matrix products ``[m k] @ [k n]`` on which the rate is measured.

    Whole rows and chunks of them through the widest layers, and the gradient of their weights; the bound
    is made with the highest of the rates.
    """
    a, b, *_ = case.sizes
    widest = (9 * a, b) if case.task == "convolution" else max(itertools.pairwise(case.sizes), key=math.prod)
    rows = case.rows * (IMAGE // 2) ** 2 if case.task == "convolution" else case.rows
    chunk = min(rows, case.channels * _CHUNK)
    found = [(m, *widest) for m in (chunk, rows)] + [(widest[1], chunk, widest[0])]
    return sorted(set(found))


def _multiplications(case: Case) -> tuple[int, int]:
    """Return the multiplications per row of the first layer, and of all others."""
    if case.task == "encoder":
        d, w, f, classes = case.sizes
        return d * w, 4 * w * w + 2 * LENGTH * w + 2 * w * f + w * classes // LENGTH
    if case.task == "convolution":
        a, b, classes = case.sizes
        return 9 * a * IMAGE**2, 9 * a * b * (IMAGE // 2) ** 2 + b * (IMAGE // 4) ** 2 * classes
    first, *others = (a * b for a, b in itertools.pairwise(case.sizes))
    return first, sum(others)
