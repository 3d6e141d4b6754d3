"""Both ends of a spectrum: what a dense factorization or a Krylov space shows, and an enclosure of the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from precondlab.errors import Breakdown, NotPositive, NotSymmetric
from precondlab.krylov import golub_kahan, lanczos
from precondlab.operator import Operator
from precondlab.spectrum.bounds import beyond

__all__ = ["Ends", "Seen", "dense_ends", "krylov_ends"]

_CONVERGED = 1e-10  # relative residual at which both ends of the spectrum stop moving
_PROBED_FROM = 20  # dense products from which one more for a repetition is at most 5 %


@dataclass(frozen=True)
class Ends:
    """Eigenvalues (of a positive operator) or singular values (of any other), and where all others lie.

    Attributes
    ----------
    values
        Values found, descending: inside the spectrum, up to round-off.
    enclosure
        Interval outside which there is no value, up to round-off; ``(-inf, inf)`` where nothing is known.
    round_off
        Absolute uncertainty of the numbers at the small and at the large end: round-off and noise of the products.
    complete
        Whether ``values`` are all distinct ones there are.
    num_matvecs
        Products taken.
    method
        ``"dense"``, ``"golub-kahan"``, ``"lanczos"`` or ``"inverse"``.
    """

    values: np.ndarray
    enclosure: tuple[float, float]
    round_off: tuple[float, float]
    complete: bool
    num_matvecs: int
    method: str


@dataclass(frozen=True)
class Seen:
    """Ritz values of a Krylov space, descending, with residuals, and the couplings of its recurrence."""

    values: np.ndarray
    residuals: np.ndarray
    couplings: np.ndarray
    defect: float
    exhausted: bool
    squared: bool

    def enclosure(self, component: float) -> tuple[float, float]:
        """Return the interval of all values, for a start vector with such a component of every eigenvector."""
        return beyond(self.values, self.couplings, component, squared=self.squared)


def dense_ends(target: Operator, M: Operator | None = None) -> Ends:
    """Factorize an operator, or ``Lᴴ A L`` with ``M = L Lᴴ``, from products with the identity."""
    matrix = _finite(target.dense(), target)
    products = min(target.shape)
    defect = 0.0
    if products >= _PROBED_FROM:
        x = target.domain.random(1)
        again = target.forward(x)
        products += 1
        defect = ((again - matrix @ x).norm() / x.norm()).item()
    if M is not None:
        factor, info = torch.linalg.cholesky_ex(_finite(M.dense(), M))
        if info.item():
            raise NotPositive(f"condition: the preconditioner {M!r} is not positive definite")
        matrix = factor.mH @ matrix @ factor
    if target.positive:
        asymmetry = (matrix - matrix.mH).abs().max().item()
        _judge(target, asymmetry, matrix.abs().max().item(), defect)
        values = torch.linalg.eigvalsh((matrix + matrix.mH) / 2).flip(0)
    else:
        values = torch.linalg.svdvals(matrix)
    found = values.double().cpu().numpy()
    found = np.append(found, np.zeros(target.shape[1] - len(found)))  # fewer rows than columns: exact zeros
    round_off = float(max(max(target.shape) * target.domain.eps * abs(found[0]), 10 * defect))
    ends = Ends(found, (float(found[-1]), float(found[0])), (round_off, round_off), True, products, "dense")
    return ends if M is None else _below_zero(ends, target.domain.eps)


def krylov_ends(
    target: Operator,
    M: Operator | None = None,
    *,
    start: Tensor,
    num_matvecs: int,
    component: float | None,
    until: Callable[[Seen], bool] | None = None,
) -> Ends:
    """Project an operator on a Krylov space until both ends have converged or the products are used up.

    ``component`` is what the start vector surely has of every eigenvector: without it there is no enclosure.
    ``until`` is another reason to stop, from what has been seen.
    """
    until = until or _both_converged
    steps = _lanczos(target, M, start, num_matvecs) if target.positive else _golub_kahan(target, start, num_matvecs)
    judged = False
    for seen in steps:
        if not judged and seen.defect > target.domain.eps**0.5 * abs(seen.values).max():
            _judge(target, seen.defect, abs(seen.values).max(), _repetition(target))
            judged = True
        if seen.exhausted or until(seen):
            break
    ends = _ends(target, seen, component)  # pyright: ignore[reportPossiblyUnbound]
    return ends if M is None else _below_zero(ends, target.domain.eps)


def _below_zero(ends: Ends, eps: float) -> Ends:
    """Let a value slightly below zero tell how many digits products with M and A lost, where their scales differ."""
    below = -float(ends.values[-1])
    if below >= eps**0.5 * ends.values[0]:
        return ends
    return replace(ends, round_off=(max(ends.round_off[0], below), ends.round_off[1]))


def _ends(target: Operator, seen: Seen, component: float | None) -> Ends:
    values, steps = seen.values, len(seen.couplings)
    round_off = float((10 * target.domain.eps * abs(values).max() + 3 * seen.defect) * steps**0.5)
    if seen.exhausted:
        enclosure = (float(values[-1]), float(values[0]))
    elif component is None:
        enclosure = (-np.inf, np.inf)
    else:
        enclosure = seen.enclosure(component)
    if seen.exhausted and target.shape[0] < target.shape[1]:
        values = np.append(values, 0.0)
        enclosure = (0.0, enclosure[1])
    method = "golub-kahan" if seen.squared else "lanczos"
    return Ends(values, enclosure, (round_off, round_off), seen.exhausted, steps, method)


def _lanczos(A: Operator, M: Operator | None, start: Tensor, steps: int) -> Iterator[Seen]:
    for T in lanczos(A, start, num_matvecs=steps, M=M):
        ascending, vectors = T.eigh()
        residuals = np.abs(T.offdiagonal[-1] * vectors[-1, ::-1])
        yield Seen(ascending[::-1], residuals, T.offdiagonal, T.defect, T.exhausted, squared=False)


def _golub_kahan(J: Operator, start: Tensor, steps: int) -> Iterator[Seen]:
    for B in golub_kahan(J, start, num_matvecs=steps):
        values, residuals = B.svd()
        yield Seen(values, residuals, B.diagonal * B.superdiagonal, B.defect, B.exhausted, squared=True)


def _both_converged(seen: Seen) -> bool:
    relative = seen.residuals[[0, -1]] / np.maximum(np.abs(seen.values[[0, -1]]), 1e-300)
    return len(seen.values) > 1 and bool((relative <= _CONVERGED).all())


def _judge(A: Operator, defect: float, scale: float, noise: float) -> None:
    """Refuse an operator whose adjoint is wrong, if noise in the products does not explain it."""
    if defect > A.domain.eps**0.5 * scale and defect > 100 * noise:
        what = "declared symmetric but is not" if A.symmetric else "wrong: its adjoint products belong to another one"
        raise NotSymmetric(
            f"condition: {A!r} is {what}: ⟨u, A v⟩ and ⟨Aᴴu, v⟩ differ by {defect / scale:.1e} of its norm; "
            "check it with pl.testing.check_operator"
        )


def _repetition(A: Operator) -> float:
    """Return the norm of the difference of two equal products with a unit vector."""
    x = A.domain.random(1)
    x = x / x.norm()
    return (A.forward(x) - A.forward(x)).norm().item()


def _finite(matrix: Tensor, operator: Operator) -> Tensor:
    if not matrix.isfinite().all():
        bad = (~matrix.isfinite()).any(0).nonzero()[0].item()
        raise Breakdown(f"condition: product {bad + 1} with {operator!r} is not finite")
    return matrix
