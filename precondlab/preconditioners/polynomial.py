"""Polynomial preconditioners: M = p(A), which needs products with A and nothing else."""

from __future__ import annotations

import numpy as np
import torch
from numpy.polynomial import chebyshev as series
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.errors import NotPositive
from precondlab.krylov import lanczos
from precondlab.krylov.checks import require_integer
from precondlab.operator import Operator, as_operator
from precondlab.preconditioners.preconditioner import Preconditioner, require_square

__all__ = ["chebyshev", "lanczos_polynomial"]

_CUT = 1e-5  # of the fit: keeps coefficients small, hence the recurrence stable
_CHECK_STEPS = 8  # Lanczos steps that look for eigenvalues above an interval


def chebyshev(
    A: LinearOperator,
    /,
    *,
    degree: int,
    interval: tuple[float, float],
    generator: torch.Generator | None = None,
) -> Operator:
    """Invert by the polynomial p of a given degree that is best on an interval ``[a, b]``.

    ``1 − x p(x) = T(ξ(x))/T(ξ(0))`` with the Chebyshev polynomial T of degree ``degree + 1`` and
    ``ξ(x) = (a + b − 2x)/(b − a)``; no other p makes ``max |1 − x p(x)|`` on ``[a, b]`` smaller than
    δ = 1/T(ξ(0)). If [a, b] holds the spectrum::

        κ(MA) ≤ (1 + δ)/(1 − δ),

    an upper bound. M stays positive if eigenvalues are in (0, a), where ``0 < x p(x) < 1``; with eigenvalues
    above b it need not. It is n steps of the Chebyshev iteration, so that a Krylov method with it makes as
    many products as without, but ``degree`` times fewer inner products.

    Parameters
    ----------
    A
        A positive operator, or SciPy's.
    degree
        Of p, ≥ 0.
    interval
        ``(a, b)`` with 0 < a < b; b at least the largest eigenvalue.
    generator
        For the start vector of the check.

    Raises
    ------
    ValueError
        If the interval or the degree make no sense, or 8 Lanczos steps find a Ritz value above b: a proof that
        the largest eigenvalue is. None above b proves nothing.
    NotPositive
        If they find a negative one.

    Cost: 8 products; each application ``degree`` products with A and three vectors.
    Reference: Saad, Iterative Methods for Sparse Linear Systems, 2nd ed. (2003), §12.3, doi:10.1137/1.9780898718003.

    >>> from precondlab.operators import Diagonal
    >>> A = Diagonal(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    >>> (chebyshev(A, degree=1, interval=(1.0, 3.0)) @ A).dense().diagonal()  # 1 ± 1/T₂(2) = 1 ± 1/7
    tensor([0.8571, 1.1429, 0.8571], dtype=torch.float64)
    """
    A = as_operator(A)
    require_square("chebyshev", A)
    a, b = interval
    require_integer("chebyshev", "degree", degree, least=0)
    if not 0 < a < b < np.inf:
        raise ValueError(f"chebyshev: expected an interval 0 < a < b, got {interval}")
    ritz, _, used = _measure(A, _CHECK_STEPS, generator, "chebyshev")
    if ritz[-1] > b * (1 + 100 * A.domain.eps):
        raise ValueError(
            f"chebyshev: {A!r} has an eigenvalue of at least {ritz[-1]:.6g}, above the interval {interval}, where p(A) "
            f"may be negative; give b ≥ {1.1 * ritz[-1]:.3g}"
        )
    facts = (f"degree {degree}", f"[{a:.3g}, {b:.3g}]")
    return Preconditioner(_Iteration(A, degree, a, b), "Chebyshev", *facts, setup_matvecs=used, space=A.domain)


