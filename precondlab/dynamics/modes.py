"""Which modes of the starting kernel feature learning moved, and how the kernel changed there."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.dynamics.drift import columns
from precondlab.dynamics.measure import require_residual
from precondlab.dynamics.methods import GradientDescent, Momentum
from precondlab.errors import Breakdown, Status
from precondlab.operator import Operator, as_operator
from precondlab.operators import Kernel
from precondlab.space import Space
from precondlab.spectrum import Eigenpairs, eigsh

__all__ = ["Modes", "ModesStatus", "modes"]

_STILL = 0.01  # a kernel that changed by less "is as it was"


class ModesStatus(Status):
    """Whether the modes of the starting kernel are where the linear prediction has them; the value is advice."""

    OK = "the residual along every mode is as the linear model predicts"
    MOVED = (
        "feature learning moved the residual along the modes in `beyond` and `short`. Take the present point as the "
        "new reference: predict again from it, and refresh what was built from the old kernel"
    )
    UNPREDICTED = "nothing to compare with: pass steps with a learning_rate or a method, or the predicted residual"
    NOT_CONVERGED = "the eigenpairs of the starting kernel did not converge; ask for fewer modes, or pass better pairs"


@dataclass(frozen=True, eq=False)
class Modes:
    """The residual and the kernel along the leading eigenvectors u_i of ``K₀ = J₀J₀ᵀ``; modes count from 0.

    Attributes
    ----------
    values
        λ_i of K₀, descending. Modes that round-off hides, ``λ_i ≤ 100 ε λ_0``, are left out.
    start, now
        ``u_iᵀr₀ ≥ 0``, by choice of sign, and ``u_iᵀr``.
    predicted
        ``u_iᵀr`` of the linear model; None without a prediction.
    growth
        ``u_iᵀKu_i / λ_i``: above 1 the kernel has grown there, and the mode is learned faster than at the start.
    cosines
        Of the principal angles between ``span{u_i}`` and its image under K, descending: all 1 if the space is
        still invariant. What K gained outside the space is not seen.
    captured
        Fractions of ``‖r₀‖²`` and of ``‖r‖²`` that lie along the modes.
    tolerance
        ``max(rtol ‖r‖, √ε ‖r₀‖)``: a mode has moved if ``|now − predicted|`` exceeds it.
    status
        ``OK``, ``MOVED``, ``UNPREDICTED`` or ``NOT_CONVERGED``.
    num_matvecs
        Products with K₀ and with K.
    pairs
        Eigenpairs of K₀, for the next call.
    """

    values: np.ndarray
    start: np.ndarray
    now: np.ndarray
    predicted: np.ndarray | None
    growth: np.ndarray
    cosines: np.ndarray
    captured: tuple[float, float]
    tolerance: float
    status: ModesStatus
    num_matvecs: int
    pairs: Eigenpairs = field(repr=False)

    @property
    def beyond(self) -> np.ndarray:
        """Indices of the modes that moved and are smaller than predicted: learned beyond the linear model."""
        return np.flatnonzero(self._moved & (np.abs(self.now) < np.abs(self._expected)))

    @property
    def short(self) -> np.ndarray:
        """Indices of the modes that moved and are not smaller than predicted: the linear model has learned more."""
        return np.flatnonzero(self._moved & (np.abs(self.now) >= np.abs(self._expected)))

    @property
    def _expected(self) -> np.ndarray:
        return self.now if self.predicted is None else self.predicted

    @property
    def _moved(self) -> np.ndarray:
        return np.abs(self.now - self._expected) > self.tolerance

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON: all but the eigenvectors."""
        arrays = ("values", "start", "now", "growth", "cosines", "beyond", "short")
        return {name: getattr(self, name).tolist() for name in arrays} | {
            "predicted": None if self.predicted is None else self.predicted.tolist(),
            "captured": list(self.captured),
            "tolerance": self.tolerance,
            "status": self.status.name,
            "num_matvecs": self.num_matvecs,
        }

    def __str__(self) -> str:
        before, after = (f"{100 * part:.3g} %" for part in self.captured)
        lines = [f"{len(self.values)} modes: {before} of ‖r‖² at the start, {after} now"]
        if self.predicted is None:
            lines.append(f"no prediction; {self._kernel(np.arange(len(self.values)))}")
        else:
            rest = np.flatnonzero(~self._moved)
            named = {"beyond the prediction": self.beyond, "short of the prediction": self.short, "as predicted": rest}
            lines += [f"{name}: {_numbers(i)}; {self._kernel(i)}" for name, i in named.items() if len(i)]
        lines.append(f"cosines between the modes and their image: {self.cosines[0]:.3f} … {self.cosines[-1]:.3f}")
        return "\n".join(lines)

    def _kernel(self, indices: np.ndarray) -> str:
        low, high = self.growth[indices].min(), self.growth[indices].max()
        fell, rose = low < 1 - _STILL, high > 1 + _STILL
        word = {(0, 0): "is as it was", (0, 1): "grew", (1, 0): "shrank", (1, 1): "shrank and grew"}[fell, rose]
        size = f"×{low:.3g}" if len(indices) == 1 else f"×{low:.3g} … ×{high:.3g}"
        return f"the kernel there {word} ({size})"


