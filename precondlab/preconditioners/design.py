"""Try the preconditioners that apply to an operator and rank them by what a solution costs with each."""

from __future__ import annotations

import inspect
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.catalogue import factories
from precondlab.errors import Breakdown, Status
from precondlab.krylov import cg
from precondlab.operator import Operator, as_operator
from precondlab.operators import Identity
from precondlab.preconditioners.preconditioner import require_damping, require_square
from precondlab.spectrum import Condition, condition

__all__ = ["Candidate", "Design", "DesignStatus", "design"]

Maker = Callable[[Operator], Operator]

_RANKS = (10, 30, 100)  # tried for methods that need a rank
_SHARE = 0.5  # of the budget that a construction may take, as a rank


class DesignStatus(Status):
    """How a candidate fared; the value is advice."""

    OK = "the trial solve reached the tolerance"
    UNFINISHED = "the trial solve did not reach the tolerance within the budget; steps are extrapolated from κ"
    REFUSED = "the preconditioner could not be built for this operator: see the reason"


@dataclass(frozen=True)
class Candidate:
    """One preconditioner and what it does.

    Attributes
    ----------
    name
        Of the method, with its rank.
    preconditioner
        M, or None for the operator as it is (and for a candidate that could not be built).
    setup_matvecs, setup_seconds
        Products with A and time spent on the construction.
    condition
        κ of ``M A`` as an interval.
    predicted
        Steps of preconditioned conjugate gradients to the tolerance that κ promises: ``½ √κ ln(2/rtol)``, from its
        upper bound, or from the lower one where that is infinite.
    step_matvecs
        Products with A of a step: one, and those inside the preconditioner.
    steps
        Steps to the tolerance: measured if the status is OK, else the larger of those taken and ``predicted``.
    seconds
        Construction and steps together; extrapolated if the steps are.
    status, reason
        What happened.
    """

    name: str
    preconditioner: Operator | None
    setup_matvecs: int
    setup_seconds: float
    condition: Condition | None
    predicted: float
    step_matvecs: int
    steps: float
    seconds: float
    status: DesignStatus
    reason: str = ""

    @property
    def num_matvecs(self) -> float:
        """Products with A for the construction and the steps."""
        return self.setup_matvecs + self.step_matvecs * self.steps


