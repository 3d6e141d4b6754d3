"""The loop around every linear solver: columns that start, stop, are verified, restarted and judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.krylov.checks import dots, repeat_error, require_finite, require_integer, require_symmetric
from precondlab.krylov.solution import Solution, SolverStatus
from precondlab.operator import Operator, as_operator
from precondlab.operators import Identity, VStack
from precondlab.space import Space

__all__ = ["Columns", "Method", "System", "solve"]

_CHECKED_FROM = 80  # products after which four more for checks are 5 %
_NOISE = 100  # multiples of ε from which two equal products count as different

C = TypeVar("C", bound="Columns")


@dataclass
class Columns:
    """State of a recurrence: every field is columnwise, a tensor ``[n j]`` or a host array ``[j]``.

    Attributes
    ----------
    x
        Iterates.
    norms
        Norms of the residuals, as the recurrence knows them.
    index
        Which right-hand side a column belongs to.
    outcome
        A status where the recurrence cannot or need not go on, else None.
    """

    x: Tensor
    norms: np.ndarray
    index: np.ndarray
    outcome: np.ndarray

    def keep(self: C, positions: np.ndarray) -> C:
        """Return the state of the columns at these positions."""
        return replace(self, **{f.name: getattr(self, f.name)[..., positions] for f in fields(self)})

    def put(self: C, positions: np.ndarray, other: C) -> None:
        """Overwrite the columns at these positions."""
        for f in fields(self):
            getattr(self, f.name)[..., positions] = getattr(other, f.name)


class System:
    """``A X = B`` as a solver sees it: on the device, in blocks, every column scaled by a power of two to about 1."""

    def __init__(
        self,
        name: str,
        A: LinearOperator,
        b: Any,
        *,
        x0: Any,
        rtol: float,
        atol: float,
        maxiter: int | None,
        M: LinearOperator | None,
        square: bool = True,
    ) -> None:
        self.name = name
        self.A: Operator = as_operator(A)
        self.M = None if M is None else as_operator(M, like=self.A)
        m, n = self.A.shape
        if square and m != n:
            raise ValueError(f"{name}: expected a square operator, got {self.A!r}; use lsqr")
        if self.M is not None and not (self.M.domain.matches(self.A.domain) and self.M.shape == (n, n)):
            raise ValueError(f"{name}: M should act on {self.A.domain}, got {self.M!r} on {self.M.domain}")
        for option, value in (("rtol", rtol), ("atol", atol)):
            if not isinstance(value, (int, float, np.number)) or not value >= 0:
                raise ValueError(f"{name}: {option} should be a number ≥ 0, got {value!r}")
        self.maxiter = 10 * n if maxiter is None else require_integer(name, "maxiter", maxiter, least=0)
        self.used = self.A.num_matvecs
        self.tensor = isinstance(b, Tensor)
        B, self.vector = self._enter(b, m, "b")
        X = self.A.domain.zeros(B.shape[1]) if x0 is None else self._enter(x0, n, "x0")[0]
        if X.shape[1] != B.shape[1]:
            raise ValueError(f"{name}: x0 has {X.shape[1]} columns, b has {B.shape[1]}; give as many")
        peak = B.abs().amax(0).double().numpy(force=True) if m else np.zeros(B.shape[1])
        if not np.isfinite(peak).all():
            raise ValueError(f"{name}: b is not finite; check what it was computed from")
        self.scale = np.exp2(np.floor(np.log2(np.where(peak > 0, peak, 1))))
        self.B, self.X = B / self.host(self.scale), X / self.host(self.scale)
        self.norms = self.size(self.B)
        with np.errstate(over="ignore"):
            self.tolerance = np.maximum(rtol * self.norms, atol / self.scale)

    def _enter(self, value: Any, size: int, name: str) -> tuple[Tensor, bool]:
        space = self.A.domain
        if not isinstance(value, Tensor):
            array = np.asarray(value)
            if array.dtype.kind not in ("biufc" if space.dtype.is_complex else "biuf"):
                raise TypeError(f"{self.name}: {name} should hold numbers like {space.dtype}, got {array.dtype}")
            value = torch.from_numpy(np.array(array, dtype=space.numpy_dtype, order="C")).to(space.device)
        elif (value.dtype, value.device) != (space.dtype, space.device):
            raise TypeError(
                f"{self.name}: {name} should be {space.dtype} on {space.device} like the operator, "
                f"got {value.dtype} on {value.device}; use .to(...)"
            )
        if value.dim() not in (1, 2) or value.shape[0] != size:
            raise ValueError(
                f"{self.name}: {name} should have shape ({size},) or ({size}, k), got {tuple(value.shape)}"
            )
        value = value.detach()
        return (value, False) if value.dim() == 2 else (value[:, None], True)

    def host(self, values: np.ndarray) -> Tensor:
        """Return numbers ``[k]`` from the host as a factor of columns ``[1 k]``."""
        return torch.as_tensor(values, device=self.A.domain.device).to(self.A.domain.dtype)[None]

    def size(self, V: Tensor) -> np.ndarray:
        """Return the norms of columns of the codomain."""
        return self.norm(V, self.A.codomain)

    def norm(self, V: Tensor, space: Space) -> np.ndarray:
        """Return the norms of columns of a space."""
        return dots(space, (V, V))[0] ** 0.5

    def damp(self, factor: float) -> None:
        """Put ``factor·I`` below A and zeros below B."""
        self.A = VStack(self.A, factor * Identity(self.A.domain))
        self.used = 0
        self.B = torch.cat([self.B, self.A.domain.zeros(self.B.shape[1])])

    def residual(self, X: Tensor, index: np.ndarray) -> Tensor:
        """Return ``B − A X`` for some columns; one product."""
        R = self.B[:, index] - self.A.forward(X)
        require_finite(self.size(R), self.A, self.products)
        return R

    @property
    def products(self) -> int:
        """Products with A since the start."""
        return self.A.num_matvecs - self.used

    def leave(self, X: Tensor) -> Any:
        """Return columns in the caller's units and kind."""
        X = X * self.host(self.scale)
        X = X[:, 0] if self.vector else X
        return X if self.tensor else X.numpy(force=True)

    def number(self, values: np.ndarray) -> Any:
        """Return per-column numbers, one number for a vector b."""
        return float(values[0]) if self.vector else values


