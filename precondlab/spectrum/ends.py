"""Both ends of a spectrum: what a dense factorization or a Krylov space shows, and an enclosure of the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from precondlab.algebra import Product
from precondlab.errors import Breakdown, NotPositive, NotSymmetric
from precondlab.krylov import golub_kahan, lanczos
from precondlab.operator import Operator
from precondlab.operators import Dense, Diagonal
from precondlab.spectrum.bounds import beyond

__all__ = ["Ends", "Seen", "amplified", "dense_cost", "dense_ends", "krylov_ends", "repetition"]

_CONVERGED = 1e-10  # relative residual at which both ends of the spectrum stop moving
_PROBED_ONCE = 20  # dense products from which one more for a repetition is at most 5 %
_SCALED = 10  # steps for a norm that is a scale
CHECK = 6  # products that `require_adjoint` takes at most


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
    certain
        Whether ``values`` are all distinct ones there are, and products repeat.
    num_matvecs
        Products taken.
    method
        ``"dense"``, ``"golub-kahan"``, ``"lanczos"`` or ``"inverse"``.
    """

    values: np.ndarray
    enclosure: tuple[float, float]
    round_off: tuple[float, float]
    certain: bool
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


def dense_ends(target: Operator, M: Operator | None = None, *, power: int = 1) -> Ends:
    """Factorize an operator from products with the identity; with ``M = P Pᴴ``, ``A P`` (power 2) or ``PᴴAP`` (1).

    Round-off is that of numbers as large as ``‖D P‖``, D the lengths of the columns of A (of ``A^½``): what M
    amplifies. Equal products are compared, and their difference is amplified by ``‖P‖``.
    """
    matrix = _finite(target.dense(), target)
    products, eps = min(target.shape), target.domain.eps
    x = target.domain.random(_probes(target))
    again = target.forward(x) - matrix @ x
    products += x.shape[1]
    defect = (again.norm(dim=0) / x.norm(dim=0)).max().item()
    size = _norm(Dense(matrix))
    asymmetry = (matrix - matrix.mH).abs().max().item() if target.positive else 0.0
    if max(asymmetry, defect) > eps**0.5 * size:
        products += require_adjoint(target)
    round_off = (max(target.shape) + 10) * eps
    noise = 10 * defect if 10 * defect > round_off * size else 0.0
    scale, distortion = size, 0.0
    if M is not None:
        whole = power == 1
        lengths = matrix.diagonal().real.clamp(min=0) ** 0.5 if whole else matrix.norm(dim=0)
        P, distortion = _factor(M)
        matrix = P.backward(matrix.mH).mH
        matrix = P.backward(matrix) if whole else matrix
        scale = _norm(Diagonal(lengths.to(matrix.dtype)) @ P) ** (2 / power)
        noise *= _norm(P) ** (2 / power)
        distortion /= power
    if target.positive and (M is None or power == 1):
        values = torch.linalg.eigvalsh((matrix + matrix.mH) / 2).flip(0)
    else:
        values = torch.linalg.svdvals(matrix)
    found = values.double().cpu().numpy()
    found = np.append(found, np.zeros(matrix.shape[1] - len(found)))  # fewer rows than columns: exact zeros
    allowed = max(round_off * max(scale, abs(found[0])), noise)
    ends = (allowed + distortion * abs(found[-1]), allowed + distortion * abs(found[0]))
    return Ends(found, (float(found[-1]), float(found[0])), ends, noise == 0, products, "dense")


def dense_cost(target: Operator) -> int:
    """Return the products that `dense_ends` takes at most."""
    return min(target.shape) + _probes(target) + CHECK


def _probes(target: Operator) -> int:
    """Return how many products are repeated: one is a sample of the noise, in few rows a poor one."""
    return 1 if min(target.shape) >= _PROBED_ONCE else 2


def _factor(M: Operator) -> tuple[Operator, float]:
    """Return P with ``M = P Pᴴ`` and the relative error that round-off in M and P is to eigenvalues of ``M A``.

    Cholesky's is ``n ε`` relative to ``√(Mᵢᵢ Mⱼⱼ)``, whatever the scales of M; reference: Demmel & Veselić (1992),
    doi:10.1137/0613074.
    """
    if M.sqrt is not None:
        return M.sqrt, 0.0
    matrix = _finite(M.dense(), M)
    eps = M.domain.eps
    if (matrix - matrix.mH).abs().max().item() > eps**0.5 * matrix.abs().max().item():
        raise NotSymmetric(f"condition: the preconditioner {M!r} is not symmetric; symmetrize it")
    factor, info = torch.linalg.cholesky_ex((matrix + matrix.mH) / 2)
    if info.item():
        raise NotPositive(f"condition: the preconditioner {M!r} is not positive definite")
    diagonal = matrix.diagonal().real ** 0.5
    scaled = torch.linalg.solve_triangular(factor, torch.diag(diagonal).to(factor), upper=False)
    return Dense(factor), len(matrix) * eps * scaled.norm().item() ** 2


