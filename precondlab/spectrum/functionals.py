"""Functions of an operator under the trace: log-determinant and effective dimension."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator

from precondlab.errors import NotPositive
from precondlab.krylov.probes import spherical, tridiagonalize
from precondlab.spectrum.density import Density, noise, of_rules, probed
from precondlab.spectrum.estimate import Estimate
from precondlab.spectrum.quadrature import gauss, radau

__all__ = ["effective_dimension", "logdet"]


def logdet(
    A: LinearOperator,
    /,
    *,
    floor: float | None = None,
    num_matvecs: int = 50,
    num_probes: int = 10,
    generator: torch.Generator | None = None,
) -> Estimate[float]:
    """Estimate ``log det A = tr log A`` of a positive definite operator by stochastic Lanczos quadrature.

    For each probe the Gauss rule is an upper bound on ``qᴴ log(A) q`` and the Gauss–Radau rule with a node at
    the floor a lower bound; their averages are the bracket of the estimate, which is its middle.
    Without a floor nothing bounds the logarithm from below: the value is Gauss's and the lower end is −∞.

    Parameters
    ----------
    A
        Positive definite operator, or SciPy's.
    floor
        A number with 0 < floor ≤ λ_min, for instance μ where A = B + μI with B ≥ 0.
    num_matvecs
        Lanczos steps: products per probe.
    num_probes
        Random start vectors.
    generator
        For the probes.

    Raises
    ------
    NotPositive
        If a Ritz value is not above round-off: A is not, or not numerically, positive definite.
    ValueError
        If a Ritz value lies below the floor.

    Cost: num_matvecs · num_probes products; memory 3 num_probes vectors.
    References: Golub & Meurant (2010), ch. 6; Ubaru, Chen & Saad (2017), doi:10.1137/16M1104974.

    >>> from precondlab.operators import Identity
    >>> from precondlab.space import Space
    >>> print(logdet(math.e * Identity(Space(10))))
    10 ± ... (10 products)
    """
    if floor is not None and not floor > 0:
        raise ValueError(f"logdet: expected a floor > 0, got {floor}; leave it out if none is known")
    upper, lower = _rules(A, "logdet", floor, num_matvecs, num_probes, generator)
    smallest = float(upper.nodes.min())
    if smallest <= upper.tolerance:
        raise NotPositive(
            f"logdet: {A!r} has the Ritz value {smallest:.3e}, not above round-off {upper.tolerance:.3e}; "
            "log det is −∞ or not defined. Add damping, A + μI, with μ well above round-off"
        )
    if floor is not None and smallest < floor - upper.tolerance:
        raise ValueError(f"logdet: the Ritz value {smallest:.6g} lies below the floor {floor:.6g}; lower the floor")
    return _bracketed(np.log, upper, lower)


def effective_dimension(
    A: LinearOperator,
    /,
    *,
    damping: float,
    num_matvecs: int = 50,
    num_probes: int = 10,
    generator: torch.Generator | None = None,
) -> Estimate[float]:
    """Estimate ``tr A(A + μI)⁻¹``, the number of eigenvalues above the damping μ, counted softly.

    For each probe the Gauss rule is an upper bound and the Gauss–Radau rule with a node at 0 a lower
    bound; their averages are the bracket of the estimate, which is its middle.

    Parameters
    ----------
    A
        Positive semidefinite operator, or SciPy's.
    damping
        μ > 0.
    num_matvecs
        Lanczos steps: products per probe.
    num_probes
        Random start vectors.
    generator
        For the probes.

    Raises
    ------
    NotPositive
        If a Ritz value is negative beyond round-off.

    Cost: num_matvecs · num_probes products; memory 3 num_probes vectors.
    Reference: Golub & Meurant (2010), ch. 6.

    >>> from precondlab.operators import Identity
    >>> from precondlab.space import Space
    >>> print(effective_dimension(Identity(Space(10)), damping=1.0))
    5 ± ... (10 products)
    """
    if not damping > 0:
        raise ValueError(f"effective_dimension: expected a damping > 0, got {damping}")
    upper, lower = _rules(A, "effective_dimension", 0.0, num_matvecs, num_probes, generator)
    smallest = float(upper.nodes.min())
    if smallest < -upper.tolerance:
        raise NotPositive(
            f"effective_dimension: {A!r} has the negative Ritz value {smallest:.3e}; a positive semidefinite "
            "operator is needed, such as pl.Gram or pl.GGN"
        )
    return _bracketed(lambda x: np.maximum(x, 0) / (np.maximum(x, 0) + damping), upper, lower)


def _rules(
    A: LinearOperator,
    who: str,
    floor: float | None,
    num_matvecs: int,
    num_probes: int,
    generator: torch.Generator | None,
) -> tuple[Density, Density | None]:
    """Return the Gauss density and, where a floor is known, the Gauss–Radau density of the same probes."""
    A = probed(A, who, num_matvecs, num_probes)
    before = A.num_matvecs
    starts = spherical(A.domain, num_probes, generator=generator)
    tridiagonals = tridiagonalize(A, starts, num_steps=num_matvecs)
    error, used = noise(A, tridiagonals), A.num_matvecs - before
    upper = of_rules(A.domain, tuple(gauss(T) for T in tridiagonals), used, noise=error)
    if floor is None:
        return upper, None
    return upper, of_rules(A.domain, tuple(radau(T, floor) for T in tridiagonals), used, noise=error)


def _bracketed(f: Callable[[np.ndarray], np.ndarray], upper: Density, lower: Density | None) -> Estimate[float]:
    high = upper.trace(f)
    if lower is None:
        low = high.value if math.isinf(upper.degree) else -math.inf
        return Estimate(high.value, high.stderr, low, high.value, high.degrees, upper.num_matvecs)
    below = lower.trace(f)
    low = min(below.value, high.value)
    middle = (low + high.value) / 2
    degrees = min(high.degrees, below.degrees)
    return Estimate(middle, max(high.stderr, below.stderr), low, high.value, degrees, upper.num_matvecs)
