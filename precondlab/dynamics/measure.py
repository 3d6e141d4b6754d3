"""The spectral measure of the kernel that a residual sees, and its quadrature rules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from precondlab.errors import NotPositive
from precondlab.krylov import golub_kahan, lanczos
from precondlab.krylov.recurrences import Tridiagonalization
from precondlab.operator import Operator
from precondlab.spectrum.quadrature import Rule, gauss

__all__ = ["Measure", "measure", "require_residual"]


@dataclass(frozen=True)
class Squared(Tridiagonalization):
    """``T = BᵀB`` by its upper bidiagonal factor B, whose singular values resolve Ritz values to ``ε² λ_max``."""

    factor: np.ndarray

    def eigh(self) -> tuple[np.ndarray, np.ndarray]:
        _, values, rows = np.linalg.svd(self.factor)
        return values[::-1] ** 2, rows[::-1].T


@dataclass(frozen=True)
class Measure:
    """What m products tell about the measure μ with ``½ rᵀ f(K) r = ∫ f dμ`` for every function f.

    The Jacobi matrix of μ is kept by its factor: ``T = BᵀB`` with B upper bidiagonal.

    Attributes
    ----------
    alpha, beta
        The diagonal and superdiagonal of B, m numbers each; β_m belongs to the next vector.
    exhausted
        Whether the Krylov space is invariant; the Gauss rule is then μ itself, up to round-off.
    mass
        ``½‖r‖²``.
    """

    alpha: np.ndarray
    beta: np.ndarray
    exhausted: bool
    mass: float

    def __len__(self) -> int:
        return len(self.alpha)

    @cached_property
    def tridiagonal(self) -> Squared:
        """The Jacobi matrix of μ."""
        B = np.diag(self.alpha) + np.diag(self.beta[:-1], 1)
        diagonal = self.alpha**2 + np.append(0.0, self.beta[:-1] ** 2)
        norm = (2 * self.mass) ** 0.5
        return Squared(diagonal, self.alpha * self.beta, self.exhausted, norm, 0.0, B)

    @cached_property
    def gauss(self) -> Rule:
        """The Gauss rule of ``μ/mass``: m nodes, exact for polynomials of degree 2m − 1."""
        return gauss(self.tridiagonal)

    def separated(self, upper: float) -> tuple[np.ndarray, np.ndarray]:
        """Return left and right ends of intervals ``[λ_{j−1}, λ_{j+1}]``, the j-th of which holds a part w_j of μ/mass.

        With ``λ_0 = 0`` and ``λ_{m+1} = upper``, an upper bound on the spectrum: ``∫ f dμ / mass`` lies between
        ``Σ w_j min f`` and ``Σ w_j max f`` over these intervals, whatever f.

        Reference: the Chebyshev–Markov–Stieltjes inequalities; Szegő, Orthogonal Polynomials, §3.41.
        """
        nodes = self.gauss.nodes
        return np.append(0.0, nodes[:-1]), np.append(nodes[1:], upper)


def measure(J: Operator, residual: Tensor, *, preconditioner: Operator | None = None, num_matvecs: int) -> Measure:
    """Return what num_matvecs products tell about the measure of ``K = J M Jᵀ`` at a residual ``[m]``.

    With a factor ``M = PPᵀ`` the matrix JP is bidiagonalized, which resolves small eigenvalues to
    ``ε² λ_max``; without one K is tridiagonalized, which resolves them to ``ε λ_max``. K is symmetric in
    either case, so that no other inner product is needed.

    Raises
    ------
    NotPositive
        If K has a negative eigenvalue: the preconditioner is not positive.
    Breakdown
        If the residual is zero or a product is not finite.

    Cost: per step one product with J, with Jᵀ and with M; memory num_matvecs vectors of either space.

    >>> import torch
    >>> from precondlab.operators import Diagonal
    >>> seen = measure(Diagonal(torch.tensor([1.0, 2.0])), torch.tensor([2.0, 1.0]), num_matvecs=2)
    >>> seen.gauss.nodes.round(5), seen.gauss.weights.round(5)
    (array([1., 4.]), array([0.8, 0.2]))
    """
    eps, residual = J.codomain.eps, residual.to(J.codomain.device, J.codomain.dtype)
    mass = 0.5 * J.codomain.inner(residual[:, None], residual[:, None]).real.item()
    root = None if preconditioner is None else preconditioner.sqrt
    if preconditioner is None or root is not None:
        *_, B = golub_kahan((J if root is None else J @ root).H, residual, num_matvecs=num_matvecs)
        return _resolved(B.diagonal, B.superdiagonal, B.exhausted, mass, eps)
    *_, T = lanczos(J @ preconditioner @ J.H, residual, num_matvecs=num_matvecs)
    smallest, largest = T.eigh()[0][[0, -1]]
    if smallest < -10 * eps * len(T.diagonal) * abs(largest):
        raise NotPositive(
            f"J M Jᵀ has the Ritz value {smallest:.3e} < 0: {preconditioner!r} is not positive; give one that is"
        )
    return _resolved(*_factor(T), mass, eps**0.5)


def require_residual(who: str, J: Operator, residual: Tensor) -> None:
    """Raise ValueError unless a residual has a finite norm and a row for each of J's."""
    if residual.shape != J.shape[:1]:
        raise ValueError(
            f"{who}: expected a residual of shape ({J.shape[0]},) for {J!r}, got {tuple(residual.shape)}; "
            "keep the points of the residual fixed"
        )
    if not math.isfinite(J.codomain.inner(residual[:, None], residual[:, None]).real.item()):
        raise ValueError(
            f"{who}: the residual is not finite, or too large to be squared; go back to parameters where the loss is "
            "finite, or lower the learning rate"
        )


def _factor(T: Tridiagonalization) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the bidiagonal B with ``T = BᵀB``, up to the step where round-off makes T indefinite."""
    alpha, beta = np.zeros(len(T.diagonal)), np.zeros(len(T.diagonal))
    for k, off in enumerate(T.offdiagonal):
        pivot = T.diagonal[k] - (beta[k - 1] ** 2 if k else 0.0)
        if pivot <= 0:
            return alpha[: k + 1], beta[: k + 1], True
        alpha[k] = pivot**0.5
        beta[k] = off / alpha[k]
    return alpha, beta, T.exhausted


def _resolved(alpha: np.ndarray, beta: np.ndarray, exhausted: bool, mass: float, unit: float) -> Measure:
    """Cut the recurrence off at the first α that round-off explains: the residual left is out of range.

    ``α_k u_k = Jᵀv_k − β_{k−1} u_{k−1}`` inherits the error of ``u_{k−1}``, which was divided by ``α_{k−1}``, and
    that of ``v_k``, which was divided by ``β_{k−1}``.
    """
    scale = max(alpha.max(), beta.max())
    noise = unit * scale
    for k in range(len(alpha)):
        if alpha[k] <= 10 * (k + 1) ** 0.5 * noise:
            alpha, beta = alpha[: k + 1].copy(), beta[: k + 1].copy()
            alpha[-1] = beta[-1] = 0.0
            return Measure(alpha, beta, True, mass)
        if k + 1 < len(alpha):
            noise = beta[k] / alpha[k] * noise + unit * scale * (1 + scale / beta[k])
    return Measure(alpha, beta, exhausted, mass)