@dataclass(frozen=True)
class Design:
    """Candidates, best first: those that finished by products, then the others by extrapolated products."""

    candidates: tuple[Candidate, ...]
    rtol: float

    @property
    def best(self) -> Candidate:
        """The winner."""
        return self.candidates[0]

    @property
    def preconditioner(self) -> Operator | None:
        """The winner's operator; None if nothing beats the operator as it is."""
        return self.best.preconditioner

    @property
    def reason(self) -> str:
        """Why the winner won."""
        plain = next(each for each in self.candidates if each.name == "none")
        if self.best is plain:
            return f"no preconditioner pays: {plain.num_matvecs:.0f} products without one"
        return (
            f"{self.best.name} needs {self.best.num_matvecs:.0f} products, {self.best.setup_matvecs} of them once, "
            f"against {plain.num_matvecs:.0f} without a preconditioner"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without the operators."""
        return {
            "best": self.best.name,
            "reason": self.reason,
            "rtol": self.rtol,
            "candidates": [
                {
                    "name": c.name,
                    "ok": c.status.ok,
                    "status": c.status.name,
                    "reason": c.reason,
                    "setup_matvecs": c.setup_matvecs,
                    "setup_seconds": c.setup_seconds,
                    "predicted": None if math.isinf(c.predicted) else c.predicted,
                    "step_matvecs": c.step_matvecs,
                    "steps": None if math.isinf(c.steps) else c.steps,
                    "seconds": None if math.isinf(c.seconds) else c.seconds,
                    "condition": None if c.condition is None else c.condition.to_dict(),
                }
                for c in self.candidates
            ],
        }

    def __str__(self) -> str:
        lines = [
            f"{'':24} {'κ of M A':>26} {'set-up':>8} {'predicted':>10} {'steps':>10} {'products':>10} {'seconds':>9}"
        ]
        for c in self.candidates:
            if c.condition is None:
                lines.append(f"{c.name:24} {c.reason}")
                continue
            interval = f"[{c.condition.lower:.4g}, {c.condition.upper:.4g}]"
            steps = format(c.steps, ".4g") if c.status.ok else f"≈ {c.steps:.4g}"
            lines.append(
                f"{c.name:24} {interval:>26} {c.setup_matvecs:8d} {c.predicted:10.4g} {steps:>10} "
                f"{c.num_matvecs:10.4g} {c.seconds:9.3g}"
            )
        return "\n".join([*lines, self.reason])


def design(
    A: LinearOperator,
    /,
    *,
    budget: int = 500,
    candidates: Mapping[str, Operator | Maker] | None = None,
    damping: float = 0.0,
    rtol: float = 1e-6,
    generator: torch.Generator | None = None,
) -> Design:
    """Try every preconditioner that applies to a positive operator, measure each, and rank them.

    A trial builds the preconditioner, encloses κ of ``M A``, and solves ``(A + damping I) x = b`` for a random
    right-hand side in the range of A by conjugate gradients. Candidates are ranked by products, which repeat
    exactly, not by seconds, which do not.

    Parameters
    ----------
    A
        Positive operator.
    budget
        Products with A that each candidate may spend on its construction and on its trial solve.
    candidates
        More of them: name → operator M, or a function A ↦ M. Those of the library that need nothing but A (and
        a rank) are always tried.
    damping
        Added to A, and passed to methods that take it; positive for a singular A.
    rtol
        Relative residual of the trial solve.
    generator
        For random preconditioners and the right-hand side.

    Raises
    ------
    ValueError
        If A is not square or not declared positive.

    Cost: at most 2 ``budget`` products with A per candidate, about ten candidates.

    >>> from precondlab.operators import Diagonal
    >>> A = Diagonal(torch.logspace(0, 8, 40, dtype=torch.float64))
    >>> design(A, budget=100).best.condition.check().estimate
    1.0
    """
    A = as_operator(A)
    require_square("design", A)
    require_damping("design", damping)
    if not A.positive:
        raise ValueError(f"design: expected a positive operator, got {A!r}; declare positive=True, or take pl.Gram(J)")
    if budget < 2:
        raise ValueError(f"design: budget should be ≥ 2 products, got {budget}")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    target = as_operator(A + damping * Identity(A.domain)) if damping else A
    b = target.forward(target.domain.random(1, generator=generator))[:, 0]
    makers: dict[str, Operator | Maker | None] = {"none": None, **dict(_library(A, budget, damping, generator))}
    makers |= candidates or {}
    tried = [_try(name, maker, A, target, b, budget, rtol) for name, maker in makers.items()]
    order = sorted(tried, key=lambda c: (c.condition is None, not c.status.ok, c.num_matvecs))
    return Design(tuple(order), rtol)


def _library(A: Operator, budget: int, damping: float, generator: torch.Generator) -> Iterator[tuple[str, Maker]]:
    """Yield the preconditioners of this package that can be built from an operator, and a rank, alone."""
    given: dict[str, Any] = {"damping": damping, "generator": generator}
    for name, factory in factories(sys.modules[__package__ or ""], "Operator").items():
        parameters = list(inspect.signature(factory).parameters.values())
        required = {p.name for p in parameters[1:] if p.default is p.empty}
        if parameters[0].name not in ("A", "K") or not required <= {"rank"}:
            continue
        options = {p.name: given[p.name] for p in parameters if p.name in given}
        if "rank" not in required:
            yield name, lambda A, factory=factory, options=options: factory(A, **options)
            continue
        for rank in _RANKS:
            if rank <= min(A.shape[0], _SHARE * budget):
                yield (
                    f"{name}, rank {rank}",
                    lambda A, factory=factory, options=options, rank=rank: factory(A, rank=rank, **options),
                )


def _try(
    name: str, maker: Operator | Maker | None, A: Operator, target: Operator, b: Tensor, budget: int, rtol: float
) -> Candidate:
    """Build one preconditioner and measure it."""
    refused = Candidate(name, None, 0, 0.0, None, math.inf, 1, math.inf, math.inf, DesignStatus.REFUSED)
    start, before = time.perf_counter(), A.num_matvecs
    try:
        M = maker if isinstance(maker, Operator | None) else maker(A)
        built = time.perf_counter() - start
        setup = getattr(M, "setup_matvecs", A.num_matvecs - before)
        if setup >= budget:
            return replace(refused, reason=f"its construction takes {setup} products, beyond the budget of {budget}")
        found = condition(target, preconditioner=M, num_matvecs=budget - setup)
        inside = A.num_matvecs
        if M is not None:
            M.forward(b[:, None])
        step_matvecs = 1 + A.num_matvecs - inside
        start = time.perf_counter()
        solution = cg(target, b, M=M, rtol=rtol, maxiter=(budget - setup) // step_matvecs)
        solved = time.perf_counter() - start
    except (ValueError, Breakdown, NotImplementedError) as error:
        return replace(refused, reason=f"{type(error).__name__}: {error}")
    kappa = found.upper if found.upper < math.inf else found.lower
    predicted = 0.5 * math.sqrt(kappa) * math.log(2 / rtol)
    steps, status = float(solution.steps), DesignStatus.OK
    if not solution.status.ok:
        steps, status = max(steps, predicted), DesignStatus.UNFINISHED
    seconds = built + solved * steps / max(solution.steps, 1)
    reason = "" if solution.status.ok else f"{solution.status.name.lower()}: {solution.status.advice}"
    return Candidate(name, M, setup, built, found, predicted, step_matvecs, steps, seconds, status, reason)
