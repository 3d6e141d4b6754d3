"""SPRING: damped Gauss–Newton steps that remember the last one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from precondlab.errors import Breakdown
from precondlab.map import Map
from precondlab.training.damping import krylov, linearization
from precondlab.training.optimizers.minimizer import Minimizer, Step
from precondlab.training.rows import routes, whole_bytes

__all__ = ["Spring", "SpringStep"]

_LARGEST_DENSE = 4096  # rows or parameters, whichever are fewer; beyond it a Krylov space takes their place
_MEMORY = 2**30  # bytes for rows of the Jacobian; beyond it as well


@dataclass(frozen=True)
class SpringStep(Step):
    """What one step of :class:`Spring` did.

    Attributes
    ----------
    rank
        Singular values used.
    condition
        ``(σ_1/σ_k)²`` of those.
    limit
        ``"rate"`` or ``"clip"``.
    """

    rank: int
    condition: float


class Spring(Minimizer):
    """Minimize ``½‖r(θ)‖²`` by Gauss–Newton steps damped towards the last one.

    ``φ_k = argmin ‖Jφ − r‖² + λ‖φ − μφ_{k−1}‖² = μφ_{k−1} + Jᵀ(JJᵀ + λ)⁻¹(r − μJφ_{k−1})``, then::

        ψ = φ_k/√(1 − μ²ᵏ),   θ ← θ − min(η, C/‖ψ‖) ψ.

    What this residual's rows do not see is kept from earlier ones: made for a fresh small batch in every step.
    For μ = 0 it is the damped step of least norm. There is no line search; the loss may rise.

    Parameters
    ----------
    residual
        The map r; its parameters are updated in place. It can be replaced between steps.
    lr
        η.
    damping
        λ, in units of σ², for quadrature-weighted rows usually 10⁻¹⁰ to 10⁻².
    momentum
        μ in [0, 1).
    clip
        C, the longest step, for batches so small that some steps are useless (√10⁻³ in the reference); None for none.

    Attributes
    ----------
    diagnostics : SpringStep or None
        What the last step did.

    Raises
    ------
    ValueError
        For parameters outside these ranges.
    Breakdown
        If the residual or its Jacobian is not finite; the parameters are left as they were.

    Cost per step: one singular value decomposition of J, of its rows if they are fewer than the parameters; with more
    than 4096 of both, or a map without points whose J takes a quarter of a gigabyte, 200 products with J and Jᵀ.
    Reference: Goldshlager, Abrahamsen & Lin (2024), doi:10.1016/j.jcp.2024.113351; Guzmán-Cordero, Dangel,
    Goldshlager & Zeinhofer (2025), arXiv:2505.12149.

    >>> import torch
    >>> a = torch.tensor([4.0], requires_grad=True)
    >>> Spring(Map(lambda p: p["a"] - 1.0, {"a": a}), lr=1.0, damping=1.0, momentum=0.0, clip=None).step(), a.tolist()
    (tensor(4.5000), [2.5])
    """

    def __init__(
        self,
        residual: Map,
        *,
        lr: float = 0.1,
        damping: float = 1e-6,
        momentum: float = 0.8,
        clip: float | None = None,
    ) -> None:
        if not (lr > 0 and damping > 0 and 0 <= momentum < 1 and (clip is None or clip > 0)):
            raise ValueError(
                "Spring: expected lr, damping and clip > 0 and momentum in [0, 1), "
                f"got {lr}, {damping}, {clip} and {momentum}"
            )
        defaults = {"lr": lr, "damping": damping, "momentum": momentum, "clip": clip}
        super().__init__(residual, defaults, previous=None, steps=0)
        self._routes: dict[str, str] | None = None

    def _step(self) -> float:
        (group,) = self.param_groups
        mu, steps = group["momentum"], self.solver["steps"] + 1
        carried = self.solver["previous"]
        carried = self.residual.domain.zeros() if carried is None else mu * carried
        phi, loss, rank, condition = self._solve(carried, group["damping"])
        psi = phi / (1 - mu ** (2 * steps)) ** 0.5
        norm = psi.norm().item()
        clipped = group["clip"] is not None and group["lr"] * norm > group["clip"]
        rate = group["clip"] / norm if clipped else group["lr"]
        self.move(self.point() - rate * psi)
        self.solver.update(previous=phi, steps=steps)
        self.diagnostics = SpringStep(loss, rate * norm, "clip" if clipped else "rate", rank, condition)
        return loss

    def _solve(self, carried: Tensor, damping: float) -> tuple[Tensor, float, int, float]:
        """Return φ for ``carried = μφ_{k−1}``, the loss, and rank and condition of what was solved."""
        m, n = self.residual.codomain.size, self.residual.domain.size
        if min(m, n) <= _LARGEST_DENSE and whole_bytes(self.residual) <= _MEMORY:
            if self._routes is None or self._routes.keys() != self.residual.codomain.shapes.keys():
                self._routes = routes(self.residual)
            model = linearization(self.residual, solver="dense", known=self._routes, memory_budget=_MEMORY)
            loss = _finite(model.loss)
            c = model.components - model.values * (model.basis.T @ carried)  # Uᵀ(r − J carried)
            phi = carried + model.basis @ (model.values * c / (model.values**2 + damping))
            return phi, loss, model.rank, model.condition
        loss = _finite(0.5 * self.residual.value.square().sum().item())
        J = self.jacobian(self.point())
        model = krylov(J, J.value - J.forward(carried[:, None])[:, 0])
        return carried - model.step(damping), loss, model.rank, model.condition


def _finite(loss: float) -> float:
    if not loss < float("inf"):
        raise Breakdown(f"Spring: the loss is {loss}; lower lr, check the residual, or start elsewhere")
    return loss