def modes(
    J: LinearOperator,
    residual: Tensor,
    reference: LinearOperator,
    start: Tensor,
    /,
    *,
    k: int = 10,
    steps: int | None = None,
    learning_rate: float | None = None,
    method: GradientDescent | Momentum | None = None,
    predicted: Tensor | None = None,
    pairs: Eigenpairs | None = None,
    rtol: float = 0.01,
    generator: torch.Generator | None = None,
) -> Modes:
    """Compare training with its linear prediction mode by mode, along the k leading eigenvectors of ``K₀ = J₀J₀ᵀ``.

    A linear model keeps ``K = K₀``, and its residual along u_i is ``p_t(λ_i) u_iᵀr₀`` with the method's polynomial,
    ``p_t = (1 − ηλ)ᵗ`` for gradient descent. Where the measured ``u_iᵀr`` differs, the features have moved; the
    Rayleigh quotient ``u_iᵀKu_i`` tells whether the kernel grew there. For a preconditioner ``M = PPᵀ``
    pass ``J @ P``. Within a cluster of equal eigenvalues only the sum of squares over the cluster has a meaning.

    Parameters
    ----------
    J, residual
        Jacobian ``[m n]`` and r ``[m]`` now.
    reference, start
        J₀ and r₀ ``[m]`` at the start, on the same points.
    k
        Number of modes; at most m are returned.
    steps, learning_rate, method
        Steps t taken since the start; η of gradient descent, short for ``method=GradientDescent(η)``.
    predicted
        Residual r ``[m]`` of the linear model, for methods without a fixed polynomial.
    pairs
        Eigenpairs of K₀ from an earlier call; k is then their number.
    rtol
        Differences above ``rtol ‖r‖`` count as moved.
    generator
        For the start vector of the eigenvalue solver.

    Raises
    ------
    ValueError
        For sizes that differ, residuals that are not finite, more than one prediction, or steps without a rate.
    Breakdown
        If K₀ is zero, or a product is not finite.

    Cost: k products with K and, without pairs, those of ``eigsh(K₀, k)``, some multiple of k (a product with K is one
    with J and one with Jᵀ). Memory: ``2k`` vectors ``[m]``, and the basis of ``eigsh``.
    Reference: Jacot, Gabriel & Hongler (2018), arXiv:1806.07572.

    >>> from precondlab.operators import Diagonal
    >>> r, first = torch.ones(2, dtype=torch.float64), torch.tensor([1.0, 0.5], dtype=torch.float64)
    >>> now = torch.tensor([0.5, 0.25], dtype=torch.float64)  # predicted: 1 − λ/2, which is 1/2 and 7/8
    >>> print(modes(Diagonal(2 * first), now, Diagonal(first), r, steps=1, learning_rate=0.5))
    2 modes: 100 % of ‖r‖² at the start, 100 % now
    beyond the prediction: 1; the kernel there grew (×4)
    as predicted: 0; the kernel there grew (×4)
    cosines between the modes and their image: 1.000 … 1.000
    """
    J, J0 = as_operator(J), as_operator(reference)
    rows = J0.codomain
    if not J.codomain.matches(rows):
        raise ValueError(
            f"modes: {J!r} and {J0!r} differ in rows, dtype or device; keep the points of the residual fixed"
        )
    if k < 1 or not rtol > 0:
        raise ValueError(f"modes: expected k ≥ 1 and rtol > 0, got {k} and {rtol}")
    for r in (residual, start, *(() if predicted is None else (predicted,))):
        require_residual("modes", J0, r)
    chosen = _method(steps, learning_rate, method, predicted)
    with torch.no_grad():
        found = pairs or eigsh(Kernel(J0), min(k, rows.size), which="LA", generator=generator)
        values, U = _leading(found, rows)
        Y = _finite(J, J.forward(J.backward(U)))
        r, r0 = (x.to(rows.device, rows.dtype)[:, None] for x in (residual, start))
        now, before = (rows.inner(U, x)[:, 0].double().numpy(force=True) for x in (r, r0))
        norm, norm0 = (rows.inner(x, x).item() ** 0.5 for x in (r, r0))
        sign = np.where(before < 0, -1.0, 1.0)
        expected = None
        if predicted is not None:
            linear = predicted.to(rows.device, rows.dtype)[:, None]
            expected = sign * rows.inner(U, linear)[:, 0].double().numpy(force=True)
        elif chosen is not None and steps is not None:
            expected = chosen.polynomial(values, steps) * np.abs(before)
        growth, cosines = columns(rows, U, Y) / values, _cosines(rows, U, Y)
    tolerance = max(rtol * norm, rows.eps**0.5 * norm0)
    moved = expected is not None and bool((np.abs(sign * now - expected) > tolerance).any())
    return Modes(
        values=values,
        start=np.abs(before),
        now=sign * now,
        predicted=expected,
        growth=growth,
        cosines=cosines,
        captured=(_share(before, norm0), _share(now, norm)),
        tolerance=tolerance,
        status=_status(found, expected is not None, moved),
        num_matvecs=len(values) + (0 if pairs is not None else found.num_matvecs),
        pairs=found,
    )


