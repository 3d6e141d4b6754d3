"""KFAC: inverses of layers as Kronecker products of what enters them and what is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.errors import NotPositive
from precondlab.operator import Operator, as_operator
from precondlab.operators import Gram, Jacobian
from precondlab.preconditioners.preconditioner import Preconditioner, finite, require_damping
from precondlab.space import Space

__all__ = ["kfac"]

Names = tuple[str, ...]
Pair = tuple[Tensor, Tensor]


def kfac(A: LinearOperator, /, *, damping: float = 0.0) -> Operator:
    """Invert a Kronecker-factored approximation of ``A = JᵀJ``, layer by layer.

    A residual row sees a linear layer through channels c, its value and derivatives in x: with the inputs
    a_c (and 1 for the bias) and the adjoints g_c its gradient is ``Σ_c g_c a_cᵀ``. Over the R rows and C channels of a
    part of the residual, the block of A that belongs to the layer is replaced by

        ``F ⊗ B``,  ``F = Σ a aᵀ / (R C)``,  ``B = Σ g gᵀ``,

    exact if rows and channels share their inputs, or for one row of one channel. Parts are the first block of the
    residual (the equation) and all others together (the conditions). One part is inverted exactly,
    ``(F ⊗ B + μI)⁻¹``; for two,

        ``(F₁ + α₁I) ⊗ (B₁ + β₁I) + (F₂ + α₂I) ⊗ (B₂ + β₂I)``,  ``α_b β_b = μ/2``,  ``α_b/β_b = (tr F_b/p)/(tr B_b/q)``,

    is inverted exactly: X and Y that diagonalize the pairs F and B by congruence turn the sum into a diagonal.
    ``nested(A, kfac(A, damping=μ), jacobi)`` corrects this diagonal to that of A.

    Parameters
    ----------
    A
        ``Gram(J)`` for a Jacobian with route ``jets``.
    damping
        The shift μ ≥ 0.

    Raises
    ------
    NotPositive
        If a factor is singular; names the layer. Damping helps.
    ValueError, Breakdown
        If A is no such operator, a parameter is outside linear layers, or the damping negative; if a factor is
        not finite.

    Cost: one backward pass per residual row, as much as one product with Jᵀ and the factors' ``2 R C (p² + q²)``
    operations, and three eigendecompositions per factor; memory ``4 Σ (p² + q²)`` and an application
    ``4 Σ p q (p + q)`` for layers with p inputs and q outputs.
    Reference: Dangel, Müller & Zeinhofer (2024), doi:10.48550/arXiv.2405.15603; Martens & Grosse (2015),
    doi:10.48550/arXiv.1503.05671, section 6.3, for the damping of a Kronecker product.

    >>> from precondlab.differentiation.calculus import Pointwise
    >>> from precondlab.map import Map
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 1))
    >>> at_two = {"": torch.tensor([[2.0]])}
    >>> r = Map({"": Pointwise(model, lambda x, u: u(x)[:, 0])}, dict(model.named_parameters()), points=at_two)
    >>> A = Gram(Jacobian(r))  # (2, 1)(2, 1)ᵀ, of norm 5
    >>> torch.linalg.eigvalsh(kfac(A, damping=1.0).dense())  # 1/(5 + 1) and 1/(0 + 1)
    tensor([0.1667, 1.0000])
    """
    A = as_operator(A)
    if not (isinstance(A, Gram) and isinstance(A.J, Jacobian)):
        raise ValueError(f"kfac: expected pl.Gram(J) of a pl.Jacobian, got {A!r}: the method looks into the layers")
    require_damping("kfac", damping)
    parts = _parts(A.J)
    missing = set(A.domain.shapes) - {name for part in parts for names in part for name in names}
    if missing:
        raise ValueError(f"kfac: the parameters {sorted(missing)} are not in a linear layer; train them otherwise")
    layers = {
        names: _invert([part[names] for part in parts if names in part], damping, "/".join(names), A)
        for names in dict.fromkeys(names for part in parts for names in part)
    }
    S = _KroneckerFactor(A.domain, layers)
    facts = [f"{len(layers)} layers", *([f"μ={damping:.3g}"] if damping else [])]
    return Preconditioner(S @ S.H, "KFAC", *facts, setup_matvecs=1, space=A.domain)


def _parts(J: Jacobian) -> list[dict[Names, Pair]]:
    """Return the factors F and B of every layer, for the first block of the residual and for the others."""
    first = next(rows.stop for rows in J.codomain.slices.values() if rows.start < rows.stop)
    sums: dict[bool, dict[Names, list[Tensor | int]]] = {}
    for rows, names, a, g in J.layers():
        a, g = (x.flatten(0, 1).to(torch.promote_types(x.dtype, torch.float64)) for x in (a, g))
        new = [a.T @ a, g.T @ g, len(a)]
        part = sums.setdefault(rows.start < first, {})
        part[names] = [old + more for old, more in zip(part[names], new, strict=True)] if names in part else new
    return [{names: (F / count, B) for names, (F, B, count) in part.items()} for part in sums.values()]  # type: ignore[misc]


def _invert(pairs: Sequence[Pair], damping: float, layer: str, A: Operator) -> _Layer:
    """Return the factor of ``(Σ_b F_b ⊗ B_b)⁻¹``, damped."""
    pairs = [(F, B) for F, B in pairs if F.trace() * B.trace() > 0] or pairs[:1]
    for factor in (factor for pair in pairs for factor in pair):
        finite(factor, f"kfac: layer {layer}", A)
    if len(pairs) == 1:
        ((F, B),) = pairs
        (f, X), (b, Y) = torch.linalg.eigh(F.cpu()), torch.linalg.eigh(B.cpu())
        d = b.clamp_min(0)[:, None] * f.clamp_min(0) + damping
        return _Layer(X, Y, X, Y, (d if damping else _positive(d, layer, A)).rsqrt())
    (F, F2), (B, B2) = (
        [x.cpu() for x in each] for each in zip(*(_damped(*p, damping / 2) for p in pairs), strict=True)
    )
    X, dual_X, f = _congruence(F, F2, layer, A)
    Y, dual_Y, b = _congruence(B, B2, layer, A)
    d = b[0][:, None] * f[0] + b[1][:, None] * f[1]
    return _Layer(X, Y, dual_X, dual_Y, (d if damping else _positive(d, layer, A)).rsqrt())


def _damped(F: Tensor, B: Tensor, damping: float) -> Pair:
    """Return ``F + αI`` and ``B + βI`` with αβ the damping, split in proportion to the means of the eigenvalues."""
    f, b = F.trace() / len(F), B.trace() / len(B)
    return tuple(
        each + (damping * own / other) ** 0.5 * torch.eye(len(each), dtype=each.dtype, device=each.device)
        for each, own, other in ((F, f, b), (B, b, f))
    )  # type: ignore[return-value]


def _congruence(P: Tensor, Q: Tensor, layer: str, A: Operator) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Return X, ``X⁻ᵀ`` and the diagonals of ``XᵀPX`` and ``XᵀQX``, which are diagonal."""
    scale = P.trace(), Q.trace()
    P, Q = P / scale[0], Q / scale[1]
    s, U = torch.linalg.eigh(P + Q)
    root = _positive(s, layer, A).sqrt()
    half = U / root
    p, Z = torch.linalg.eigh(half.T @ P @ half)
    X = half @ Z
    tiny = torch.finfo(p.dtype).eps
    q = (X * (Q @ X)).sum(0)
    return X, (U * root) @ Z, (scale[0] * p.clamp_min(tiny), scale[1] * q.clamp_min(tiny))


