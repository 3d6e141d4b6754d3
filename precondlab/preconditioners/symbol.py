"""The preconditioner of the PDE: divide each Fourier coefficient by the size of the symbol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from precondlab.operators import Diagonal, Jacobian
from precondlab.preconditioners.state import Stateful

if TYPE_CHECKING:
    from precondlab.models.fourier import FourierSeries
    from precondlab.problems import Problem
    from precondlab.symbol import Symbol

__all__ = ["symbol"]

_ROUND_OFF = 1e3  # units of rounding below which a mode counts as not seen


def symbol(
    problem: Problem,
    model: FourierSeries,
    /,
    *,
    weights: Mapping[str, float] | None = None,
    kernel: float | Tensor | None = None,
    threshold: float = 1e-4,
) -> Diagonal:
    """Precondition a Fourier model by the symbol σ of the differential operator.

    On an orthonormal Fourier basis ``D*D`` is ``diag(|σ(k)|²)`` and each condition adds
    ``λ ‖φ_k‖²`` to the diagonal of A. By default

        ``P_k = (|σ(k)|² + Σ_b λ_b ‖B_b φ_k‖²)^{-1/2}``,

    so that PAP has unit diagonal: modes in or near the kernel of D are scaled by what the
    conditions see of them, and κ does not depend on the frequencies nor on resonances. P belongs to
    the weights λ it is built with, and works best where these are small (λ ≲ 1).

    With ``kernel=γ`` it is the P of De Ryck et al.: ``1/|σ(k)|``, and γ where
    ``|σ(k)| ≤ threshold``.

    Use the result M = P² as ``M=`` in solvers, as ``preconditioner=`` in
    :func:`~precondlab.condition` (κ of PAP) and in optimizers (``θ ← θ − η M∇L``). ``M.sqrt`` is P:
    ``P.H @ A @ P`` is the operator in the coordinates ``θ = Pθ̂``, and
    ``fourier(..., scale=P.entries)`` multiplies the features by P instead.

    Parameters
    ----------
    problem
        Linear problem, or a nonlinear one with the symbol of its linear part.
    model
        Fourier model, linear in its coefficients.
    weights
        λ of the conditions (default 1), as given to ``problem.residual``.
    kernel
        γ: one number, or one per coefficient ``[n]``.
    threshold
        Size of ``|σ(k)|`` below which a mode counts as kernel; only with ``kernel``.

    Raises
    ------
    ValueError
        If the problem has no symbol, the model no wave vectors, a mode is in the kernel of D and
        invisible to every condition, or γ is not positive.

    Cost: one column norm of each condition's Jacobian, no product with A.
    Reference: De Ryck, Bonnet, Mishra & de Bézenac (2024), arXiv:2310.05801.

    >>> from precondlab import models, problems
    >>> M = symbol(problems.poisson(dim=1), models.fourier(2), kernel=20.0)
    >>> M.sqrt.entries.tolist()  # in the order of the model: 1, cos x, cos 2x, sin x, sin 2x
    [20.0, 1.0, 0.25, 1.0, 0.25]
    """
    sigma = getattr(problem, "symbol", None)
    if sigma is None:
        raise ValueError(
            f"symbol: the problem {getattr(problem, 'name', problem)!r} has no constant-coefficient part; "
            "choose a preconditioner built from the matrix instead"
        )
    require_fourier("symbol", model)
    size = sigma(model.wavevectors).abs() * model.scale
    if kernel is not None:
        gamma = torch.as_tensor(kernel, dtype=size.dtype, device=size.device)
        if gamma.shape not in ((), size.shape) or not ((gamma > 0) & gamma.isfinite()).all():
            raise ValueError(
                f"symbol: expected kernel=γ > 0, a number or one for each of {len(size)} coefficients, got {kernel}"
            )
        P = torch.where(size > threshold, 1 / size.clamp_min(threshold), gamma)
    else:
        seen = seen_by_conditions(problem, model, weights or {})
        require_seen("symbol", model, size <= _ROUND_OFF * eps(size) * _terms(sigma, model), seen)
        P = (size**2 + seen).rsqrt()
    return Multipliers(P**2)


class Multipliers(Stateful, Diagonal):
    """Multiplication of each Fourier coefficient by a number, which can be saved."""


def require_fourier(caller: str, model: object) -> None:
    """Raise unless a model has wave vectors."""
    if not hasattr(model, "wavevectors"):
        raise ValueError(
            f"{caller}: expected a Fourier model (pl.models.fourier), got {type(model).__name__}: "
            "the symbol acts on Fourier coefficients"
        )


def require_seen(caller: str, model: FourierSeries, kernel: Tensor, seen: Tensor) -> None:
    """Raise if a mode is in the kernel of D, as told ``[n]``, and to round-off invisible to every condition."""
    lost = kernel & (seen <= (_ROUND_OFF * eps(seen)) ** 2 * seen.max())
    if lost.any():
        raise ValueError(
            f"{caller}: the modes with wave vectors {model.wavevectors[lost].tolist()[:3]} are in the kernel of the "
            "differential operator and invisible to every condition; add a condition that fixes them or pass kernel=γ"
        )


def eps(x: Tensor) -> float:
    """Return the unit of rounding of a tensor."""
    return torch.finfo(x.dtype).eps


def _terms(sigma: Symbol, model: FourierSeries) -> Tensor:
    """Return the sum of the sizes of the terms of σ at every wave vector ``[n]``, which round-off is relative to."""
    k = model.wavevectors.abs()
    total = torch.zeros_like(k[:, 0])
    for alpha, c in sigma.coefficients.items():
        total = total + abs(c) * (k ** k.new_tensor(alpha)).prod(1)
    return total * model.scale.abs()


def seen_by_conditions(problem: Problem, model: FourierSeries, weights: Mapping[str, float]) -> Tensor:
    """Return ``Σ_b λ_b ‖B_b φ_k‖²`` for every coefficient k ``[n]``."""
    lengths = torch.tensor([b - a for a, b in problem.domain], dtype=model.wavevectors.dtype)
    periods = (model.wavevectors.abs().cpu() * lengths / (2 * torch.pi)).max().item()
    points = (4 * round(periods) + 2,) * problem.dim  # integrates φ_k² exactly
    residual = problem.residual(model, interior=1, boundary=points, weights=weights)
    J = Jacobian(residual)
    total = J.domain.zeros()
    for name in residual.codomain.shapes:
        if name != "interior":
            total += (J.block(name).dense() ** 2).sum(0)
    return total
