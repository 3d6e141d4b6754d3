"""Limited-memory BFGS that says why it stands still."""

from __future__ import annotations

from torch import Tensor

from precondlab.map import Map
from precondlab.training.optimizers.minimizer import Evaluation, require_rate
from precondlab.training.optimizers.quasi_newton import QuasiNewton, cauchy

__all__ = ["LBFGS"]


class LBFGS(QuasiNewton):
    """Minimize ``½‖r(θ)‖²`` along ``d = −H∇L``, H the BFGS inverse Hessian of the last steps.

    All tests are relative: ``torch.optim.LBFGS`` drops curvature ``sᵀy ≤ 10⁻¹⁰`` and ends its line search on brackets
    of 10⁻⁹, whatever the tolerances asked for, and so stands still without a word once the loss is small. Here, if no
    step reduces the loss, the memory is forgotten and the search is along the gradient; if that fails too, the
    parameters stay and ``diagnostics.limit`` is ``"stationary"``. One call is one iteration with its line search.

    Parameters
    ----------
    residual
        The map r; its parameters are updated in place. It can be replaced between steps.
    lr
        First length tried.
    memory
        Number of pairs (s, y) kept.

    Attributes
    ----------
    diagnostics : SearchStep or None
        What the last step did.

    Raises
    ------
    ValueError
        If lr is not positive or the memory less than one pair.
    Breakdown
        If loss or gradient is not finite; the parameters are left as they were.

    Cost per step: about one evaluation of r and one backward pass, ``4n·memory`` operations; memory ``2n·memory``
    numbers.
    Reference: Liu & Nocedal (1989), doi:10.1007/BF01589116.

    >>> import torch
    >>> a = torch.tensor([4.0], requires_grad=True)
    >>> optimizer = LBFGS(Map(lambda p: p["a"] ** 2 - 4.0, {"a": a}))
    >>> for _ in range(9):
    ...     loss = optimizer.step()
    >>> a.tolist(), optimizer.diagnostics.limit
    ([2.0], 'stationary')
    """

    def __init__(self, residual: Map, *, lr: float = 1.0, memory: int = 50) -> None:
        require_rate("LBFGS", lr)
        if memory < 1:
            raise ValueError(f"LBFGS: expected a memory of at least one pair, got {memory}")
        super().__init__(residual, {"lr": lr, "memory": memory}, steps=[], changes=[], first=1.0)

    @property
    def _memory(self) -> int:
        return len(self.solver["steps"])

    def _restart(self, here: Evaluation) -> None:
        self.solver.update(steps=[], changes=[])

    def _direction(self, here: Evaluation) -> Tensor:
        if not self._memory:
            self.solver["first"] = cauchy(here)
        return -inverse_hessian(self.solver["steps"], self.solver["changes"], here.gradient, self.solver["first"])

    def _update(self, here: Evaluation, s: Tensor, y: Tensor, length: float) -> None:
        keep = self.param_groups[0]["memory"]
        steps, changes = [*self.solver["steps"], s][-keep:], [*self.solver["changes"], y][-keep:]
        self.solver.update(steps=steps, changes=changes, first=(s @ y).item() / (y @ y).item())


def inverse_hessian(steps: list[Tensor], changes: list[Tensor], g: Tensor, first: float) -> Tensor:
    """Return ``Hg`` for the BFGS updates of ``first · I`` by pairs (s, y), the oldest first; ``sᵀy > 0``.

    >>> import torch
    >>> s, y = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 1.0])
    >>> inverse_hessian([s], [y], y, 1.0)
    tensor([1., 0.])
    """
    pairs = list(zip(steps, changes, strict=True))
    weights = []
    for s, y in reversed(pairs):
        weights.append((s @ g) / (s @ y))
        g = g - weights[-1] * y
    g = first * g
    for s, y in pairs:
        g = g + (weights.pop() - (y @ g) / (s @ y)) * s
    return g
