"""Sketch-and-precondition: the inverse of JᴴJ from a factorization of a random projection of J."""

from __future__ import annotations

import math
from typing import Literal

import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.krylov.checks import require_integer
from precondlab.operator import Operator, as_operator
from precondlab.operators import Dense, Identity
from precondlab.preconditioners.embedding import SparseSigns, Trigonometric
from precondlab.preconditioners.preconditioner import Preconditioner, finite

__all__ = ["Sketched", "sketch"]

_COLUMNS = 256  # of the identity, at once


class Sketched(Preconditioner):
    """``M = N Nᴴ ≈ (JᴴJ)⁻¹`` from a sketch ``SJ = U diag(σ) Vᴴ``, with the factor ``N = V diag(1/σ)`` ``[n r]``.

    Attributes
    ----------
    embedding
        S ``[d m]``.
    """

    def __init__(self, J: Operator, embedding: Operator, U: Tensor, sigma: Tensor, V: Tensor, setup: int) -> None:
        self._U, self._N, self.embedding = U, Dense(V / sigma), embedding
        facts = (f"rank {len(sigma)}", f"{embedding!r}")
        super().__init__(self._N @ self._N.H, "Sketch", *facts, setup_matvecs=setup, space=J.domain)

    @property
    def sqrt(self) -> Operator:
        return self._N

    def guess(self, b: Tensor) -> Tensor:
        """Return the minimizer of ``‖S(Jx − b)‖``, from which LSQR should start.

        Its residual is at most (1 + ε)/(1 − ε) times the best one, ε being the distortion of S. Without this
        start, LSQR on a numerically singular J stalls far above round-off (Meier, Nakatsukasa, Townsend &
        Webb (2024), doi:10.1137/23M1551973).

        Parameters
        ----------
        b
            Right-hand side ``[m]`` or ``[m k]``.

        Cost: one product with S and ``2 r (n + d)`` operations; none with J.
        """
        expected = self.embedding.shape[1]
        if b.dim() not in (1, 2) or b.shape[0] != expected:
            raise ValueError(f"{self!r}.guess: expected shape ({expected},) or ({expected}, k), got {tuple(b.shape)}")
        block = b if b.dim() == 2 else b[:, None]
        x = self._N.forward(self._U.mH @ self.embedding.forward(block))
        return x if b.dim() == 2 else x[:, 0]


@torch.no_grad()
def sketch(
    J: LinearOperator,
    /,
    *,
    embedding: Literal["sparse", "trigonometric"] = "sparse",
    oversampling: float = 3.0,
    hashes: int = 8,
    rcond: float | None = None,
    generator: torch.Generator | None = None,
) -> Sketched:
    """Precondition least squares with J from the right, by the truncated SVD of a sketch of J.

    With ``SJ = U diag(σ) Vᴴ`` the columns of ``N = V diag(1/σ)`` make ``J N`` well conditioned:
    if S distorts lengths in the range of J by at most ε, ``κ(JN) ≤ (1 + ε)/(1 − ε)``. For a
    Gaussian S, ε → ``√(n/d)``, d being the number of its rows; the embeddings here
    behave alike. Solve ``min ‖J N z − (b − Jx₀)‖`` by LSQR from ``x₀ = M.guess(b)``; ``x = x₀ + N z``: each step
    gains a factor of about ``√(d/n)``, whatever κ(J). For ``min ‖Jx − b‖² + μ‖x‖²`` give ``VStack(J, √μ I)``.

    Parameters
    ----------
    J
        Any operator ``[m n]``, or SciPy's; not its Gram operator.
    embedding
        ``"sparse"``: ``hashes`` signs per row of J; ``"trigonometric"``: a randomized fast transform.
    oversampling
        d/n. If ``d ≥ m`` nothing is gained by a sketch, and J itself is factorized.
    hashes
        Of the sparse embedding. One, the CountSketch, needs far more rows to be reliable.
    rcond
        Singular values below ``rcond · σ₁`` are dropped; by default 100 times the unit round-off, about the
        accuracy of the sketch itself.
    generator
        For the embedding.

    Raises
    ------
    ValueError
        If J is zero, the oversampling below 1, or the embedding unknown.
    Breakdown
        If a product is not finite.

    Cost: n products with J in blocks of 256, ``hashes · m n`` (or m n log m) operations for the sketch and 14 d n²
    for its SVD; memory d n numbers, (n + d) r kept. Each application ``4 n r`` operations.
    Reference: Meng, Saunders & Mahoney (2014), doi:10.1137/120866580; Martinsson & Tropp (2020), §10,
    doi:10.1017/S0962492920000021.

    >>> J = Dense(torch.diag(torch.tensor([1.0, 1e-3, 1e-9], dtype=torch.float64)))
    >>> M = sketch(J)
    >>> (J @ M.sqrt).dense().svd().S
    tensor([1., 1., 1.], dtype=torch.float64)
    """
    J = as_operator(J)
    m, n = J.shape
    if not (1 <= oversampling < math.inf and m and n):
        raise ValueError(
            f"sketch: expected a finite oversampling ≥ 1 and a non-empty J, got {oversampling} and {J.shape}"
        )
    if rcond is not None and not 0 <= rcond < 1:
        raise ValueError(f"sketch: expected 0 ≤ rcond < 1, relative to the largest singular value, got {rcond}")
    if embedding not in ("sparse", "trigonometric"):
        raise ValueError(f"sketch: expected the embedding 'sparse' or 'trigonometric', got {embedding!r}")
    require_integer("sketch", "hashes", hashes)
    rows = round(oversampling * n)
    if rows >= m:
        S: Operator = Identity(J.codomain)
        sketched, setup = finite(J.dense(), "sketch", J), -(-min(m, n) // 2)
    else:
        if embedding == "sparse":
            S = SparseSigns(J.codomain, max(rows, hashes), hashes=hashes, generator=generator)
        else:
            S = Trigonometric(J.codomain, rows, generator=generator)
        sketched, setup = finite(_sketched(S, J), "sketch", J), -(-n // 2)
    U, sigma, Vh = torch.linalg.svd(sketched, full_matrices=False)
    if not sigma[0] > 0:
        raise ValueError(f"sketch: {J!r} is zero, its least squares have no direction; check the residual")
    kept = sigma > (100 * J.domain.eps if rcond is None else rcond) * sigma[0]
    return Sketched(J, S, U[:, kept], sigma[kept], Vh[kept].mH, setup)


def _sketched(S: Operator, J: Operator) -> Tensor:
    n = J.shape[1]
    blocks = []
    for start in range(0, n, _COLUMNS):
        width = min(_COLUMNS, n - start)
        columns = J.domain.zeros(width)
        columns[range(start, start + width), range(width)] = 1
        blocks.append(S.forward(J.forward(columns)))
    return torch.cat(blocks, dim=1)
