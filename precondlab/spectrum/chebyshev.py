"""Spectral densities by the kernel polynomial method: Chebyshev moments instead of a Lanczos recurrence."""

from __future__ import annotations

import numpy as np
import torch
from scipy.fft import dct
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.errors import Breakdown
from precondlab.krylov.checks import repeat_error, require_symmetric
from precondlab.krylov.probes import spherical, tridiagonalize
from precondlab.operator import Operator
from precondlab.spectrum.density import Density, of_rules, probed
from precondlab.spectrum.quadrature import Rule, gauss
from precondlab.spectrum.trace import columnwise, host

__all__ = ["kernel_polynomial"]

_BOUND_STEPS = 20  # Lanczos steps that find an interval, where none is given …
_MARGIN = 0.02  # … and how far it is widened, relative to its length


def kernel_polynomial(
    A: LinearOperator,
    /,
    *,
    bounds: tuple[float, float] | None = None,
    num_matvecs: int = 80,
    num_probes: int = 10,
    generator: torch.Generator | None = None,
) -> Density:
    """Estimate the eigenvalue distribution of a symmetric operator by Chebyshev moments with Jackson's kernel.

    The density is the expectation of φ convolved with a positive kernel of width about
    ``π/(2 num_matvecs)`` of half the interval: evenly resolved and never sharper, without inner products
    that depend on each other. Lanczos quadrature is the better choice except where the
    recurrence itself is to be avoided. Counts carry no bracket: their bounds are 0 and n.

    Parameters
    ----------
    A
        Symmetric operator, or SciPy's.
    bounds
        An interval that holds all eigenvalues; by default from 20 Lanczos steps, widened by their residuals and 2 %.
    num_matvecs
        Products per probe; 2 num_matvecs moments come out.
    num_probes
        Random start vectors.
    generator
        For the probes.

    Raises
    ------
    NotSymmetric
        If A is not symmetric.
    Breakdown
        If a product is not finite, or an eigenvalue lies outside the bounds.

    Cost: num_matvecs · num_probes products, 5 for checks (and 20 for the bounds); memory 4 num_probes vectors.
    Reference: Weiße, Wellein, Alvermann & Fehske (2006), doi:10.1103/RevModPhys.78.275.

    >>> from precondlab.operators import Identity
    >>> from precondlab.space import Space
    >>> d = kernel_polynomial(Identity(Space(10)), bounds=(0.0, 2.0), num_matvecs=50, num_probes=1)
    >>> round(d.count(0.8, 1.2).value, 1), round(d.count().value, 9)
    (10.0, 10.0)
    """
    A = probed(A, "kernel_polynomial", num_matvecs, num_probes)
    before = A.num_matvecs
    generator = generator or torch.Generator().manual_seed(0)
    require_symmetric(A)
    low, high = _interval(A, generator) if bounds is None else bounds
    if not low < high:
        raise ValueError(f"kernel_polynomial: expected bounds (low, high) with low < high, got ({low}, {high})")
    centre, radius = (low + high) / 2, (high - low) / 2
    starts = spherical(A.domain, num_probes, generator=generator) / A.shape[0] ** 0.5
    moments = _moments(A, starts, num_matvecs, centre, radius)
    if (np.abs(moments) > 1 + 1e4 * A.domain.eps * num_matvecs).any():
        raise Breakdown(
            f"kernel_polynomial: an eigenvalue of {A!r} lies outside [{low:.6g}, {high:.6g}]; give wider bounds"
        )
    count = len(moments)
    damped = moments * _jackson(count)[:, None]
    padded = np.zeros((2 * count, num_probes))
    padded[:count] = damped
    weights = np.maximum(np.asarray(dct(padded, type=3, axis=0)), 0)[::-1]
    nodes = centre + radius * np.cos(np.pi * (np.arange(2 * count) + 0.5) / (2 * count))[::-1]
    known = np.full(2 * count, np.inf)
    rules = tuple(Rule(nodes, column / column.sum(), 0, known) for column in weights.T)
    noise = repeat_error(A) * max(abs(low), abs(high))
    return of_rules(A.domain, rules, A.num_matvecs - before, noise=noise)


def _moments(A: Operator, starts: Tensor, num_matvecs: int, centre: float, radius: float) -> np.ndarray:
    """Return ``⟨v, T_k(Ã)v⟩`` for k = 0 … 2 num_matvecs ``[2 num_matvecs + 1, probes]``, two per product."""
    space = A.domain
    before, current = starts, (A.forward(starts) - centre * starts) / radius
    first = host(columnwise(space, starts, current), A)
    moments = [np.ones_like(first), first]
    for step in range(num_matvecs):
        moments.append(2 * host(columnwise(space, current, current), A) - 1)
        if step + 1 == num_matvecs:
            break
        before, current = current, (2 / radius) * (A.forward(current) - centre * current) - before
        moments.append(2 * host(columnwise(space, current, before), A) - first)
    return np.array(moments)


def _jackson(count: int) -> np.ndarray:
    """Return Jackson's damping of the first moments, which keeps a truncated Chebyshev series of a measure positive."""
    k, angle = np.arange(count), np.pi / (count + 1)
    return ((count - k + 1) * np.cos(k * angle) + np.sin(k * angle) / np.tan(angle)) / (count + 1)


def _interval(A: Operator, generator: torch.Generator) -> tuple[float, float]:
    start = spherical(A.domain, 1, generator=generator)
    (T,) = tridiagonalize(A, start, num_steps=_BOUND_STEPS, reorthogonalize=True)
    rule = gauss(T)
    low, high = rule.nodes[0] - rule.residuals[0], rule.nodes[-1] + rule.residuals[-1]
    if A.positive:
        low = max(low, 0.0)
    margin = _MARGIN * (max(high - low, abs(high), abs(low)) or 1.0)  # the zero operator has no scale
    return float(low - margin), float(high + margin)