def amplified(A: Operator, M: Operator, power: int) -> float:
    """Return the round-off of ``A P`` (power 2) or ``PᴴAP`` (1), ``M = P Pᴴ``, in ‖·‖: that of ‖A‖ and ‖P‖ apart.

    ‖A‖ is taken from one product with a random vector: ``√n ‖A x‖ / ‖x‖`` is the Frobenius norm on average.
    """
    x = A.domain.random(1)
    size = A.shape[1] ** 0.5 * (A.forward(x).norm() / x.norm()).item()
    return 10 * A.domain.eps * size * _norm(M) ** (0.5 if power == 2 else 1.0)


def _norm(A: Operator) -> float:
    """Return ``‖A‖`` from below by a few steps: a scale."""
    *_, B = golub_kahan(A, A.domain.random(), num_matvecs=_SCALED)
    return float(B.svd()[0][0])


def krylov_ends(
    target: Operator,
    M: Operator | None = None,
    *,
    start: Tensor,
    num_matvecs: int,
    component: float | None,
    until: Callable[[Seen], bool] | None = None,
    round_off: float = 0.0,
) -> Ends:
    """Project an operator on a Krylov space until both ends have converged or the products are used up.

    ``component`` is what the start vector surely has of every eigenvector: without it there is no enclosure.
    ``until`` is another reason to stop, from what has been seen. ``round_off`` is what the recurrence may be too short
    to show of it. A recurrence that does not look like that of an
    operator with this adjoint is examined, if the products suffice, and else encloses nothing.
    """
    until = until or _both_converged
    steps = _lanczos(target, M, start, num_matvecs) if target.positive else _golub_kahan(target, start, num_matvecs)
    examined, suspicious = 0, False
    for seen in steps:
        used = len(seen.couplings)
        suspicious = seen.defect > target.domain.eps**0.5 * abs(seen.values).max()
        if suspicious and not examined and used + CHECK <= num_matvecs:
            examined = require_adjoint(target)
        if seen.exhausted or until(seen) or used + examined >= num_matvecs:
            break
    ends = _ends(target, seen, None if suspicious and not examined else component)  # pyright: ignore[reportPossiblyUnbound]
    small, large = ends.round_off
    ends = replace(
        ends, num_matvecs=ends.num_matvecs + examined, round_off=(max(small, round_off), max(large, round_off))
    )
    return ends if M is None else _below_zero(ends, target.domain.eps)


def _below_zero(ends: Ends, eps: float) -> Ends:
    """Let a value slightly below zero tell how many digits products with M and A lost, where their scales differ."""
    below = -float(ends.values[-1])
    if below >= eps**0.5 * ends.values[0]:
        return ends
    return replace(ends, round_off=(max(ends.round_off[0], below), ends.round_off[1]))


def _ends(target: Operator, seen: Seen, component: float | None) -> Ends:
    values, steps, eps = seen.values, len(seen.couplings), target.domain.eps
    scale = float(abs(values).max())
    round_off = float((10 * eps * scale + 3 * seen.defect) * steps**0.5)
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
    certain = seen.exhausted and seen.defect <= 100 * eps * scale
    return Ends(values, enclosure, (round_off, round_off), certain, steps, method)


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


def require_adjoint(A: Operator) -> int:
    """Refuse an operator whose adjoint is wrong, if noise in the products does not explain it; return the products.

    Of a product of operators every factor is examined: by itself, so that nothing is amplified.
    """
    if isinstance(A, Product):
        return max(map(require_adjoint, A.factors))
    V = A.domain.random(3)
    U = V if A.symmetric else A.codomain.random(3)
    Y = A.forward(V)
    Z = Y if A.symmetric else A.backward(U)
    size = Y.norm(dim=0).max().item()
    asymmetry = (A.codomain.inner(U, Y) - A.domain.inner(Z, V)).abs().max().item()
    if asymmetry > A.domain.eps**0.5 * size:
        noise = (A.forward(V) - Y).norm(dim=0).max().item()
        if asymmetry > 30 * noise:
            what = "declared symmetric but is not" if A.symmetric else "wrong: its adjoint products belong to another"
            raise NotSymmetric(
                f"condition: {A!r} is {what}: ⟨u, A v⟩ and ⟨Aᴴu, v⟩ differ by {asymmetry / size:.1e} of ‖A v‖; "
                "check it with pl.testing.check_operator"
            )
    return CHECK


def repetition(A: Operator, x: Tensor) -> float:
    """Return by how much two equal products with a vector ``[n 1]`` differ, relative to it."""
    return ((A.forward(x) - A.forward(x)).norm() / x.norm()).item()


def _finite(matrix: Tensor, operator: Operator) -> Tensor:
    if not matrix.isfinite().all():
        bad = (~matrix.isfinite()).any(0).nonzero()[0].item()
        raise Breakdown(f"condition: product {bad + 1} with {operator!r} is not finite")
    return matrix