class Method(ABC, Generic[C]):
    """A recurrence on a block of independent columns.

    Attributes
    ----------
    hermitian
        Whether the recurrence assumes A = Aᴴ.
    norm
        Lower bound on ``‖A‖`` seen so far.
    least
        Size of the relative gradient at which a column may end as LEAST_SQUARES.
    minimizer
        What a verified LEAST_SQUARES is to the caller.
    steps
        Coefficients of the steps of every column, in its first run.
    """

    hermitian = True
    minimizer = SolverStatus.LEAST_SQUARES

    def __init__(self, system: System, *, least: float = 0.0) -> None:
        k = system.B.shape[1]
        self.system = system
        self.least = least
        self.norm = 0.0
        self.steps: list[list[tuple[float, ...]]] = [[] for _ in range(k)]
        self.runs = np.zeros(k, dtype=int)

    @abstractmethod
    def start(self, x: Tensor, r: Tensor, index: np.ndarray) -> C:
        """Return the state that starts from iterates x with residuals r."""

    @abstractmethod
    def step(self, s: C) -> None:
        """Advance every column by one step, in place."""

    def stop(self, s: C, r: Tensor) -> None:
        """Take note of columns that end, with their true residuals r."""

    def optimality(self, r: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return the relative and the absolute gradient norms of residuals r."""
        raise NotImplementedError

    def record(self, s: C, which: np.ndarray, *coefficients: np.ndarray) -> None:
        """Keep the coefficients of a step for the columns in their first run."""
        for i in np.flatnonzero(which & (self.runs[s.index] == 1)):
            self.steps[s.index[i]].append(tuple(values[i] for values in coefficients))

    def coefficients(self) -> list[np.ndarray]:
        """Return the coefficients of every column as rows ``[count, steps]``."""
        return [np.array(steps).reshape(len(steps), -1).T if steps else np.zeros((2, 0)) for steps in self.steps]


@torch.no_grad()
def solve(system: System, method: Method, *, callback: Callable[[Any], object] | None = None) -> Solution:
    """Run a recurrence until every column has ended, and say how.

    A column that meets its tolerance is verified by a product of its own; if the true residual does not meet it, the
    recurrence restarts from there, as long as that halves the true residual. A column ends at once when the recurrence
    gives it an outcome. Columns that fail are examined: symmetric, repeatable, at round-off?
    """
    k = system.B.shape[1]
    everything = np.arange(k)
    X = system.X.clone()
    X[:, system.norms == 0] = 0
    R = system.residual(X, everything) if bool((X != 0).any()) else system.B.clone()
    true = system.size(R)
    status = np.full(k, SolverStatus.MAXITER, dtype=object)
    status[true <= system.tolerance] = SolverStatus.OK
    live = np.flatnonzero(true > system.tolerance)
    floor = np.maximum(system.tolerance, system.A.domain.eps * system.norms)
    state = method.start(X[:, live], R[:, live], live)
    history = [true.copy()]
    checked = system.A.symmetric or not method.hermitian

    relative, gradient = np.full(k, np.inf), np.full(k, np.nan)

    def verify(positions: np.ndarray, last: bool) -> np.ndarray:
        """Return which of these columns have ended; restart the others from their true residuals."""
        index, x = state.index[positions], state.x[:, positions]
        R = system.residual(x, index)
        before, true[index] = true[index], system.size(R)
        history[-1][index] = true[index]
        met = true[index] <= system.tolerance[index]
        stalled = true[index] > 0.5 * before
        outcome = state.outcome[positions]
        least = np.flatnonzero((outcome == SolverStatus.LEAST_SQUARES) & ~met)
        if len(least):
            j = index[least]
            previous, (relative[j], gradient[j]) = relative[j], method.optimality(R[:, least])
            stalled[least] = relative[j] > 0.5 * previous
            outcome[least] = [method.minimizer if size <= method.least else None for size in relative[j]]
        ended = met | stalled | (outcome != None) | last  # noqa: E711 (elementwise)
        for i, j in enumerate(index):
            if met[i]:
                status[j] = SolverStatus.OK
            elif outcome[i] is not None:
                status[j] = outcome[i]
            elif stalled[i] and not last:
                status[j] = SolverStatus.STAGNATED
        X[:, index[ended]] = x[:, ended]
        method.stop(state.keep(positions[ended]), R[:, ended])
        again = ~ended
        if again.any():
            state.put(positions[again], method.start(x[:, again], R[:, again], index[again]))
        return positions[ended]

    for _ in range(system.maxiter):
        if not len(state.index):
            break
        method.step(state)
        history.append(history[-1].copy())
        history[-1][state.index] = state.norms
        if callback is not None:
            X[:, state.index] = state.x
            callback(system.leave(X))
        candidates = (state.norms <= floor[state.index]) | (state.outcome != None)  # noqa: E711
        if candidates.any():
            ended = verify(np.flatnonzero(candidates), last=False)
            state = state.keep(np.setdiff1d(np.arange(len(state.index)), ended))
        if not checked and system.products >= _CHECKED_FROM:
            require_symmetric(system.A)
            checked = True
    if len(state.index):
        verify(np.arange(len(state.index)), last=True)
    noise = _examine(system, method, X, np.fmin(true, gradient / (method.norm or 1)), status, checked)
    factor = system.scale
    return Solution(
        x=system.leave(X),
        status=max(status, key=list(SolverStatus).index, default=SolverStatus.OK),
        statuses=tuple(status),
        residual_norm=system.number(true * factor),
        relative_residual=system.number(true / np.where(system.norms > 0, system.norms, 1)),
        tolerance=system.number(system.tolerance * factor),
        num_matvecs=system.products,
        gradient_norm=None if np.isnan(gradient).all() else system.number(gradient * factor),
        history=np.array(history)[:, 0] * factor[0] if system.vector else np.array(history) * factor,
        noise=noise,
    )


def _examine(
    system: System, method: Method, X: Tensor, true: np.ndarray, status: np.ndarray, checked: bool
) -> float | None:
    """Find out why columns failed; refine STAGNATED. Cost: up to 7 products, none if all is well."""
    if all(s.ok or s is SolverStatus.LEAST_SQUARES for s in status):
        return None
    if not checked:
        require_symmetric(system.A)
    noise = repeat_error(system.A)
    eps = system.A.domain.eps
    attainable = _NOISE * eps * (method.norm * system.norm(X, system.A.domain) + system.norms)
    for j in np.flatnonzero(status == SolverStatus.STAGNATED):
        if noise > _NOISE * eps:
            status[j] = SolverStatus.NOISY
        elif true[j] <= attainable[j]:
            status[j] = SolverStatus.ROUND_OFF
    return noise
