"""What the quasi-Newton methods share: a direction from past gradients, a Wolfe search, and a fresh start."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from precondlab.differentiation.graph import Graph
from precondlab.training.optimizers.line_search import SearchStep, strong_wolfe
from precondlab.training.optimizers.minimizer import Evaluation, Minimizer, pieces

__all__ = ["QuasiNewton"]


class QuasiNewton(Minimizer):
    """Minimize along ``d = −H∇L``, H made of past steps s and changes of the gradient y.

    A subclass writes :meth:`_direction`, :meth:`_update` and :meth:`_restart`. The first length tried is ``lr``. Both
    gradients of a pair (s, y) belong to one residual, so replacing it between steps does not spoil the pair.
    """

    @abstractmethod
    def _direction(self, here: Evaluation) -> Tensor:
        """Return ``−H∇L`` ``[n]``."""

    @abstractmethod
    def _update(self, here: Evaluation, s: Tensor, y: Tensor, length: float) -> None:
        """Learn from a step ``s = αd`` of length α along which the gradient changed by y, ``sᵀy > 0``."""

    @abstractmethod
    def _restart(self, here: Evaluation) -> None:
        """Forget all steps."""

    @property
    @abstractmethod
    def _memory(self) -> int:
        """Number of steps that H is made of."""

    def _step(self) -> float:
        here, rate, trials, restarts = self.here(), self.param_groups[0]["lr"], 0, 0
        while True:
            memory = self._memory
            direction = rate * self._direction(here)
            search = strong_wolfe(self.evaluate, here, direction)
            trials += search.trials
            if search.length or not memory:
                break
            self._restart(here)
            restarts += 1
        if search.length:
            s, y = search.end.point - here.point, search.end.gradient - here.gradient
            if (s @ y).item() > here.residual.domain.eps * (s.norm() * y.norm()).item():
                self._update(here, s, y, rate * search.length)
            self.move(search.end.point)
            self._last = search.end
        moved = (search.end.point - here.point).norm().item()
        self.diagnostics = SearchStep(here.loss, moved, search.limit, search.end.loss, trials, memory, restarts)
        return here.loss


def cauchy(here: Evaluation) -> float:
    """Return ``‖g‖²/‖Jg‖²``: the step along −g that minimizes ``½‖r + Jd‖²``; ``1/‖g‖`` if J g = 0.

    Cost: one evaluation of r and two backward passes.
    """
    residual, g = here.residual, here.gradient
    scale, square = residual.scale(), 0.0
    for rows, points in pieces(residual):
        graph = Graph(residual.raw(points), residual.domain.unravel(here.point), residual.domain)
        square += (graph.jvp(g[:, None])[:, 0] * scale[rows]).square().sum().item()
    if square > 0:
        return (g @ g).item() / square
    return 1 / (g.norm().item() or 1.0)
