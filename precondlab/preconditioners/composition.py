"""Preconditioners out of preconditioners: sums, sweeps, blocks, nesting, and two levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.algebra import Sum
from precondlab.errors import NotPositive
from precondlab.krylov import lanczos
from precondlab.operator import Operator, as_operator
from precondlab.operators import BlockDiagonal, Dense
from precondlab.preconditioners.preconditioner import Preconditioner, finite, require_square
from precondlab.space import Space

__all__ = ["additive", "blockwise", "multiplicative", "nested", "two_level"]

Maker = Callable[[Operator], Operator]

_CHECK_STEPS = 8  # Lanczos steps that look for a part that overcorrects


def additive(first: Operator, /, *others: Operator) -> Operator:
    """Add preconditioners, ``M = Σ_i M_i``.

    ``λ_max(MA) ≤ Σ_i λ_max(M_iA)`` and ``λ_min(MA) ≥ Σ_i λ_min(M_iA)``: a bound from either side. Where each ``M_i``
    inverts A on a part of the space, the sum does so on the whole.

    Raises
    ------
    ValueError
        If a part is not positive or the sizes differ.

    Cost: no product with A; each application one of every part.
    Reference: Xu (1992), doi:10.1137/1034116.

    >>> from precondlab.operators import Diagonal
    >>> additive(Diagonal(torch.tensor([1.0, 0.0])), Diagonal(torch.tensor([0.0, 2.0]))).dense()
    tensor([[1., 0.],
            [0., 2.]])
    """
    parts = (first, *others)
    _require_positive("additive", parts, first)
    return Preconditioner(Sum(*parts), "Additive", *map(_name, parts), setup_matvecs=_setup(*parts), space=first.domain)


def multiplicative(
    A: LinearOperator, first: Operator, /, *others: Operator, generator: torch.Generator | None = None
) -> Operator:
    """Correct by one preconditioner after the other, and back.

    ``I − MA = (I − M₁A)⋯(I − M_kA)(I − M_kA)⋯(I − M₁A)``: it reads the same backwards, so M is symmetric. It is
    positive if ``λ_max(M_iA) < 2`` for every part. For one part ``M = 2M₁ − M₁AM₁``.

    Parameters
    ----------
    A
        A positive operator, or SciPy's.
    first, others
        Positive operators M_i.
    generator
        For the start vectors of the check.

    Raises
    ------
    NotPositive
        If 8 Lanczos steps find a Ritz value of ``M_iA`` of 2 or more, a proof; says by what to scale that part.
    ValueError
        If a part is not positive or the sizes differ.

    Cost: 8 products per part; each application ``2k − 1`` products for k parts.
    Reference: Xu (1992), doi:10.1137/1034116, §3.

    >>> from precondlab.operators import Diagonal, Identity
    >>> A = Diagonal(torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64))
    >>> (multiplicative(A, Identity(A.domain)) @ A).dense().diagonal()  # 1 − (1 − λ)²
    tensor([0.7500, 1.0000, 0.7500], dtype=torch.float64)
    """
    A, parts = as_operator(A), (first, *others)
    require_square("multiplicative", A)
    _require_positive("multiplicative", parts, A)
    before = A.num_matvecs
    for part in parts:
        with torch.no_grad():
            *_, T = lanczos(A, A.domain.random(generator=generator), num_matvecs=_CHECK_STEPS, M=part)
        top = T.eigh()[0][-1]
        if top >= 2:
            raise NotPositive(
                f"multiplicative: {part!r} overcorrects: λ_max(MA) ≥ {top:.3g} should be below 2; "
                f"scale it by {1 / top:.2g}"
            )
    setup = _setup(*parts) + A.num_matvecs - before
    return Preconditioner(_Sweep(A, parts), "Multiplicative", *map(_name, parts), setup_matvecs=setup, space=A.domain)


def blockwise(A: LinearOperator, makers: Mapping[str, Maker] | Maker, /) -> Operator:
    """Precondition every named block of unknowns by a method of its own, ``M = diag(M_b)``.

    Parameters
    ----------
    A
        A positive operator whose space has named blocks: layers, parameter groups.
    makers
        Block → function from ``E_bᵀAE_b``, the operator of the block, to its preconditioner; or one for all.

    Raises
    ------
    ValueError
        If the names are not those of the blocks, or a part is not positive or of the wrong size.

    Cost: what the makers take, in products with A; each application one of every part.
    Reference: Demmel (2023), doi:10.1137/22M1504901.

    >>> from precondlab.operators import Diagonal
    >>> from precondlab.preconditioners.diagonal import jacobi
    >>> blockwise(Diagonal(torch.tensor([1.0, 2.0])), jacobi).dense().diagonal()
    tensor([1.0000, 0.5000])
    """
    A = as_operator(A)
    require_square("blockwise", A)
    names = [name for name, part in A.domain.slices.items() if part.start < part.stop]
    chosen = dict.fromkeys(names, makers) if callable(makers) else dict(makers)
    if chosen.keys() != set(names):
        raise ValueError(f"blockwise: expected a preconditioner for each of the blocks {names}, got {list(chosen)}")
    before, parts = A.num_matvecs, []
    for name in names:
        E = _Columns(A.domain, A.domain.slices[name])
        block = E.H @ A @ E
        parts.append(chosen[name](block))
        _require_positive(f"blockwise: block {name!r}", parts[-1:], block)
    setup = max(_setup(*parts), A.num_matvecs - before)
    return Preconditioner(BlockDiagonal(*parts), "Blockwise", *map(_name, parts), setup_matvecs=setup, space=A.domain)


def nested(A: LinearOperator, outer: Operator, inner: Maker, /) -> Operator:
    """Precondition what a preconditioner has left, ``M = P M'(PᴴAP) Pᴴ`` with ``PPᴴ`` the outer one.

    ``κ(MA) = κ(M' PᴴAP)``: the inner method sees the spectrum that the outer one has made, a Nyström
    approximation of a matrix scaled by Jacobi, for instance.

    Parameters
    ----------
    A
        A positive operator, or SciPy's.
    outer
        Positive operator with a factor P (``outer.sqrt``).
    inner
        Function from ``PᴴAP`` to its preconditioner M'.

    Raises
    ------
    ValueError
        If the outer preconditioner has no factor, or a part is not positive or of the wrong size.

    Cost: what the inner method takes; each application one of M' and two of P.
    Reference: Golub & Van Loan, Matrix Computations, 4th ed., §11.5.

    >>> from precondlab.operators import Diagonal
    >>> from precondlab.preconditioners.diagonal import jacobi
    >>> A = Diagonal(torch.tensor([1.0, 4.0], dtype=torch.float64))
    >>> nested(A, Diagonal(torch.tensor([1.0, 2.0], dtype=torch.float64)), jacobi).dense().diagonal()
    tensor([1.0000, 0.2500], dtype=torch.float64)
    """
    A = as_operator(A)
    require_square("nested", A)
    _require_positive("nested", (outer,), A)
    P = outer.sqrt
    if P is None:
        raise ValueError(
            f"nested: {outer!r} has no factor P with M = PPᴴ; let it be the inner one, or use multiplicative"
        )
    before, middle = A.num_matvecs, P.H @ A @ P
    M = inner(middle)
    _require_positive("nested", (M,), middle)
    setup = _setup(outer) + max(_setup(M), A.num_matvecs - before)
    facts = _name(outer), _name(M)
    return Preconditioner(P @ M @ P.H, "Nested", *facts, setup_matvecs=setup, space=A.domain, parts=[outer])


def two_level(A: LinearOperator, smoother: Operator, coarse: Tensor, /) -> Operator:
    """Correct exactly on a coarse space and by a smoother off it, ``M = Q + (I − QA) M₁ (I − AQ)``.

    ``Q = Z(ZᴴAZ)⁻¹Zᴴ`` inverts A on the range of the coarse functions Z, whose eigenvalue becomes 1; M is
    positive for every positive M₁. The rest of the spectrum is that of
    deflated conjugate gradients.

    Parameters
    ----------
    A
        A positive operator on n unknowns, or SciPy's.
    smoother
        Positive operator M₁ of the same shape.
    coarse
        Coarse functions Z ``[n q]`` with independent columns: aggregates, a coarse grid, approximate eigenvectors.

    Raises
    ------
    NotPositive
        If ``ZᴴAZ`` is not positive definite.
    ValueError
        If the smoother is not positive or sizes differ.

    Cost: q products, none with A to apply; memory 2 n q, each application one of M₁ and ``8 n q`` operations.
    Reference: Mandel (1993), doi:10.1002/cnm.1640090307; Tang, Nabben, Vuik & Erlangga (2009),
    doi:10.1007/s10915-009-9272-6.

    >>> from precondlab.operators import Diagonal, Identity
    >>> A = Diagonal(torch.tensor([100.0, 2.0, 1.0], dtype=torch.float64))
    >>> (two_level(A, Identity(A.domain), torch.eye(3, dtype=torch.float64)[:, :1]) @ A).dense().diagonal()
    tensor([1., 2., 1.], dtype=torch.float64)
    """
    A = as_operator(A)
    require_square("two_level", A)
    _require_positive("two_level", (smoother,), A)
    coarse = coarse_functions("two_level", coarse, A.shape[0])
    K, products = coarse_factor(A, coarse, "two_level")
    with torch.no_grad():
        projector = _Complement(K.matrix, finite(A.forward(K.matrix), "two_level", A))
    inverse = K @ K.H + projector @ smoother @ projector.H
    facts = (f"{coarse.shape[1]} coarse", _name(smoother))
    setup = _setup(smoother) + products + coarse.shape[1]
    return Preconditioner(inverse, "TwoLevel", *facts, setup_matvecs=setup, space=A.domain)


def coarse_functions(caller: str, coarse: object, size: int) -> Tensor:
    """Return coarse functions ``[n q]``, q ≥ 1, as a tensor, or raise."""
    found = torch.as_tensor(coarse)
    if found.dim() != 2 or len(found) != size or not found.shape[1]:
        raise ValueError(f"{caller}: expected coarse functions [{size} q], q ≥ 1, got {tuple(found.shape)}")
    return found


@torch.no_grad()
def coarse_factor(A: Operator, Z: Tensor, caller: str) -> tuple[Dense, int]:
    """Return ``K = Z R⁻¹`` with ``RᴴR = ZᴴAZ``, hence ``KKᴴ = Z(ZᴴAZ)⁻¹Zᴴ``, and the products that took."""
    Z = Z.to(A.domain.device, A.domain.dtype)
    scale = torch.linalg.vector_norm(Z, dim=0)
    Z = Z / torch.where(scale > 0, scale, 1)
    root = A.sqrt
    if root is None:
        E = A.domain.inner(Z, finite(A.forward(Z), caller, A))
        L, info = torch.linalg.cholesky_ex((E + E.mH) / 2)
        R, singular = L.mH, bool(info.item())
    else:
        R = torch.linalg.qr(finite(root.backward(Z), caller, A), mode="r").R
        singular = len(R) < Z.shape[1]
    pivots = R.diagonal().abs()
    power = 1 if root is not None else 2
    if singular or not bool((pivots**power > Z.shape[1] * A.domain.eps * pivots.max() ** power).all()):
        raise NotPositive(
            f"{caller}: {A!r} is not positive definite on the {Z.shape[1]} coarse functions; remove dependent ones"
        )
    products = Z.shape[1] if root is None else -(-Z.shape[1] // 2)
    return Dense(torch.linalg.solve_triangular(R.mH, Z.mH, upper=False).mH), products


class _Sweep(Operator):
    """Successive corrections of the residual by all parts, and back."""

    def __init__(self, A: Operator, parts: tuple[Operator, ...]) -> None:
        super().__init__(A.domain, A.domain, positive=True)
        self.A, self.parts = A, (*parts, *parts[::-1])

    def _apply(self, V: Tensor) -> Tensor:
        x = self.parts[0].forward(V)
        for part in self.parts[1:]:
            x = x + part.forward(V - self.A.forward(x))
        return x


class _Complement(Operator):
    """``I − K Wᴴ``."""

    def __init__(self, K: Tensor, W: Tensor) -> None:
        space = Dense(K).codomain
        super().__init__(space, space)
        self.K, self.W = K, W

    def _apply(self, V: Tensor) -> Tensor:
        return V - self.K @ (self.W.mH @ V)

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        return U - self.W @ (self.K.mH @ U)


class _Columns(Operator):
    """Consecutive columns of the identity."""

    def __init__(self, space: Space, part: slice) -> None:
        super().__init__(Space(part.stop - part.start, dtype=space.dtype, device=space.device), space)
        self.part = part

    def _apply(self, V: Tensor) -> Tensor:
        padded = self.codomain.zeros(V.shape[1])
        padded[self.part] = V
        return padded

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        return U[self.part].clone()


def _require_positive(caller: str, parts: Sequence[Operator], like: Operator) -> None:
    for part in parts:
        if not isinstance(part, Operator):
            raise TypeError(f"{caller}: expected an operator, got {type(part).__name__}; e.g. jacobi(A)")
        if not part.positive or not part.domain.matches(like.domain):
            raise ValueError(
                f"{caller}: expected a positive operator on {like.domain}, got {part!r} on {part.domain}"
                f"{'' if part.positive else ', not declared positive'}"
            )


def _setup(*parts: Operator) -> int:
    return sum(getattr(part, "setup_matvecs", 0) for part in parts)


def _name(part: Operator) -> str:
    return repr(part).partition("[")[0]
