"""Damped Gauss–Newton steps: one factorization, then every damping at the cost of a few vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from precondlab.errors import Breakdown
from precondlab.krylov.checks import require_integer
from precondlab.map import Map
from precondlab.operator import Operator
from precondlab.operators import Dense, Identity, Jacobian
from precondlab.preconditioners.embedding import SignedGroups
from precondlab.space import Space
from precondlab.training.rows import compressed, finite, weighted_rows, whole_bytes

__all__ = [
    "Linearization",
    "Solver",
    "krylov",
    "linearization",
    "require_options",
    "singular",
    "sketched",
]

Solver = Literal["dense", "krylov", "sketch"]

_LARGEST_SVD = 4096  # rows or columns, whichever are fewer; beyond it a decomposition takes minutes


@dataclass(frozen=True)
class Linearization:
    """The loss ``½‖r + Jδ‖²`` of a linearized residual, in the singular coordinates of ``J = UΣVᵀ``.

    Attributes
    ----------
    residual
        r ``[m]``.
    jacobian
        J ``[m n]``.
    values
        Singular values σ ``[k]``, descending, without those at round-off; those of J on a Krylov space, or on a
        random one, if that is the solver.
    components
        ``c = Uᵀr`` ``[k]``.
    basis
        V ``[n k]``.
    solver
        How it was found.
    """

    residual: Tensor
    jacobian: Operator
    values: Tensor
    components: Tensor
    basis: Tensor
    solver: Solver

    @property
    def loss(self) -> float:
        """``½‖r‖²``."""
        return 0.5 * self.residual.square().sum().item()

    @property
    def rank(self) -> int:
        """Number of singular values above round-off."""
        return len(self.values)

    @property
    def condition(self) -> float:
        """``(σ_1/σ_k)²``: the condition number of ``JᵀJ`` on the resolved subspace."""
        return (self.values[0] / self.values[-1]).item() ** 2 if self.rank else 1.0

    def step(self, damping: float) -> Tensor:
        """Return ``argmin_δ ½‖r + Jδ‖² + ½μ‖δ‖² = −V diag(σ/(σ² + μ)) Uᵀr`` ``[n]``.

        >>> singular(Dense(torch.eye(2)), torch.tensor([1.0, 3.0])).step(1.0)
        tensor([-0.5000, -1.5000])
        """
        return -self.basis @ (self.values * self.components / (self.values**2 + damping))

    def correction(self, damping: float, excess: Tensor) -> Tensor:
        """Return ``−(JᵀJ + μ)⁻¹Jᵀe``, e.g. for what a residual has beyond its linearization ``[m]``."""
        slope = self.jacobian.backward(excess[:, None])[:, 0]
        return -self.basis @ ((self.basis.T @ slope) / (self.values**2 + damping))

    def predicted(self, damping: float) -> float:
        """Return ``½‖r‖² − ½‖r + Jδ‖²`` for the damped step, as a sum of positive terms.

        >>> singular(Dense(torch.eye(2)), torch.tensor([1.0, 3.0])).predicted(1.0)
        3.75
        """
        square = self.values**2
        kept = square * (square + 2 * damping) / (square + damping) ** 2
        return 0.5 * (self.components**2 * kept).sum().item()


def linearization(
    residual: Map,
    *,
    known: Mapping[str, str] | None = None,
    solver: Solver | None = None,
    memory_budget: int = 2**30,
    maxiter: int = 200,
    size: int = 1000,
    generator: torch.Generator | None = None,
) -> Linearization:
    """Linearize a residual at its parameters and decompose the Jacobian: densely, on a Krylov space, or sketched.

    The dense way passes over the rows in pieces that fit the budget and reduces them by QR, so it needs
    ``min(m, n)·n`` numbers however many rows there are; all rows at once for a map without points. It is taken if
    four times that fits and ``min(m, n) ≤ 4096``.

    Parameters
    ----------
    known
        What :func:`routes` returns, so that the dense way need not find it again.
    solver
        ``"dense"``, ``"krylov"``, ``"sketch"``, or None for the rule above, the second where it is broken.
    memory_budget
        Bytes.
    maxiter
        Steps of :func:`krylov`; fewer if their vectors exceed the budget.
    size, generator
        Of :func:`sketched`.

    Raises
    ------
    ValueError
        For an unknown solver, options below 1, and rows that the solver needs at once but that exceed the budget.
    Breakdown
        If the residual or its Jacobian is not finite.

    Cost: dense, one pass over the rows, ``2mn·min(m, n)`` operations for QR and about ``20 min(m, n)²n`` for the
    singular values; Krylov, ``maxiter`` products with J and Jᵀ and as many vectors of either side.

    >>> a = torch.tensor([1.0, 2.0])
    >>> linearization(Map(lambda p: p["a"] * torch.tensor([3.0, 1.0]), {"a": a})).values
    tensor([3., 1.])
    """
    require_options("linearization", solver=solver, memory_budget=memory_budget, maxiter=maxiter, size=size)
    m, n, itemsize = residual.codomain.size, residual.domain.size, residual.domain.dtype.itemsize
    if solver is None:
        fits = max(4 * min(m, n) * n * itemsize, whole_bytes(residual)) <= memory_budget
        solver = "dense" if fits and min(m, n) <= _LARGEST_SVD else "krylov"
    if solver == "krylov":
        value = finite(residual.value, residual).detach()
        maxiter = min(maxiter, max(1, memory_budget // ((m + n) * itemsize)))
        return krylov(Jacobian(residual, memory_budget=memory_budget), value, maxiter=maxiter)
    if solver == "sketch":
        return sketched(residual, size=size, known=known, memory_budget=memory_budget, generator=generator)
    rows = weighted_rows(residual, known, memory_budget)
    if 4 * m * n * itemsize <= memory_budget:
        matrix = finite(torch.cat(list(rows)), residual)
        J = Dense(matrix[:, :n])
        return singular(J, matrix[:, n], reduced=compressed(None, matrix))
    values, reduced = [], None
    for piece in rows:
        values.append(piece[:, n])
        reduced = compressed(reduced, finite(piece, residual))
    J = Jacobian(residual, memory_budget=memory_budget)
    return singular(J, torch.cat(values), reduced=reduced)


def require_options(caller: str, *, solver: object, memory_budget: int, maxiter: int, size: int) -> None:
    """Raise unless these are options of :func:`linearization`."""
    known = get_args(Solver)
    if solver is not None and solver not in known:
        raise ValueError(
            f"{caller}: expected a solver of {', '.join(known)}, or None to choose by size, got {solver!r}"
        )
    for name, count in {"memory_budget": memory_budget, "maxiter": maxiter, "size": size}.items():
        require_integer(caller, name, count)


def singular(J: Operator, r: Tensor, *, reduced: Tensor | None = None) -> Linearization:
    """Decompose a Jacobian that is known as a matrix.

    Parameters
    ----------
    J
        ``[m n]``.
    r
        The residual ``[m]``.
    reduced
        ``Qᵀ[J r]`` with fewer rows, for some orthogonal Q; ``[J r]`` itself if None.

    Cost: one singular value decomposition.
    """
    reduced = torch.cat([J.dense(), r[:, None]], dim=1) if reduced is None else reduced
    U, values, Vh = torch.linalg.svd(reduced[:, :-1], full_matrices=False)
    above = values > torch.finfo(r.dtype).eps * max(J.shape) * values[:1]
    rank = int(above.sum())
    components = U.T @ reduced[:, -1]
    return Linearization(r, J, values[:rank], components[:rank], Vh[:rank].T, "dense")


def krylov(J: Operator, r: Tensor, *, maxiter: int = 200) -> Linearization:
    """Decompose J on the Krylov space of ``JᵀJ`` and ``Jᵀr``: LSQR for every damping at once.

    ``J V_k = U_{k+1} B_k`` with B_k lower bidiagonal and ``U e_1 = r/‖r‖``, so damped solutions in the span of
    V_k need the singular values of B_k only. Both bases are orthogonalized twice.

    Raises
    ------
    Breakdown
        If r or a product is not finite.

    Cost: ``maxiter`` products with J and as many with Jᵀ; memory ``maxiter (m + n)`` numbers.
    Reference: Paige & Saunders (1982), doi:10.1145/355984.355989.

    >>> from precondlab.operators import Diagonal
    >>> model = krylov(Diagonal(torch.tensor([1.0, 2.0])), torch.tensor([1.0, 1.0]))
    >>> model.step(0.0).round(decimals=4), model.rank
    (tensor([-1.0000, -0.5000]), 2)
    """
    limit = min(maxiter, *J.shape)
    U, V = J.codomain.zeros(limit + 1), J.domain.zeros(limit)
    B = torch.zeros(limit + 1, limit, dtype=torch.float64)
    u, norm, scale, steps = r, _norm(J.codomain, r), 0.0, 0
    beta = norm
    if not norm < float("inf"):
        raise Breakdown(f"krylov: the residual r ({len(r)} rows) is not finite; check the points, or start elsewhere")
    for k in range(limit):
        if beta <= 10 * J.domain.eps * scale or beta == 0:
            break
        U[:, k] = u / beta
        v = _orthogonal(J.domain, J.backward(U[:, k : k + 1])[:, 0], V[:, :k])
        alpha = _norm(J.domain, v)
        _require_finite(alpha, J, k)
        scale = max(scale, alpha)
        if alpha <= 10 * J.domain.eps * scale:
            break
        V[:, k], B[k, k] = v / alpha, alpha
        u = _orthogonal(J.codomain, J.forward(V[:, k : k + 1])[:, 0], U[:, : k + 1])
        beta = _norm(J.codomain, u)
        _require_finite(beta, J, k)
        B[k + 1, k], scale, steps = beta, max(scale, beta), k + 1
    first = torch.zeros(steps + 1, 1, dtype=torch.float64)
    first[0] = norm
    small = singular(Dense(B[: steps + 1, :steps]), first[:, 0])
    basis = V[:, :steps] @ small.basis.to(V)
    return Linearization(r, J, small.values.to(V), small.components.to(V), basis, "krylov")


def sketched(
    residual: Map,
    *,
    size: int = 1000,
    known: Mapping[str, str] | None = None,
    memory_budget: int = 2**30,
    generator: torch.Generator | None = None,
) -> Linearization:
    """Decompose ``J Q``: J on a random subspace of the parameters.

    Q ``[n size]`` has orthonormal columns, each the signs of a random group of parameters: steps are ``δ = Qz`` with z
    the minimizer of ``½‖r + JQz‖² + ½μ‖z‖²``. Without Q, the dense way, if n ≤ size. Rows are reduced by QR
    as they come, exactly: mixing them at random as well would cost less where ``m ≫ size``, but its error
    bounds what a step can gain.

    Parameters
    ----------
    size
        Columns of Q; the rank of J is enough.
    known, memory_budget
        As for :func:`linearization`.
    generator
        For Q.

    Raises
    ------
    ValueError
        If the size is not positive, or for a map without points whose rows exceed the budget.
    Breakdown
        If the residual or its Jacobian is not finite.

    Cost: one pass over the rows, ``n + 2 size²`` operations for each besides, and about ``20 size³``; memory
    ``n · size`` numbers and the budget for rows at a time.
    Reference: Cartis, Fowkes & Shao (2022), arXiv:2211.09873; with mixed rows Webb, Jerad & Cartis (2026),
    arXiv:2607.02194.

    >>> a = torch.tensor([1.0, 2.0])
    >>> sketched(Map(lambda p: p["a"] * torch.tensor([3.0, 1.0]), {"a": a}), size=2).values
    tensor([3., 1.])
    """
    require_integer("sketched", "size", size)
    n = residual.domain.size
    S = SignedGroups(residual.domain, size, generator=generator) if size < n else Identity(residual.domain)
    values, reduced = [], None
    for piece in weighted_rows(residual, known, memory_budget):
        values.append(finite(piece, residual)[:, n])
        narrow = torch.cat([S.forward(piece[:, :n].T).T, piece[:, n:]], dim=1)
        reduced = compressed(reduced, narrow)
    assert reduced is not None  # a map has rows
    small = singular(Dense(reduced), reduced[:, -1], reduced=reduced)
    J = Jacobian(residual, memory_budget=memory_budget)
    return Linearization(torch.cat(values), J, small.values, small.components, S.backward(small.basis), "sketch")


def _orthogonal(space: Space, w: Tensor, basis: Tensor) -> Tensor:
    for _ in range(2):
        w = w - (basis @ space.inner(basis, w[:, None]))[:, 0]
    return w


def _norm(space: Space, w: Tensor) -> float:
    return space.inner(w[:, None], w[:, None]).item() ** 0.5


def _require_finite(norm: float, J: Operator, step: int) -> None:
    if not norm < float("inf"):
        raise Breakdown(f"krylov: product {step + 1} with {J!r} is not finite; check the residual at this point")
