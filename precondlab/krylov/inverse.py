"""Inverses by Krylov solves: of a positive operator, and of a shifted one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from precondlab.errors import Breakdown, NotPositive
from precondlab.krylov.cg import cg
from precondlab.krylov.minres import minres
from precondlab.krylov.solution import SolverStatus
from precondlab.operator import Operator

__all__ = ["Inverse", "NearEigenvalue", "ShiftedInverse"]


class NearEigenvalue(Breakdown):
    """A shift is too near to an eigenvalue for solves with ``A − σI``; one that is ``distance`` away will do."""

    def __init__(self, message: str, distance: float) -> None:
        super().__init__(message)
        self.distance = distance


class Inverse(Operator):
    """``A⁻¹`` of a positive operator, each product a solve by conjugate gradients with a preconditioner M.

    If ``M = P Pᴴ`` is known the solves are with ``B = PᴴAP``, and ``A⁻¹ = P B⁻¹ Pᴴ``: a relative residual ρ
    of ``B y = Pᴴv`` is then a relative error of at most ``ρ √κ(B)`` in the norm of A⁻¹, however large
    κ(A). Otherwise ρ is the residual of ``A x = v`` and bounds the relative error itself.

    Parameters
    ----------
    A, M
        Positive operators, ``M ≈ A⁻¹``.
    rtol
        Relative residual asked of every solve.
    maxiter
        Steps of one solve.

    Attributes
    ----------
    residual
        Largest relative residual of a solve so far.
    products
        Products with A so far.

    Raises
    ------
    NotPositive
        If a solve meets a direction of negative curvature, or M is not positive.

    Cost: one product with A and M per step of a solve and one for its true residual; memory six vectors per column.

    >>> from precondlab.operators import Diagonal
    >>> A = Diagonal(torch.tensor([1.0, 4.0], dtype=torch.float64))
    >>> (Inverse(A, A.inverse) @ torch.ones(2, dtype=torch.float64)).tolist()
    [1.0, 0.25]
    """

    def __init__(self, A: Operator, M: Operator, *, rtol: float = 1e-10, maxiter: int | None = None) -> None:
        super().__init__(A.domain, A.domain, positive=True)
        self.A, self.M, self.rtol, self.maxiter = A, M, rtol, maxiter
        self.root = M.sqrt
        left = A.sqrt
        if self.root is None:
            self.target = A
        elif left is None:
            self.target = self.root.H @ A @ self.root
        else:
            factor = left.H @ self.root
            self.target = factor.H @ factor
        self.residual, self.products = 0.0, 0

    def _apply(self, V: Tensor) -> Tensor:
        C = V if self.root is None else self.root.backward(V)
        M = self.M if self.root is None else None
        solution = cg(self.target, C, rtol=self.rtol, maxiter=self.maxiter, M=M)
        if solution.status in (SolverStatus.INDEFINITE, SolverStatus.M_NOT_POSITIVE):
            raise NotPositive(f"{self!r}: {solution.status.advice}")
        self.products += solution.num_matvecs
        self.residual = max(self.residual, float(torch.as_tensor(solution.relative_residual).max()))
        return solution.x if self.root is None else self.root.forward(solution.x)

    def __repr__(self) -> str:
        return f"Inverse({self.A!r})"


class ShiftedInverse(Operator):
    """``(A − σI)⁻¹`` of a symmetric operator, each product a solve by minimal residuals.

    ``products`` counts the products with A so far; ``norm`` is a lower bound on ``‖A − σI‖`` that they have shown.

    Raises
    ------
    NearEigenvalue
        If an eigenvalue is seen within ``⅛ ε^¼ ‖A − σI‖`` of σ, 2e-5 in double precision: solves lose too many digits
        there, and closer by a minimizer is no solution. Move σ by twice that.
    Breakdown
        If a solve does not reach rtol or round-off.

    Cost: one product with A per step of a solve; memory eight vectors per column.

    >>> from precondlab.operators import Diagonal
    >>> A = Diagonal(torch.tensor([1.0, 4.0], dtype=torch.float64))
    >>> (ShiftedInverse(A, 2.0) @ torch.ones(2, dtype=torch.float64)).tolist()
    [-1.0, 0.5]
    """

    def __init__(self, A: Operator, sigma: float, *, rtol: float = 1e-11) -> None:
        super().__init__(A.domain, A.domain, symmetric=True)
        self.A, self.sigma, self.rtol, self.products, self.norm = A, sigma, rtol, 0, 0.0

    def _apply(self, V: Tensor) -> Tensor:
        solution = minres(self.A, V, shift=self.sigma, rtol=self.rtol)
        self.products += solution.num_matvecs
        self.norm = max(self.norm, float(np.abs(solution.ritz_values).max(initial=0.0)))
        near = self.domain.eps**0.25 / 8 * self.norm
        growth = (solution.x.norm(dim=0) * near > V.norm(dim=0)).any().item()
        if growth or SolverStatus.LEAST_SQUARES in solution.statuses:
            raise NearEigenvalue(f"{self!r}: an eigenvalue lies within {near:.1e} of σ; move σ by twice that", 2 * near)
        if solution.status not in (SolverStatus.OK, SolverStatus.ROUND_OFF):
            raise Breakdown(f"{self!r}: {solution}: {solution.status.advice}")
        return solution.x

    def __repr__(self) -> str:
        return f"ShiftedInverse({self.A!r}, σ={self.sigma:g})"
