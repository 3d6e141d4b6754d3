"""Loss weights chosen by what they do to the condition number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from precondlab.operator import Operator
from precondlab.operators import Dense, Gram
from precondlab.operators.jacobian import Jacobian
from precondlab.spectrum import Condition, condition

__all__ = ["Balance", "balance"]


@dataclass(frozen=True)
class Balance:
    """The weight of one residual block that minimizes κ, and the condition number there.

    Attributes
    ----------
    weight
        λ.
    condition
        κ there.
    sweep
        All λ tried, in ascending order, and κ at each.

    >>> from precondlab import models, operators, problems
    >>> r = problems.poisson().residual(models.fourier(3), interior=40)
    >>> found = balance(operators.Gram(operators.Jacobian(r)), "boundary")
    >>> found.condition.lower == min(found.sweep.values())
    True
    """

    weight: float
    condition: Condition
    sweep: Mapping[float, float]


def balance(
    A: Gram,
    /,
    block: str,
    *,
    preconditioner: Operator | Callable[[float], Operator] | None = None,
    bounds: tuple[float, float] = (1e-6, 1e9),
    rtol: float = 1e-6,
) -> Balance:
    """Choose the weight λ of one residual block that minimizes κ, by Brent's golden section on log λ.

    ``A(λ) = A_rest + λ J_bᵀJ_b``: both parts are compressed once by QR factorizations of their
    Jacobians, so that a trial λ costs a dense factorization and no product. The minimum is first
    bracketed on a grid of two points per decade.

    Parameters
    ----------
    A
        ``Gram(J)`` of a residual with named blocks; its present weight of the block is irrelevant,
        those of the other blocks are kept.
    block
        Name of the block.
    preconditioner
        Operator M, or a function λ ↦ M for a preconditioner that depends on the weight.
    bounds
        Search interval of λ.
    rtol
        Relative accuracy of λ.

    Raises
    ------
    ValueError
        If the block does not exist, the bounds are no positive interval, or κ decreases up to one of them (the message
        says which).

    Cost: n products with J for each part, once; O(n³) operations for each of about 40 trials.
    """
    J = require_blocks("balance", A)
    if not 0 < bounds[0] < bounds[1] < np.inf:
        raise ValueError(f"balance: expected bounds 0 < a < b of the weight, got {bounds}")
    others = [name for name in J.codomain.shapes if name != block]
    J_b = J.reweighted({block: 1.0}).block(block)
    parts = [_compress(J.block(name)) for name in others]
    scaled = _compress(J_b)

    def measure(log_weight: float) -> Condition:
        weight = float(np.exp(log_weight))
        M = preconditioner if isinstance(preconditioner, Operator | None) else preconditioner(weight)
        stacked = torch.cat([*parts, weight**0.5 * scaled])
        return condition(Gram(Dense(stacked)), preconditioner=M)

    sweep: dict[float, float] = {}

    def log_kappa(log_weight: float) -> float:
        kappa = sweep[float(np.exp(log_weight))] = measure(log_weight).lower
        return float(np.log(kappa))

    low, high = np.log(bounds)
    grid = np.linspace(low, high, 1 + max(4, round(2 * (high - low) / np.log(10))))
    values = [log_kappa(t) for t in grid]
    best = int(np.argmin(values))
    if best in (0, len(grid) - 1):
        raise ValueError(
            f"balance: κ is smallest at the {'lower' if best == 0 else 'upper'} bound λ = {np.exp(grid[best]):g} "
            f"of the search interval {bounds}; widen it, or fix λ: this preconditioner has no best weight there"
        )
    found = minimize_scalar(log_kappa, bracket=tuple(grid[best - 1 : best + 2]), method="brent", tol=rtol / 10)
    return Balance(float(np.exp(found.x)), measure(found.x), dict(sorted(sweep.items())))


def require_blocks(caller: str, A: object) -> Jacobian:
    """Return J of ``Gram(J)``, or raise unless it is the Jacobian of a map with named blocks."""
    if not isinstance(A, Gram) or not isinstance(A.J, Jacobian):
        raise TypeError(f"{caller}: expected Gram(J) of a Jacobian with named blocks, got {A!r}")
    return A.J


def _compress(J: Operator) -> torch.Tensor:
    """Return a matrix R with ``RᵀR = JᵀJ`` and no more rows than columns."""
    matrix = J.dense()
    return matrix if len(matrix) <= matrix.shape[1] else torch.linalg.qr(matrix, mode="r").R