def _method(
    steps: int | None, rate: float | None, method: GradientDescent | Momentum | None, predicted: Tensor | None
) -> GradientDescent | Momentum | None:
    given = sum(x is not None for x in (rate, method, predicted))
    if given > 1 or (steps is None) != (rate is None and method is None) or (steps is not None and steps < 0):
        raise ValueError(
            "modes: expected steps ≥ 0 with either a learning_rate or a method, or a predicted residual, or nothing; "
            f"got steps={steps}, learning_rate={rate}, method={method}" + (" and a residual" * (predicted is not None))
        )
    if method is not None and not isinstance(method, GradientDescent | Momentum):
        raise ValueError(f"modes: {method!r} has no polynomial of its own; pass the predicted residual")
    return method if rate is None else GradientDescent(rate)


def _leading(found: Eigenpairs, rows: Space) -> tuple[np.ndarray, Tensor]:
    """Return eigenvalues, descending, and eigenvectors, without those that round-off hides."""
    if found.vectors.shape != (rows.size, len(found.values)):
        raise ValueError(
            f"modes: expected pairs of a kernel with {rows.size} rows, got vectors of shape "
            f"{tuple(found.vectors.shape)}; pass those of an earlier call with the same reference"
        )
    kept = np.flatnonzero(found.values > 100 * rows.eps * max(found.values[-1], 0.0))[::-1].copy()
    if not len(kept):
        raise Breakdown("modes: the kernel at the start is zero; the linear model learns nothing")
    return found.values[kept], found.vectors[:, torch.as_tensor(kept)]


def _finite(J: Operator, Y: Tensor) -> Tensor:
    if not bool(torch.isfinite(Y).all()):
        raise Breakdown(f"modes: a product with {J!r} is not finite; check the model at this point")
    return Y


def _cosines(rows: Space, U: Tensor, Y: Tensor) -> np.ndarray:
    """Return the cosines between ``span U`` and ``span Y``, U orthonormal; zeros for what Y lacks."""
    norms = columns(rows, Y, Y) ** 0.5
    Y = Y / torch.as_tensor(np.where(norms > 0, norms, 1.0)).to(Y)
    square, overlap = (rows.inner(X, Y).double().numpy(force=True) for X in (Y, U))
    values, vectors = np.linalg.eigh((square + square.T) / 2)
    kept = values > 10 * len(values) * rows.eps
    cosines = np.linalg.svd(overlap @ vectors[:, kept] / values[kept] ** 0.5, compute_uv=False)
    return np.minimum(np.append(cosines, np.zeros(len(norms) - len(cosines))), 1.0)


def _share(parts: np.ndarray, norm: float) -> float:
    return min(float(parts @ parts) / norm**2, 1.0) if norm else 0.0


def _status(found: Eigenpairs, compared: bool, moved: bool) -> ModesStatus:
    if not found.status.ok:
        return ModesStatus.NOT_CONVERGED
    if not compared:
        return ModesStatus.UNPREDICTED
    return ModesStatus.MOVED if moved else ModesStatus.OK


def _numbers(indices: np.ndarray) -> str:
    """Return ascending integers with runs of three and more as ranges: ``0, 1, 3–6``."""
    runs = np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1)
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(str(index) for index in run) for run in runs)
