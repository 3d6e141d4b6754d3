"""Both ends of the spectrum of a positive operator with the help of an approximate inverse."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from precondlab.errors import NotPositive
from precondlab.krylov.inverse import Inverse
from precondlab.krylov.schur import KrylovSchur
from precondlab.operator import Operator
from precondlab.spectrum.bounds import beyond, component_quantile
from precondlab.spectrum.ends import Ends, Seen, krylov_ends, repetition

__all__ = ["inverse_ends"]

_RTOL = 1e-8  # of the solves
_RESIDUAL = 1e-5  # of an end: its value is then exact to the square of this over the gap
_FIRST = 30  # products spent at most on κ(M A), and on a bound at the large end unless a larger value shows up
_LOOSE = 1.05  # ratio of a bound to the largest eigenvalue found beyond which it is sharpened
_REPEATED_FROM = 4  # products of which one is made twice
_FREE_STEPS = 80  # steps with M⁻¹, which cost no product with A


class _SpentError(Exception):
    """A product was asked for beyond the budget."""


class _Observed(Operator):
    """A positive operator that counts its products, refuses more than a limit, and keeps its Rayleigh quotients.

    ``smallest`` and ``largest`` of them lie inside the spectrum whatever the vectors were meant for. With ``A = S Sᴴ``
    they are ``‖Sᴴv‖²/‖v‖²``, and resolved to the square of what A resolves. ``bent``: some ``vᴴAv`` came out negative.
    """

    def __init__(self, A: Operator, limit: int) -> None:
        super().__init__(A.domain, A.domain, positive=True)
        self.A, self.left, self.limit = A, A.sqrt, limit
        self.used, self.smallest, self.largest, self.bent = 0, math.inf, 0.0, False

    def _apply(self, V: Tensor) -> Tensor:
        if self.used + V.shape[1] > self.limit:
            raise _SpentError
        self.used += V.shape[1]
        if self.left is None:
            Y = self.A.forward(V)
            squares = curvature = self.domain.dots(V, Y).real
        else:
            W = self.left.backward(V)
            Y = self.left.forward(W)
            squares, curvature = self.left.domain.dots(W, W).real, self.domain.dots(V, Y).real
        self.bent |= bool((curvature < 0).any())
        lengths = self.domain.dots(V, V).real
        quotients = (squares / lengths)[lengths > 0].double().cpu().numpy()
        self.smallest = float(quotients.min(initial=self.smallest))
        self.largest = float(quotients.max(initial=self.largest))
        return Y

    def __repr__(self) -> str:
        return repr(self.A)


def inverse_ends(
    A: Operator,
    M: Operator,
    num_matvecs: int,
    failure: float,
    generator: torch.Generator | None,
    *,
    floor: float = 0.0,
) -> Ends:
    """Enclose the spectrum of A by Krylov spaces of A, of ``PᴴAP`` and of A⁻¹.

    With ``M = P Pᴴ`` and ``a ≤ λ(PᴴAP) ≤ b``: ``a M⁻¹ ≤ A ≤ b M⁻¹``, and a solve with relative residual ρ is
    a product with A⁻¹ of relative error ``ρ √(b/a)``. The values found are Rayleigh quotients and Ritz values of A
    itself: inside the spectrum however badly the solves went. λ_min is bounded below by the inverse of a bound on the
    largest eigenvalue of A⁻¹, if they went well, and by ``floor``. λ_max comes from a random start, or, if M⁻¹ is
    known, from the top eigenvector of M⁻¹; it is bounded by ``b λ_max(M⁻¹)``, and if that is loose by a few steps from
    a random start. ``failure`` is shared by the enclosures used; one that a value found contradicts is dropped. PᴴAP
    gets at most half of the products, and A⁻¹ three quarters of the rest.
    """
    left, right, used, a, b = A.sqrt, M.sqrt, 0, 0.0, math.inf
    power, target = (1, A) if left is None else (2, left.H)
    component = _component(A, failure)
    starts = A.domain.random(3, generator=generator)
    noise = 0.0
    if num_matvecs >= _REPEATED_FROM:
        noise, used = 10 * repetition(target, starts[:, :1]), 2
    if right is not None and num_matvecs - used > 1:
        both = right.H @ A @ right if left is None else target @ right
        share = _component(both, failure)
        split = krylov_ends(
            both,
            start=both.domain.random(generator=generator),
            num_matvecs=min(_FIRST, (num_matvecs - used) // 2),
            component=share,
            until=lambda seen: seen.enclosure(share)[0] > 0.7 * seen.values[-1],
        )
        a = max(split.enclosure[0] - split.round_off[0], 0.0) ** power
        b = (split.enclosure[1] + split.round_off[1]) ** power
        used += split.num_matvecs
    observed = _Observed(A, (num_matvecs - used) * 3 // 4)
    spread = 1.0 if right is None else math.sqrt(b / a) if a > 0 else math.inf
    low = max(floor, _below(observed, M, starts[:, :1], component, spread))
    used += observed.used
    start, ceiling = _top(M.inverse, starts[:, 1], component)
    chosen = M.inverse is not None  # such a start may span an invariant subspace without the top of A
    first = krylov_ends(
        target,
        start=start,
        num_matvecs=num_matvecs - used,
        component=None if chosen else component,
        until=lambda seen: len(seen.couplings) > 1 and seen.residuals[0] <= _RESIDUAL * seen.values[0],
    )
    used += first.num_matvecs
    spaces, bounds = [first], [b * ceiling if chosen else first.enclosure[1] ** power]
    largest = max(observed.largest, float(first.values[0]) ** power)
    if not largest <= bounds[0] <= _LOOSE * largest and used < num_matvecs:
        random = krylov_ends(
            target,
            start=starts[:, 2],
            num_matvecs=num_matvecs - used,
            component=component,
            until=lambda seen: _settled(seen, component, largest ** (1 / power), _LOOSE ** (1 / power)),
        )
        used += random.num_matvecs
        spaces.append(random)
        bounds.append(random.enclosure[1] ** power)
        largest = max(largest, float(random.values[0]) ** power)
    smallest = min(observed.smallest, *(float(space.values[-1]) ** power for space in spaces))
    u = max(noise, *(space.round_off[1] for space in spaces))
    small, large = (u, u) if left is None else (u * (2 * smallest**0.5 + u), u * (2 * largest**0.5 + u))
    return Ends(
        values=np.array([largest, smallest]),
        enclosure=(min(low, smallest), min((x for x in bounds if x + large >= largest), default=math.inf)),
        round_off=(small, large),
        certain=False,
        num_matvecs=used,
        method="inverse",
    )


def _component(A: Operator, failure: float) -> float:
    """Return what a random start surely has of one eigenvector: five are counted on."""
    return component_quantile(A.shape[1], failure / 5, complex=A.domain.dtype.is_complex)


def _below(A: _Observed, M: Operator, start: Tensor, component: float, spread: float) -> float:
    """Return a lower bound on λ_min, 0 if the products do not suffice; A is shown the best vector for it.

    That is ``A⁻¹x = Q T y + Q₊ S y`` of the top Ritz vector ``x = Q y``, freed of what x still has of the large end.
    """
    inverse = Inverse(A, M, rtol=_RTOL)
    A.limit -= 1  # kept for the Ritz vector
    K = KrylovSchur(inverse, start, capacity=max(A.limit, 0) + 2)  # a step has a product or is refused one
    top, eps = 0.0, A.domain.eps
    try:
        while not (K.invariant or K.complete):
            K.step()
            values, Y, residuals = K.ritz()
            top = float(values[-1])
            if residuals[-1] <= _RESIDUAL * top:
                break
    except _SpentError:
        pass
    except NotPositive:  # A shows it by its Rayleigh quotients, and PᴴAP may by round-off that P amplifies
        if M.sqrt is None and not A.bent:
            raise
    if top <= 0:
        return 0.0
    A.limit += 1
    image = np.concatenate([K.T, K.S]) @ Y[:, -1:] / top  # pyright: ignore[reportPossiblyUnbound]
    Q = K.basis.vectors
    A.forward(Q @ torch.as_tensor(image, dtype=Q.dtype, device=Q.device))
    error = (inverse.residual * spread + 10 * eps) * len(K.T) ** 0.5
    bound = _beyond(K, values, component)  # pyright: ignore[reportPossiblyUnbound]
    return (1 - error) / bound if error < 1 else 0.0


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
    return K.vectors(Y[:, -1:])[:, 0], _beyond(K, values, component)


def _beyond(K: KrylovSchur, values: np.ndarray, component: float) -> float:
    """Return an upper bound on the largest eigenvalue."""
    couplings = np.append(np.diag(K.T, -1), np.linalg.norm(K.S)).real
    return beyond(values, couplings, component)[1]
