"""Newton's method on the Gauss–Newton matrix, solved by conjugate gradients with a Nyström preconditioner."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from precondlab.krylov import cg
from precondlab.krylov.checks import require_integer
from precondlab.krylov.solution import SolverStatus
from precondlab.map import Map
from precondlab.operator import Operator
from precondlab.operators import Gram, Identity, Jacobian
from precondlab.preconditioners.lowrank import nystrom
from precondlab.preconditioners.preconditioner import Preconditioner
from precondlab.preconditioners.spectral import SpectralUpdate
from precondlab.training.optimizers.line_search import armijo
from precondlab.training.optimizers.minimizer import Evaluation, Minimizer, Step

__all__ = ["NewtonCG", "NewtonStep"]


@dataclass(frozen=True)
class NewtonStep(Step):
    """What one step of :class:`NewtonCG` did.

    Attributes
    ----------
    reached
        ``½‖r‖²`` after it.
    damping
        μ of the system.
    solver
        How conjugate gradients ended.
    iterations
        Of conjugate gradients.
    trials
        Lengths tried.
    age
        Steps since the preconditioner was made; 0 if it was made in this one.
    limit
        ``"damping"`` (the full step was taken), ``"solver"`` (the full step, but the linear solver did not
        reach its tolerance), ``"nonlinearity"`` (a longer one does not reduce the loss enough) or ``"stationary"`` (no
        length does: no step).
    """

    reached: float
    damping: float
    solver: SolverStatus
    iterations: int
    trials: int
    age: int


class NewtonCG(Minimizer):
    """Minimize ``½‖r(θ)‖²`` by steps ``δ = −(JᵀJ + μ)⁻¹Jᵀr`` that are solved matrix-free.

    Conjugate gradients start from the last step and are preconditioned by a randomized Nyström approximation of
    ``JᵀJ``, made again after ``every`` steps and whenever the solver or the line search failed. ``μ = damping · ½‖r‖²``
    falls with the loss, so that steps become Gauss–Newton steps near a solution. The length is ``lr``, halved until
    Armijo's condition holds.

    Parameters
    ----------
    residual
        The map r; its parameters are updated in place. It can be replaced between steps.
    lr
        First length tried.
    damping
        μ in units of the loss, ≥ 0.
    rank
        Of the Nyström approximation; at most the number of parameters is used.
    every
        Steps after which it is made again.
    rtol, maxiter
        Of conjugate gradients; the tolerance is relative to ``‖Jᵀr‖``.

    Attributes
    ----------
    diagnostics : NewtonStep or None
        What the last step did.

    Raises
    ------
    ValueError
        For parameters outside their ranges.
    Breakdown
        If loss or gradient is not finite; the parameters are left as they were.

    The approximation and all options are saved and loaded with the state, so that a resumed run is the uninterrupted
    one bit for bit, also on another residual than that for which the approximation was made.

    Cost per step: one product with J and Jᵀ per iteration, ``rank`` of them when the preconditioner is made; two
    evaluations of r and one backward pass. Memory ``n · rank`` numbers.
    Reference: Rathore, Lei, Frangella, Lu & Udell (2024), arXiv:2402.01868; for μ Yamashita & Fukushima (2001),
    doi:10.1007/978-3-7091-6217-0_18.

    >>> import torch
    >>> a = torch.tensor([4.0], requires_grad=True)
    >>> optimizer = NewtonCG(Map(lambda p: p["a"] ** 2 - 4.0, {"a": a}))
    >>> for _ in range(9):
    ...     loss = optimizer.step()
    >>> a.tolist(), optimizer.diagnostics.limit
    ([2.0], 'stationary')
    """

    def __init__(
        self,
        residual: Map,
        *,
        lr: float = 1.0,
        damping: float = 1.0,
        rank: int = 60,
        every: int = 20,
        rtol: float = 1e-3,
        maxiter: int = 200,
    ) -> None:
        if not (lr > 0 and damping >= 0 and 0 < rtol < 1):
            raise ValueError(f"NewtonCG: expected lr > 0, damping ≥ 0 and 0 < rtol < 1, got {lr}, {damping} and {rtol}")
        for name, count in {"rank": rank, "every": every, "maxiter": maxiter}.items():
            require_integer("NewtonCG", name, count)
        defaults = {"lr": lr, "damping": damping, "rank": rank, "every": every, "rtol": rtol, "maxiter": maxiter}
        super().__init__(residual, defaults, previous=None, basis=None, values=None, rest=0.0, age=0)

    def _step(self) -> float:
        here, (group,), solver = self.here(), self.param_groups, self.solver
        mu = group["damping"] * here.loss
        if not here.gradient.any():
            nothing = (SolverStatus.OK, 0, 0, solver["age"])
            self.diagnostics = NewtonStep(here.loss, 0.0, "stationary", here.loss, mu, *nothing)
            return here.loss
        J = self.jacobian(here.point)
        M = self._preconditioner(J, mu)
        direction, status, iterations = self._solve(J, here, mu, M)
        length, reached, trials = armijo(self.residual, here, direction, group["lr"])
        age = solver["age"]
        solver.update(previous=direction if length else None, age=age + 1)
        if not length or not status.ok:
            solver.update(basis=None)
        self.move(here.point + length * direction)
        limit = "stationary" if not length else "nonlinearity" if trials > 1 else "damping" if status.ok else "solver"
        moved = length * direction.norm().item()
        self.diagnostics = NewtonStep(here.loss, moved, limit, reached, mu, status, iterations, trials, age)
        return here.loss

    def _solve(self, J: Jacobian, here: Evaluation, mu: float, M: Operator) -> tuple[Tensor, SolverStatus, int]:
        """Return a descent direction, how the solver ended, and its iterations."""
        A: Operator = Gram(J) + mu * Identity(J.domain) if mu else Gram(J)
        (group,) = self.param_groups
        options = {"rtol": group["rtol"], "maxiter": group["maxiter"], "M": M}
        iterations = 0
        for x0 in (self.solver["previous"], None):
            solution = cg(A, -here.gradient, x0=x0, **options)
            iterations += solution.steps
            if x0 is None or (here.gradient @ solution.x).item() < 0:
                break
        return solution.x, solution.status, iterations

    def _preconditioner(self, J: Jacobian, mu: float) -> Operator:
        """Return the preconditioner, made again if it is stale."""
        (group,), solver = self.param_groups, self.solver
        if solver["basis"] is None or solver["age"] >= group["every"]:
            M = nystrom(Gram(J), rank=min(group["rank"], J.shape[1]), damping=mu)
            assert isinstance(M, Preconditioner) and isinstance(M.operator, SpectralUpdate)  # that is what it returns
            solver.update(basis=M.operator.U, values=M.operator.values, rest=M.operator.rest, age=0)
        return SpectralUpdate(*(solver[name] for name in ("basis", "values", "rest")))
