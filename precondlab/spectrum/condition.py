"""Condition numbers as intervals: what is known, on which side, and what it rests on."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator

from precondlab.errors import NotPositive, Status
from precondlab.krylov.checks import require_integer
from precondlab.operator import Operator, as_operator
from precondlab.operators import Dense, Identity
from precondlab.spectrum.bounds import component_quantile
from precondlab.spectrum.ends import Ends, amplified, dense_cost, dense_ends, krylov_ends
from precondlab.spectrum.through_inverse import inverse_ends

__all__ = ["Condition", "ConditionStatus", "condition"]

_DENSE_SIZE = 3000  # smaller dimension up to which a dense factorization is affordable …
_DENSE_BYTES = 2**30  # … and the memory it may take
_DEFAULT_STEPS = 200  # Krylov steps beyond that


class ConditionStatus(Status):
    """What `condition` found out; the value is advice."""

    OK = "the interval holds the condition number, with the stated confidence and up to the stated round-off"
    LOWER_BOUND = (
        "products alone bound κ from below only: the smallest eigenvalue may not have been seen. Give an "
        "approximate_inverse, a damping, or raise num_matvecs to the size of the operator"
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
        Lower bound on κ, always valid: round-off is subtracted.
    upper
        Upper bound on κ that holds with probability ``confidence`` over the random start vector; infinite where
        products cannot know or the operator is singular.
    estimate
        Best single guess; infinite for a numerically singular operator.
    resolved
        κ on the subspace of eigenvalues above the noise floor.
    rank
        Number of eigenvalues found above the noise floor: the numerical rank if the method is
        dense, a lower bound on it otherwise.
    size
        Number of eigenvalues or singular values: ``min(m, n)``.
    largest, smallest
        Extreme eigenvalues of A (singular values for an operator not declared positive), as found, damping included.
    noise_floor
        Size below which an eigenvalue is not distinguished from round-off and from the noise seen in the products.
    confidence
        Probability with which ``upper`` holds: 1 where nothing is random, neither start vector nor products.
    status
        What happened; ``status.ok`` and ``status.advice``.
    num_matvecs
        Products with A used (one with J and one with Jᵀ count as one; a dense J counts its columns).
    method
        ``"dense"``, ``"golub-kahan"``, ``"lanczos"`` or ``"inverse"``.
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
    confidence: float
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
    preconditioner: LinearOperator | np.ndarray | None = None,
    approximate_inverse: LinearOperator | np.ndarray | None = None,
    damping: float = 0.0,
    num_matvecs: int | None = None,
    confidence: float = 0.95,
    generator: torch.Generator | None = None,
) -> Condition:
    """Enclose the condition number of an operator.

    For a positive operator ``κ = λ_max / λ_min``, for any other one ``σ_1 / σ_min(m, n)``, as ``numpy.linalg.cond``
    has it: κ of a wide J of full rank is finite, that of ``Gram(J) = JᴴJ`` is ∞, that of ``Kernel(J)`` is ``κ(J)²``.
    If ``A = S Sᴴ`` is known, as for ``Gram(J)``, the work is done on S, which resolves κ up to about ``1/ε²``
    instead of ``1/ε``.

    * Small operators are factorized densely: the interval is then the round-off of the factorization.
    * Large ones are projected on a Krylov space from a random vector. Ritz values lie inside the spectrum, so
      their ratio bounds κ from below. What the space has not seen is bounded by the size of its residual polynomial
      (:func:`~precondlab.spectrum.bounds.beyond`), with probability ``confidence``: the largest eigenvalue
      always, the smallest only once the recurrence has come near to it, after about n steps or ``√κ ln n``.
      Until then the upper bound is infinite.
    * With an approximate inverse the small end is found by Lanczos on A⁻¹, each product a preconditioned solve:
      the way to κ beyond 1e8 in tens of products.

    Parameters
    ----------
    A
        An operator, or SciPy's.
    preconditioner
        A positive operator ``M ≈ A⁻¹``: the number is that of ``M A``, of ``PᵀAP`` if ``M = PPᵀ`` is known,
        else in the inner product of ``M⁻¹`` (then without an upper bound from a Krylov space). A matrix or an
        operator of SciPy's is taken to be positive. The interval allows for the round-off that M amplifies.
    approximate_inverse
        Such an M used inside solves: the number is that of A itself.
    damping
        μ ≥ 0: the number is that of ``A + μI`` for positive A, whose eigenvalues are at least μ.
    num_matvecs
        Budget of products, never exceeded; by default as many as a dense factorization needs where that is
        affordable (columns, and up to eight for checks), else 200.
    confidence
        Probability with which the upper bound should hold.
    generator
        For the random start vector.

    Raises
    ------
    NotPositive
        If A or M is declared positive and is not.
    NotSymmetric
        If A is declared symmetric and is not, or its adjoint products are wrong.
    Breakdown
        If a product is not finite.
    TypeError, ValueError
        For an operator without rows or columns, and for arguments out of their range.

    Cost: min(m, n) products, one or two that are repeated, and a dense factorization, or one product per Krylov step;
    memory for as many vectors. Symmetry, noise, positivity and finiteness are checked on the way, by six products more
    where something looks wrong.
    References: Golub & Van Loan, Matrix Computations, 4th ed., §10.4; Hochstenbach (2013),
    doi:10.1553/etna_vol40s100.

    >>> from precondlab.operators import Diagonal
    >>> print(condition(Diagonal(torch.tensor([1.0, 4.0], dtype=torch.float64))).check())
    κ = 4 in [4, 4] (ok, rank 2 of 2, dense, 4 products)
    """
    A = as_operator(A)
    _check(A, damping, num_matvecs, confidence)
    preconditioner, approximate_inverse = _positive(A, preconditioner), _positive(A, approximate_inverse)
    if approximate_inverse is not None and preconditioner is not None:
        raise ValueError("condition: give either a preconditioner (κ of M A) or an approximate_inverse (κ of A)")
    if approximate_inverse is not None and A.shape[0] > 1:  # one number needs no inverse
        damped = as_operator(A + damping * Identity(A.domain)) if damping else A
        budget = num_matvecs or _DEFAULT_STEPS
        ends = inverse_ends(damped, approximate_inverse, budget, 1 - confidence, generator, floor=damping)
        return _result(ends, damped, 1, A.shape[1], 0.0, confidence)
    if damping and preconditioner is not None:
        A, damping = as_operator(A + damping * Identity(A.domain)), 0.0
    left = A.sqrt if A.positive else None
    if left is not None:
        base, power = left.H, 2
    else:
        base, power = A if A.shape[0] >= A.shape[1] else A.H, 1
    m, n = base.shape
    wanted = min(m, n)
    dense = wanted <= _DENSE_SIZE and m * n * base.domain.dtype.itemsize <= _DENSE_BYTES
    if dense and (num_matvecs is None or num_matvecs >= dense_cost(base)):
        return _result(dense_ends(base, preconditioner, power=power), A, power, min(A.shape), damping, confidence)
    return _projected(base, power, A, preconditioner, num_matvecs or _DEFAULT_STEPS, damping, confidence, generator)


def _projected(
    base: Operator,
    power: int,
    A: Operator,
    preconditioner: Operator | None,
    num_matvecs: int,
    damping: float,
    confidence: float,
    generator: torch.Generator | None,
) -> Condition:
    """Return what a Krylov space shows, of A or with a preconditioner; the round-off of that takes a product."""
    target, M, power_of_target = _target(base, power, A, preconditioner)
    component = component_quantile(target.shape[1], (1 - confidence) / 2, complex=A.domain.dtype.is_complex)
    round_off, spent = 0.0, 0
    if preconditioner is not None and num_matvecs > 1:
        round_off, spent = amplified(base, preconditioner, power), 1
    ends = krylov_ends(
        target,
        M,
        start=target.domain.random(generator=generator),
        num_matvecs=num_matvecs - spent,
        component=component if M is None and (spent or preconditioner is None) else None,
        round_off=round_off,
    )
    ends = replace(ends, num_matvecs=ends.num_matvecs + spent)
    return _result(ends, target, power_of_target, min(A.shape), damping, confidence)


def _check(A: Operator, damping: float, num_matvecs: int | None, confidence: float) -> None:
    if not min(A.shape):
        raise ValueError(f"condition: expected an operator with rows and columns, got {A!r}; κ is not defined")
    if num_matvecs is not None:
        require_integer("condition", "num_matvecs", num_matvecs)
    for name, value in (("confidence", confidence), ("damping", damping)):
        if not isinstance(value, (int, float, np.number)):
            raise TypeError(f"condition: {name} should be a number, got {value!r}")
    if not 0 < confidence < 1:
        raise ValueError(f"condition: confidence should lie between 0 and 1, got {confidence}")
    if not 0 <= damping < math.inf or (damping and not A.positive):
        raise ValueError(f"condition: damping should be ≥ 0 and needs a positive operator, got {damping} for {A!r}")


def _positive(A: Operator, M: LinearOperator | np.ndarray | None) -> Operator | None:
    """Return a preconditioner as a positive operator like A; what is not ours is one because it was given as one."""
    if M is None:
        return None
    if not A.positive:
        raise ValueError(f"condition: a preconditioner needs a positive operator, got {A!r}; declare positive=True")
    if isinstance(M, np.ndarray):
        found: Operator = Dense(torch.as_tensor(M, dtype=A.domain.dtype, device=A.domain.device), positive=True)
    else:
        found = as_operator(M, like=A, positive=not isinstance(M, Operator))
    if not found.domain.matches(A.domain) or not found.positive:
        raise ValueError(
            f"condition: expected a positive preconditioner of shape {A.shape} on {A.domain}, got {found!r} of shape "
            f"{found.shape} on {found.domain}; declare it with positive=True"
        )
    return found


def _target(base: Operator, power: int, A: Operator, M: Operator | None) -> tuple[Operator, Operator | None, int]:
    """Return the operator to project, a preconditioner left over, and the power that κ is of its own κ."""
    if M is None:
        return base, None, power
    if M.sqrt is None:
        return A, M, 1
    return (base @ M.sqrt, None, 2) if power == 2 else (M.sqrt.H @ A @ M.sqrt, None, 1)


def _result(ends: Ends, target: Operator, power: int, size: int, damping: float, confidence: float) -> Condition:
    """Turn the ends of a target with eigenvalues ``value^power + damping`` into an interval for κ."""
    values, (u, u_large) = ends.values, map(float, ends.round_off)
    largest, smallest = float(values[0]), float(values[-1])
    if target.positive and smallest < -u:
        raise NotPositive(
            f"condition: {target!r} is declared positive but has the Ritz value {smallest:.3e} < 0 "
            f"(largest: {largest:.3e})"
        )

    def eigenvalue(value: float) -> float:
        return max(value, 0.0) ** power + damping

    low, high = map(float, ends.enclosure)
    above = values[values > u]
    singular = len(above) < len(values) and not damping
    floor = eigenvalue(low - u)
    common = {
        "size": size,
        "largest": eigenvalue(largest),
        "smallest": eigenvalue(smallest),
        "noise_floor": u**power,
        "confidence": 1.0 if ends.certain else confidence,
        "num_matvecs": ends.num_matvecs,
        "method": ends.method,
    }
    if largest == 0 and not damping:
        nothing = {"lower": 1.0, "upper": math.inf, "estimate": math.inf, "resolved": 1.0, "rank": 0}
        return Condition(**nothing, **common, status=ConditionStatus.ZERO)
    finite = floor > 0 and high < math.inf and not singular
    return Condition(
        lower=max(1.0, eigenvalue(largest - u_large) / eigenvalue(max(smallest, 0.0) + u)),
        upper=eigenvalue(high + u_large) / floor if finite else math.inf,
        estimate=math.inf if singular else eigenvalue(largest) / eigenvalue(smallest),
        resolved=eigenvalue(largest) / eigenvalue(float(above[-1])) if len(above) else 1.0,
        rank=size if finite else len(above),
        status=(
            ConditionStatus.SINGULAR if singular else ConditionStatus.OK if finite else ConditionStatus.LOWER_BOUND
        ),
        **common,
    )