def _positive(values: Tensor, layer: str, A: Operator) -> Tensor:
    if not (values > values.numel() * torch.finfo(values.dtype).eps * values.max()).all():
        raise NotPositive(f"kfac: a factor of layer {layer} of {A!r} is singular to round-off; give a larger damping")
    return values


@dataclass(eq=False)
class _Layer:
    """``(X ⊗ Y) diag(s)``, and the transposed inverses of X and Y."""

    X: Tensor
    Y: Tensor
    dual_X: Tensor
    dual_Y: Tensor
    scale: Tensor

    def like(self, space: Space) -> _Layer:
        moved = {id(x): x.to(space.device, space.dtype) for x in vars(self).values()}  # equal ones once
        return _Layer(*(moved[id(x)] for x in vars(self).values()))

    def inverse_transposed(self) -> _Layer:
        return _Layer(self.dual_X, self.dual_Y, self.X, self.Y, 1 / self.scale)


class _KroneckerFactor(Operator):
    """``V ↦ Y (V ∘ d^(−½)) Xᵀ`` on the parameters of each layer, side by side as a matrix ``[q, p]``."""

    def __init__(self, space: Space, layers: dict[Names, _Layer]) -> None:
        super().__init__(space, space)
        self.layers = {names: layer.like(space) for names, layer in layers.items()}

    def _apply(self, V: Tensor) -> Tensor:
        return self._map(V, lambda layer, W: layer.Y @ (W * layer.scale) @ layer.X.T)

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        return self._map(U, lambda layer, W: (layer.Y.T @ W @ layer.X) * layer.scale)

    def _map(self, V: Tensor, function: Callable[[_Layer, Tensor], Tensor]) -> Tensor:
        blocks = self.domain.unravel(V.T.contiguous())
        for names, layer in self.layers.items():
            shapes = [blocks[name].shape for name in names]
            columns = [blocks[name].reshape(V.shape[1], len(layer.Y), -1) for name in names]
            pieces = function(layer, torch.cat(columns, dim=2)).split([c.shape[2] for c in columns], dim=2)
            blocks |= {name: piece.reshape(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}
        return self.domain.ravel(blocks).T

    @cached_property
    def inverse(self) -> Operator:
        duals = {names: layer.inverse_transposed() for names, layer in self.layers.items()}
        return _KroneckerFactor(self.domain, duals).H
