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
from precondlab.errors import Status
from precondlab.krylov import SolverStatus
from precondlab.krylov.checks import require_integer
from precondlab.operator import Operator, as_operator
from precondlab.operators import Identity
from precondlab.preconditioners.preconditioner import require_damping, require_square
from precondlab.preconditioners.trial import Meter, Overspent, steps_promised, trial
from precondlab.spectrum import Condition, condition

__all__ = ["Candidate", "Design", "DesignStatus", "design"]

Maker = Callable[[Operator], Operator]

_RANKS = (10, 30, 100)  # tried for methods that need a rank
_SHARE = 0.5  # of the budget that a construction may take, as a rank


class DesignStatus(Status):
    """How a candidate fared; the value is advice."""

    OK = "the trial reached the tolerance"
    UNFINISHED = "the trial did not reach the tolerance within the budget; steps are extrapolated from κ"
    REFUSED = "the preconditioner could not be built or used for this operator: see the reason"


@dataclass(frozen=True)
class Candidate:
    """One preconditioner and what it does.

    Attributes
    ----------
    name
        Of the method, with its rank.
    preconditioner
        M, or None for the operator as it is (and for a candidate that was refused).
    setup_matvecs, setup_seconds
        Products with A and time spent on the construction: the products it declares or those seen, whichever are more.
    condition
        κ of ``M A`` as an interval, and the ends of its spectrum; None for a candidate that was refused.
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
        if self.best.condition is None:
            return f"nothing can be said of this operator: {self.best.reason}"
        plain = next(each for each in self.candidates if each.name == "none")
        if self.best is plain:
            return f"no preconditioner pays: {_products(plain)} without one"
        return (
            f"{self.best.name} needs {_products(self.best)}, {self.best.setup_matvecs} of them once, "
            f"against {_products(plain)} without a preconditioner"
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
        names = max(24, *(len(c.name) for c in self.candidates))
        lines = [
            f"{'':{names}} {'κ of M A':>24} {'its spectrum':>24} {'set-up':>7} {'seconds':>8} "
            f"{'predicted':>10} {'steps':>11} {'products':>9} {'seconds':>8}"
        ]
        for c in self.candidates:
            if c.condition is None:
                lines.append(f"{c.name:{names}} {c.reason}")
                continue
            kappa = f"[{c.condition.lower:.4g}, {c.condition.upper:.4g}]"
            spectrum = f"{c.condition.smallest:.3g} … {c.condition.largest:.3g}"
            steps = format(c.steps, ".4g") if c.status.ok else f"≈ {c.steps:.4g}"
            lines.append(
                f"{c.name:{names}} {kappa:>24} {spectrum:>24} {c.setup_matvecs:7d} {c.setup_seconds:8.2g} "
                f"{c.predicted:10.4g} {steps:>11} {c.num_matvecs:9.4g} {c.seconds:8.2g}"
            )
        return "\n".join([*lines, self.reason])


def _products(candidate: Candidate) -> str:
    if candidate.status.ok:
        return f"{candidate.num_matvecs:.0f} products"
    return f"more products than the budget (≈ {candidate.num_matvecs:.3g} by κ)"


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

    A trial builds the preconditioner, encloses κ of ``M A``, and makes steps of conjugate gradients until
    ``√(L/L₀) ≤ rtol``, the loss being ``L = ½‖x − x_k‖²_A`` with a random x in the parameters: a linear model
    trained from a random start, whose excess loss this is. As x is drawn the error is known exactly. (A random residual
    instead, ``b = Jᵀr``, would give every mode the same share of the loss, but its solution and so its error would
    not be known.) Modes with less than rtol² of the loss are not needed for it, ``condition`` sees them too.
    Candidates are ranked by products, which repeat exactly, not by seconds, which do not.

    Parameters
    ----------
    A
        Positive operator.
    budget
        Products with A that each candidate may spend on its construction and steps. A construction that asks for
        more is stopped.
    candidates
        More of them: name → operator M, or a function A ↦ M. Those of the library that need nothing but A (and
        a rank) are always tried. A function is given an operator that counts: see
        :class:`~precondlab.preconditioners.trial.Meter`.
    damping
        Added to A, and passed to methods that take it; positive for a singular A.
    rtol
        √(L/L₀) at which the trial ends: the error in the norm of A.
    generator
        For random preconditioners and x.

    Returns
    -------
    Design
        If A itself is refused, for it is not positive or not finite, that is the only candidate and the reason.

    Raises
    ------
    ValueError
        If A is not square or not declared positive, or for a budget, damping or tolerance out of range.

    Cost: per candidate, about ten, at most ``budget`` products with A for its construction and steps, ``budget`` for
    κ, one per step (half where A has a factor) to measure the error, and about twenty for checks.

    >>> from precondlab.operators import Diagonal
    >>> A = Diagonal(torch.logspace(0, 8, 40, dtype=torch.float64))
    >>> design(A, budget=100).best.condition.check().estimate
    1.0
    """
    A = as_operator(A)
    require_square("design", A)
    require_damping("design", damping)
    if not A.positive:
        raise ValueError(
            f"design: expected a positive operator, got {A!r}; take pl.Gram(J), declare positive=True where it is "
            "made, or wrap SciPy's by pl.as_operator(A, positive=True)"
        )
    budget = require_integer("design", "budget", budget, least=2)
    if not 0 < rtol < 1:
        raise ValueError(f"design: expected 0 < rtol < 1, got {rtol}")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    target = as_operator(A + damping * Identity(A.domain)) if damping else A
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    x = A.domain.random(generator=torch.Generator().manual_seed(seed))  # no Krylov space of a candidate starts there
    plain = _try("none", None, A, target, x, budget, rtol)
    if plain.condition is None:
        return Design((plain,), rtol)
    makers = {**dict(_library(A, budget, damping, generator)), **(candidates or {})}
    tried = [plain, *(_try(name, maker, A, target, x, budget, rtol) for name, maker in makers.items())]
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
    name: str,
    maker: LinearOperator | Maker | None,
    A: Operator,
    target: Operator,
    x: Tensor,
    budget: int,
    rtol: float,
) -> Candidate:
    """Build one preconditioner and measure it."""
    refused = Candidate(name, None, 0, 0.0, None, math.inf, 1, math.inf, math.inf, DesignStatus.REFUSED)
    meter, before, start = Meter(A, budget), A.num_matvecs, time.perf_counter()
    try:
        M = _make(maker, meter.operator)
        built = time.perf_counter() - start
        meter.open()
        setup = max(getattr(M, "setup_matvecs", 0), meter.spent, A.num_matvecs - before)
        inside = 0 if M is None else _inside(M, x, A, meter)
        steps = (budget - setup) // (1 + inside)
        if steps < 1:
            return replace(refused, reason=f"its construction takes {setup} products and leaves no step of {budget}")
        found = condition(target, preconditioner=M, num_matvecs=steps)
        made = trial(target, x, M=M, rtol=rtol, maxiter=steps)
    except Overspent:
        return replace(refused, reason=f"its construction takes more than the budget of {budget} products")
    except (ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        return replace(refused, reason=f"{type(error).__name__}: {error}")
    advice = f"{made.status.name.lower()}: {made.status.advice}"
    if made.status in (SolverStatus.INDEFINITE, SolverStatus.M_NOT_POSITIVE):
        return replace(refused, reason=advice)
    kappa = found.upper if found.upper < math.inf else found.lower
    predicted, steps, status = steps_promised(kappa, rtol=rtol), made.steps, DesignStatus.OK
    if not made.status.ok:
        steps, status = max(steps, predicted), DesignStatus.UNFINISHED
    seconds = built + made.seconds * steps / max(made.steps, 1)
    reason = "" if made.status.ok else advice
    return Candidate(name, M, setup, built, found, predicted, 1 + inside, steps, seconds, status, reason)


def _make(maker: LinearOperator | Maker | None, A: Operator) -> Operator | None:
    if maker is None or isinstance(maker, LinearOperator):
        return None if maker is None else as_operator(maker, like=A)
    return maker(A)


@torch.no_grad()
def _inside(M: Operator, x: Tensor, A: Operator, meter: Meter) -> int:
    """Return the products with A inside one with M."""
    seen, spent = A.num_matvecs, meter.spent
    M.forward(x[:, None])
    return max(A.num_matvecs - seen, meter.spent - spent)
