"""Condition numbers as intervals: what is known, on which side, and what it rests on."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator

from precondlab.errors import Breakdown, NotPositive, Status
from precondlab.krylov import golub_kahan, lanczos
from precondlab.operator import Operator, as_operator

__all__ = ["Condition", "ConditionStatus", "condition"]

_DENSE_SIZE = 3000  # smaller dimension up to which a dense factorization is affordable …
_DENSE_BYTES = 2**30  # … and the memory it may take
_DEFAULT_STEPS = 200  # Krylov steps beyond that
_CONVERGED = 1e-10  # relative residual at which both ends of the spectrum stop moving


class ConditionStatus(Status):
    """What `condition` found out; the value is advice."""

    OK = "the interval holds the condition number, up to the stated round-off"
    LOWER_BOUND = (
        "products alone bound κ from below only: the smallest eigenvalue may not have been seen. Give a "
        "preconditioner, or raise num_matvecs to the size of the operator"
    )
    SINGULAR = (
        "numerically singular: κ is infinite or not resolved. Use .rank and .resolved (κ on the resolved "
        "subspace), add damping, or remove parameters without influence"
    )
    ZERO = "the operator is zero, its condition number is not defined; check the residual and its weights"


@dataclass(frozen=True)
class Condition:
    """A condition number κ, as ``lower ≤ κ ≤ upper``.

    Attributes
    ----------
    lower
        Lower bound on κ, always valid up to round-off (which is subtracted).
    upper
        Upper bound on κ, or infinity where products cannot know or the operator is singular.
    estimate
        Best single guess; infinite for a numerically singular operator.
    resolved
        κ on the subspace of eigenvalues above the noise floor.
    rank
        Number of eigenvalues found above the noise floor: the numerical rank if the method is
        dense, a lower bound on it otherwise.
    size
        Dimension of the space.
    largest, smallest
        Extreme eigenvalues of A (singular values for an operator not declared positive), as found.
    noise_floor
        Size below which an eigenvalue is not distinguished from round-off.
    status
        What happened; ``status.ok`` and ``status.advice``.
    num_matvecs
        Products with A used (one with J and one with Jᵀ count as one; a dense J counts its columns).
    method
        ``"dense"``, ``"golub-kahan"`` or ``"lanczos"``.
    """

    lower: float
    upper: float
    estimate: float
    resolved: float
    rank: int
    size: int
    largest: float
    smallest: float
    noise_floor: float
    status: ConditionStatus
    num_matvecs: int
    method: str

    def check(self) -> Condition:
        """Return self if the status is OK, else raise ``ArithmeticError`` with the advice."""
        if not self.status.ok:
            raise ArithmeticError(f"{self}: {self.status.advice}")
        return self

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON; infinities become None."""
        values = asdict(self) | {
            "status": self.status.name,
            "ok": self.status.ok,
            "advice": self.status.advice,
        }
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }

    def __str__(self) -> str:
        return (
            f"κ = {self.estimate:.6g} in [{self.lower:.6g}, {self.upper:.6g}] ({self.status.name.lower()}, "
            f"rank {self.rank} of {self.size}, {self.method}, {self.num_matvecs} products)"
        )


def condition(
    A: LinearOperator,
    /,
    *,
    preconditioner: Operator | None = None,
    num_matvecs: int | None = None,
    generator: torch.Generator | None = None,
) -> Condition:
    """Enclose the condition number of an operator.

    For a positive operator ``κ = λ_max / λ_min``, for any other one ``σ_max / σ_min``. If
    ``A = S Sᴴ`` is known, as for ``Gram(J)``, the work is done on S, which resolves κ up to
    about ``1/ε²`` instead of ``1/ε``. With a preconditioner ``M ≈ A⁻¹`` the number is that of
    ``M A``: of ``PᵀAP`` if ``M = PPᵀ`` is known, else in the inner product of ``M⁻¹``.

    Small operators are factorized densely: the interval is then the round-off of the
    factorization. Large ones are projected on a Krylov space from a random vector: Ritz
    values lie inside the spectrum, so their ratio bounds κ from below; the upper bound is
    infinite unless the space is exhausted.

    Parameters
    ----------
    A
        An operator, or SciPy's.
    preconditioner
        A positive operator approximating ``A⁻¹``.
    num_matvecs
        Budget of products; by default as many as a dense factorization needs where that is
        affordable, else 200.
    generator
        For the random start vector.

    Raises
    ------
    NotPositive
        If A or M is declared positive and is not.
    Breakdown
        If a product is not finite.

    Cost: min(m, n) products and a dense factorization, or one product per Krylov step.
    Reference: Golub & Van Loan, Matrix Computations, 4th ed., §10.4.

    >>> from precondlab.operators import Diagonal
    >>> print(condition(Diagonal(torch.tensor([1.0, 4.0], dtype=torch.float64))).check())
    κ = 4 in [4, 4] (ok, rank 2 of 2, dense, 2 products)
    """
    A = as_operator(A)
    if num_matvecs is not None and num_matvecs < 1:
        raise ValueError(f"condition: num_matvecs should be ≥ 1, got {num_matvecs}")
    target, M, power = _target(A, preconditioner)
    m, n = target.shape
    wanted = min(m, n)
    dense = wanted <= _DENSE_SIZE and m * n * target.domain.dtype.itemsize <= _DENSE_BYTES
    if dense and (num_matvecs is None or num_matvecs >= wanted):
        return _dense(target, M, power, A.shape[1])
    steps = _DEFAULT_STEPS if num_matvecs is None else num_matvecs
    return _krylov(target, M, power, A.shape[1], steps, generator)


