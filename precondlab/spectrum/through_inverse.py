"""Both ends of the spectrum of a positive operator with the help of an approximate inverse."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from precondlab.krylov.inverse import Inverse
from precondlab.krylov.schur import KrylovSchur
from precondlab.operator import Operator
from precondlab.spectrum.bounds import beyond, component_quantile
from precondlab.spectrum.ends import Ends, Seen, krylov_ends

__all__ = ["inverse_ends"]

_RTOL = 1e-8  # of the solves
_RESIDUAL = 1e-5  # of an end: its value is then exact to the square of this over the gap
_FIRST = 30  # products spent at most on κ(M A), and on a bound at the large end unless a larger value shows up
_LOOSE = 1.05  # ratio of a bound to the largest eigenvalue found beyond which it is sharpened
_FREE_STEPS = 80  # steps with M⁻¹, which cost no product with A


def inverse_ends(A: Operator, M: Operator, num_matvecs: int, failure: float, generator: torch.Generator | None) -> Ends:
    """Enclose the spectrum of A by Krylov spaces of A, of ``PᴴAP`` and of A⁻¹.

    With ``M = P Pᴴ`` and ``a ≤ λ(PᴴAP) ≤ b``: ``a M⁻¹ ≤ A ≤ b M⁻¹``, and a solve with relative residual ρ is
    a product with A⁻¹ of relative error ``ρ √(b/a)``. λ_min is the inverse of the largest eigenvalue of A⁻¹.
    λ_max comes from a random start, or, if M⁻¹ is known, from the top eigenvector of M⁻¹; it is bounded by
    ``b λ_max(M⁻¹)``, and if that is loose by a few steps from a random start. ``failure`` is shared by the
    enclosures used.
    """
    component = component_quantile(A.shape[1], failure / 5, complex=A.domain.dtype.is_complex)
    starts = A.domain.random(4, generator=generator)
    inverse = Inverse(A, M, rtol=_RTOL, maxiter=num_matvecs)
    a, b, used = 0.0, math.inf, 0
    if inverse.root is not None:
        root = inverse.target.sqrt
        split = krylov_ends(
            inverse.target if root is None else root.H,
            start=starts[:, 0],
            num_matvecs=min(_FIRST, num_matvecs),
            component=component,
            until=lambda seen: seen.enclosure(component)[0] > 0.7 * seen.values[-1],
        )
        power = 1 if root is None else 2
        a = max(split.enclosure[0] - split.round_off[0], 0.0) ** power
        b = (split.enclosure[1] + split.round_off[1]) ** power
        used = split.num_matvecs
    small = krylov_ends(
        inverse,
        start=starts[:, 1],
        num_matvecs=num_matvecs,
        component=component,
        until=lambda seen: used + inverse.products >= num_matvecs or seen.residuals[0] <= _RESIDUAL * seen.values[0],
    )
    used += inverse.products
    spread = 1.0 if inverse.root is None else math.sqrt(b / a) if a > 0 else math.inf
    error = inverse.residual * spread * small.num_matvecs**0.5 + small.round_off[1] / small.values[0]
    start, ceiling = _top(M.inverse, starts[:, 2], component)
    left = A.sqrt
    power, target = (1, A) if left is None else (2, left.H)
    large = krylov_ends(
        target,
        start=start,
        num_matvecs=max(2, num_matvecs - used),
        component=component if M.inverse is None else None,
        until=lambda seen: seen.residuals[0] <= _RESIDUAL * seen.values[0],
    )
    used += large.num_matvecs
    largest, smallest = float(large.values[0]) ** power, 1 / float(small.values[0])
    # a start that was chosen may span an invariant subspace without the top of A: it encloses nothing
    high = b * ceiling if M.inverse is not None else large.enclosure[1] ** power
    if high > _LOOSE * largest and used < num_matvecs:
        random = krylov_ends(
            target,
            start=starts[:, 3],
            num_matvecs=num_matvecs - used,
            component=component,
            until=lambda seen: _settled(seen, component, largest ** (1 / power), _LOOSE ** (1 / power)),
        )
        used += random.num_matvecs
        largest = max(largest, float(random.values[0]) ** power)
        high = min(high, random.enclosure[1] ** power)
    low = (1 - error) / small.enclosure[1] if error < 1 else 0.0
    return Ends(
        values=np.array([largest, smallest]),
        enclosure=(float(low), float(high)),
        round_off=(float(min(error, 1.0)) * smallest, power * large.round_off[1] / float(large.values[0]) * largest),
        complete=False,
        num_matvecs=used,
        method="inverse",
    )


def _settled(seen: Seen, component: float, largest: float, loose: float) -> bool:
    """Whether a random start bounds the top, or has spent its products, and is not converging to a larger value."""
    top = seen.values[0]
    if top > largest and seen.residuals[0] > _RESIDUAL * top:
        return False
    return len(seen.couplings) >= _FIRST or seen.enclosure(component)[1] <= loose * max(largest, top)


def _top(inverse: Operator | None, start: Tensor, component: float) -> tuple[Tensor, float]:
    """Return a start vector for the large end of A and a bound on λ_max(M⁻¹), from products with M⁻¹ only."""
    if inverse is None:
        return start, math.inf
    K = KrylovSchur(inverse, start[:, None], capacity=_FREE_STEPS + 1)
    for _ in range(min(_FREE_STEPS, inverse.shape[0])):
        K.step()
        values, Y, residuals = K.ritz()
        if K.invariant or residuals[-1] <= _RTOL * values[-1]:
            break
    couplings = np.append(np.diag(K.T, -1), np.linalg.norm(K.S)).real
    return K.vectors(Y[:, -1:])[:, 0], beyond(values, couplings, component)[1]