def lanczos_polynomial(
    A: LinearOperator,
    /,
    *,
    degree: int,
    num_matvecs: int | None = None,
    generator: torch.Generator | None = None,
) -> Operator:
    """Invert by ``M = q(A)²``, q fitted to ``x^(−½)`` where a random vector sees the spectrum.

    k Lanczos steps give Ritz values θ and weights w; q of a given degree minimizes
    ``Σ w (1 − √θ q(θ))²`` among polynomials of moderate size between the Ritz values. M is a square, hence positive
    whatever the spectrum, and ``q(A)`` is its factor. Clusters and isolated eigenvalues are treated better than by an
    interval; in exchange no bound is known
    before: measure κ by ``condition(A, preconditioner=M)``.

    Parameters
    ----------
    A
        A positive operator, or SciPy's.
    degree
        Of q, ≥ 0; M has twice that.
    num_matvecs
        Lanczos steps k > degree; by default ``4 degree + 10``.
    generator
        For the start vector.

    Raises
    ------
    NotPositive
        If a Ritz value is negative.
    ValueError
        If the degree is negative, k ≤ degree, or A is zero.
    Breakdown
        If a product is not finite.

    Cost: k products and k vectors of memory for a while; each application ``2 degree`` products and three vectors.
    Reference: Johnson, Micchelli & Paul (1983), doi:10.1137/0720025; Saad (1985), doi:10.1137/0906059.

    >>> from precondlab.operators import Diagonal
    >>> A = Diagonal(torch.tensor([1.0, 1.0, 4.0, 4.0], dtype=torch.float64))  # two distinct eigenvalues: degree 1
    >>> lanczos_polynomial(A, degree=1).dense().diagonal()
    tensor([1.0000, 1.0000, 0.2500, 0.2500], dtype=torch.float64)
    """
    A = as_operator(A)
    name = "lanczos_polynomial"
    require_square(name, A)
    degree = require_integer(name, "degree", degree, least=0)
    steps = 4 * degree + 10 if num_matvecs is None else num_matvecs
    require_integer(name, "num_matvecs", steps, least=degree + 1)
    ritz, weights, used = _measure(A, steps, generator, name)
    degree = min(degree, len(ritz) - 1)  # more is not determined by so few values
    top = ritz[-1]
    kept = ritz > len(ritz) * A.domain.eps * top
    values, root = ritz[kept], weights[kept] ** 0.5
    basis = series.chebvander(2 * values / top - 1, degree)
    rows = (root * values**0.5)[:, None] * basis
    coefficients = np.linalg.lstsq(rows, root, rcond=_CUT)[0]
    q = _Series(A, coefficients, top)
    return Preconditioner(q @ q, "LanczosPolynomial", f"degree {2 * degree}", setup_matvecs=used, space=A.domain)


def _measure(
    A: Operator, steps: int, generator: torch.Generator | None, caller: str
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return Ritz values, ascending, their weights seen from a random vector, and the products that took."""
    with torch.no_grad():
        *_, T = lanczos(A, A.domain.random(generator=generator), num_matvecs=steps)
    ritz, vectors = T.eigh()
    floor = 100 * A.domain.size**0.5 * A.domain.eps * np.abs(ritz).max()
    if ritz[0] < -floor:
        raise NotPositive(f"{caller}: {A!r} is not positive: it has the Ritz value {ritz[0]:.3e}; take a Gram operator")
    if not ritz[-1] > 0:
        raise ValueError(f"{caller}: {A!r} is zero, its inverse is not defined; check the residual")
    return ritz, vectors[0] ** 2, len(ritz)


class _Iteration(Operator):
    """``degree + 1`` steps of the Chebyshev iteration from zero."""

    def __init__(self, A: Operator, degree: int, a: float, b: float) -> None:
        super().__init__(A.domain, A.domain, positive=True)
        self.A, self.degree = A, degree
        self.center, self.half = (a + b) / 2, (b - a) / 2

    def _apply(self, V: Tensor) -> Tensor:
        sigma = self.center / self.half
        rho, step, residual = 1 / sigma, V / self.center, V
        x = step
        for _ in range(self.degree):
            residual = residual - self.A.forward(step)
            rho, last = 1 / (2 * sigma - rho), rho
            step = rho * last * step + (2 * rho / self.half) * residual
            x = x + step
        return x


class _Series(Operator):
    """``Σ c_j T_j(2A/top − I)`` by Clenshaw's recurrence."""

    def __init__(self, A: Operator, coefficients: np.ndarray, top: float) -> None:
        super().__init__(A.domain, A.domain, symmetric=True)
        self.A, self.coefficients, self.top = A, coefficients.tolist(), top

    def _apply(self, V: Tensor) -> Tensor:
        head, *rest = self.coefficients
        if not rest:
            return head * V
        b, after = rest.pop() * V, torch.zeros_like(V)
        for c in reversed(rest):
            b, after = c * V + 2 * self._shifted(b) - after, b
        return head * V + self._shifted(b) - after

    def _shifted(self, V: Tensor) -> Tensor:
        return (2 / self.top) * self.A.forward(V) - V