def _target(A: Operator, M: Operator | None) -> tuple[Operator, Operator | None, int]:
    """Return the operator to project, a preconditioner left over, and the power that κ is of its own κ."""
    if M is not None and (M.shape != A.shape or not M.positive):
        raise ValueError(
            f"condition: expected a positive preconditioner of shape {A.shape}, got {M!r} of shape {M.shape}; "
            "declare it with positive=True"
        )
    if M is not None and not A.positive:
        raise ValueError(f"condition: a preconditioner needs a positive operator, got {A!r}; declare positive=True")
    left = A.sqrt if A.positive else None
    right = None if M is None else M.sqrt
    if left is not None:
        if M is None:
            return left.H, None, 2
        if right is not None:
            return left.H @ right, None, 2
    elif right is not None:
        return right.H @ A @ right, None, 1
    return A, M, 1


def _dense(target: Operator, M: Operator | None, power: int, size: int) -> Condition:
    matrix = _finite(target.dense(), target)
    if M is not None:
        factor, info = torch.linalg.cholesky_ex(_finite(M.dense(), M))
        if info.item():
            raise NotPositive(f"condition: the preconditioner {M!r} is not positive definite")
        matrix = factor.mH @ matrix @ factor
    if target.positive:
        values = torch.linalg.eigvalsh((matrix + matrix.mH) / 2).flip(0)
    else:
        values = torch.linalg.svdvals(matrix)
    values = values.double().cpu().numpy()
    products = min(target.shape)
    padded = np.concatenate([values, np.zeros(size - len(values))])  # fewer rows than columns: exact zeros
    return _result(padded, target, power, size, products, "dense", complete=True)


def _krylov(
    target: Operator, M: Operator | None, power: int, size: int, steps: int, generator: torch.Generator | None
) -> Condition:
    start = target.domain.random(generator=generator)
    values, exhausted, products = np.zeros(1), False, 0
    if target.positive:
        for T in lanczos(target, start, num_matvecs=steps, M=M):
            ascending, vectors = T.eigh()
            values, residuals = ascending[::-1], np.abs(T.offdiagonal[-1] * vectors[-1, ::-1])
            exhausted, products = T.exhausted, len(T.diagonal)
            if _converged(values, residuals):
                break
    else:
        for B in golub_kahan(target, start, num_matvecs=steps):
            values, residuals = B.svd()
            exhausted, products = B.exhausted, len(B.diagonal)
            if _converged(values, residuals):
                break
    if exhausted and target.shape[0] < target.shape[1]:
        values = np.append(values, 0.0)
    method = "lanczos" if target.positive else "golub-kahan"
    return _result(values, target, power, size, products, method, complete=exhausted)


def _converged(values: np.ndarray, residuals: np.ndarray) -> bool:
    return len(values) > 1 and bool(residuals[0] <= _CONVERGED * values[0] and residuals[-1] <= _CONVERGED * values[-1])


def _result(
    values: np.ndarray, target: Operator, power: int, size: int, products: int, method: str, *, complete: bool
) -> Condition:
    """Turn the found values, descending, of a target with ``κ = κ(target)^power`` into an interval."""
    largest, smallest = float(values[0]), float(values[-1])
    round_off = max(target.shape) * target.domain.eps * abs(largest)
    if target.positive and smallest < -round_off:
        raise NotPositive(
            f"condition: {target!r} is declared positive but has the Ritz value {smallest:.3e} < 0 "
            f"(largest: {largest:.3e})"
        )
    above = values[values > round_off]
    common = {
        "size": size,
        "largest": largest**power,
        "smallest": smallest**power,
        "noise_floor": round_off**power,
        "num_matvecs": products,
        "method": method,
    }
    if largest == 0:
        nothing = {"lower": 1.0, "upper": math.inf, "estimate": math.inf, "resolved": 1.0, "rank": 0}
        return Condition(**nothing, **common, status=ConditionStatus.ZERO)
    lower = max(1.0, (largest - round_off) / (max(smallest, 0.0) + round_off)) ** power
    singular = len(above) < len(values)
    finite = complete and not singular
    status = ConditionStatus.OK if finite else ConditionStatus.SINGULAR if singular else ConditionStatus.LOWER_BOUND
    return Condition(
        lower=lower,
        upper=((largest + round_off) / (smallest - round_off)) ** power if finite else math.inf,
        estimate=math.inf if singular else (largest / smallest) ** power,
        resolved=float(largest / above[-1]) ** power,
        rank=size if finite else len(above),
        status=status,
        **common,
    )


def _finite(matrix: torch.Tensor, operator: Operator) -> torch.Tensor:
    if not matrix.isfinite().all():
        bad = (~matrix.isfinite()).any(0).nonzero()[0].item()
        raise Breakdown(f"condition: product {bad + 1} with {operator!r} is not finite")
    return matrix
