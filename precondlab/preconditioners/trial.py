"""What a trial of a preconditioner needs: an operator that says what a construction spends, and steps to a loss."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from precondlab.errors import NotPositive
from precondlab.krylov import SolverStatus, cg
from precondlab.operator import Operator
from precondlab.operators import Gram, Jacobian, Kernel

__all__ = ["Meter", "Overspent", "Trial", "steps_promised", "trial"]


class Overspent(RuntimeError):
    """A construction asks for more products than it may take."""


class Meter:
    """Products with A that a construction takes, and a limit on them.

    Attributes
    ----------
    operator
        A again, of the same class and with the same parts. A product with it raises :class:`Overspent` instead of
        exceeding the limit; one with its factor, or with the J of a Gram operator, counts one half. Those with
        blocks of J, or with a copy that forms J, are not seen.
    spent
        Products up to now.
    limit
        Most products; infinite from :meth:`open` on.

    >>> from precondlab.operators import Diagonal
    >>> meter = Meter(Diagonal(torch.ones(3)), 2)
    >>> _ = meter.operator @ torch.ones(3)
    >>> meter.operator.dense()
    Traceback (most recent call last):
    ...
    precondlab.preconditioners.trial.Overspent: more than 2 products with Diagonal[3×3]
    >>> meter.spent
    1
    """

    def __init__(self, A: Operator, limit: float) -> None:
        self.limit, self._A, self._used = limit, A, 0.0
        self.operator = _metered(A, self, 1.0)

    @property
    def spent(self) -> int:
        return math.ceil(self._used)

    def open(self) -> None:
        """Go on counting without a limit."""
        self.limit = math.inf

    def pay(self, products: float) -> None:
        """Count products before they are made."""
        if self._used + products > self.limit:
            raise Overspent(f"more than {self.limit} products with {self._A!r}")
        self._used += products


class _Metered(Operator):
    """Mixed into the class of an operator: every product is paid for, and made by the operator itself."""

    _source: Operator
    _meter: Meter
    _price: float

    def forward(self, V: Tensor) -> Tensor:
        self._meter.pay(self._price * V.shape[1])
        self.num_matvecs += V.shape[1]
        return self._source.forward(V)

    def backward(self, U: Tensor) -> Tensor:
        self._meter.pay(self._price * U.shape[1])
        self.num_matvecs += U.shape[1]
        return self._source.backward(U)

    def dense(self) -> Tensor:
        self._meter.pay(self._price * min(self.shape))
        return self._source.dense()

    @property
    def sqrt(self) -> Operator | None:
        root = self._source.sqrt
        return None if root is None else _metered(root, self._meter, self._price / 2)


class _MeteredJacobian(_Metered):
    def gram(self, V: Tensor) -> Tensor:
        self._meter.pay(2 * self._price * V.shape[1])
        return self._source.gram(V)  # type: ignore[attr-defined]


def _metered(A: Operator, meter: Meter, price: float) -> Operator:
    """Return A, a product with which costs a price."""
    mixin = _MeteredJacobian if isinstance(A, Jacobian) else _Metered
    twin = cast(_Metered, object.__new__(type(type(A).__name__, (mixin, type(A)), {})))
    twin.__dict__.update(A.__dict__)
    twin._source, twin._meter, twin._price, twin.num_matvecs = A, meter, price, 0
    if isinstance(A, Gram | Kernel):
        vars(twin)["J"] = _metered(A.J, meter, price / 2)
    return twin


@dataclass(frozen=True)
class Trial:
    """Steps of conjugate gradients, whether they reached the tolerance (OK), and seconds without the measuring."""

    steps: int
    status: SolverStatus
    seconds: float


class _Reached(Exception):
    """The tolerance is reached."""


@torch.no_grad()
def trial(A: Operator, x: Tensor, /, *, M: Operator | None = None, rtol: float, maxiter: int) -> Trial:
    """Solve ``A x_k ≈ A x`` by conjugate gradients from zero until ``‖x − x_k‖_A ≤ rtol ‖x‖_A``.

    ``½‖x − x_k‖²_A`` is the loss of a linear model, less what no parameters can fit, where ``x − x_k`` are the errors
    of its parameters: the tolerance is √(L/L₀), which κ bounds and training sees. The residual ``A(x − x_k)`` has
    another factor √λ on every mode, and is small long before the hard ones are learned. As x is given, the error is
    measured, not estimated.

    Raises
    ------
    NotPositive
        If ``xᴴAx < 0``.
    Breakdown, ValueError
        As :func:`precondlab.krylov.cg`, for products that are not finite.

    Cost: a product with A and one with M per step, and to measure the error another with A, or with its factor.

    >>> from precondlab.operators import Diagonal
    >>> trial(Diagonal(torch.tensor([1.0, 4.0])), torch.ones(2), rtol=1e-3, maxiter=5).steps
    2
    """
    root = A.sqrt if A.positive else None

    def squared(e: Tensor) -> float:
        if root is not None:
            image = root.backward(e)
            return root.domain.dots(image, image).real.item()
        return A.domain.dots(e, A.forward(e)).real.item()

    first, steps, measuring = squared(x[:, None]), 0, 0.0
    if first < 0:
        raise NotPositive(f"{A!r} is declared positive but xᴴAx = {first:.3e} < 0 for a random x")
    if first == 0:
        return Trial(0, SolverStatus.OK, 0.0)

    def watch(found: Tensor) -> None:
        nonlocal steps, measuring
        began = time.perf_counter()
        steps += 1
        left = squared((x - found)[:, None])
        measuring += time.perf_counter() - began
        if left <= rtol**2 * first:
            raise _Reached

    start = time.perf_counter()
    try:
        status = cg(A, A.forward(x[:, None])[:, 0], M=M, rtol=0.0, maxiter=maxiter, callback=watch).status
    except _Reached:
        status = SolverStatus.OK
    else:
        status = SolverStatus.STAGNATED if status.ok else status
    return Trial(steps, status, time.perf_counter() - start - measuring)


def steps_promised(kappa: float, /, *, rtol: float) -> int:
    """Return how many steps of conjugate gradients reduce any error in the norm of A by ``rtol``: ``√κ ln(2/rtol)/2``.

    >>> steps_promised(100.0, rtol=2e-6)
    70
    """
    return math.ceil(0.5 * math.sqrt(kappa) * math.log(2 / rtol))
