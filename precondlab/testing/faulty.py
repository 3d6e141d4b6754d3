"""An operator that goes wrong on purpose, to see what an algorithm makes of it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from precondlab.operator import Operator

__all__ = ["Faulty", "Injected"]


class Injected(RuntimeError):
    """What a :class:`Faulty` operator raises when told to."""


class Faulty(Operator):
    """A, declared as A is, but wrong in one or several ways.

    Products are counted from 0 over both directions, column by column.

    Parameters
    ----------
    A
        The operator. A symmetric one is needed for ``asymmetry`` and gets no square root.
    fault, at
        At product number ``at``: ``"nan"`` or ``"inf"`` in one entry of the result, ``"raise"`` an
        :class:`Injected` error. Once; later products are right.
    noise
        Each product Av becomes ``Av + noise · ‖Av‖ g / √m`` with a fresh standard normal g.
    asymmetry
        A becomes ``A + asymmetry · ‖A‖ (pqᵀ - qpᵀ)`` with fixed random orthonormal p and q, still declared
        symmetric. ‖A‖ is estimated by ten steps of the power method.
    drift
        Product number j is multiplied by ``1 + j · drift``: the operator depends on its past.
    generator
        Of g, p and q; a fixed seed if None.

    Cost per product: one with A.

    >>> from precondlab.operators import Identity
    >>> from precondlab.space import Space
    >>> A = Faulty(Identity(Space(2)), fault="nan", at=1)
    >>> A @ torch.ones(2, 3, dtype=torch.float64)
    tensor([[1., nan, 1.],
            [1., 1., 1.]], dtype=torch.float64)
    """

    def __init__(
        self,
        A: Operator,
        /,
        *,
        fault: Literal["nan", "inf", "raise"] | None = None,
        at: int = 0,
        noise: float = 0.0,
        asymmetry: float = 0.0,
        drift: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        if asymmetry and (not A.symmetric or A.shape[0] < 2):
            raise ValueError(f"Faulty: asymmetry needs a symmetric operator of size 2 or more, got {A!r}")
        super().__init__(A.domain, A.codomain, symmetric=A.symmetric, positive=A.positive)
        self.A, self.fault, self.at, self.noise, self.asymmetry, self.drift = A, fault, at, noise, asymmetry, drift
        self.generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.products = 0
        self.skew: Tensor | None = None
        if asymmetry:
            scale = _norm(A, self.generator)
            pair = torch.linalg.qr(A.domain.random(2, generator=self.generator)).Q
            self.skew = pair * (asymmetry * scale) ** 0.5

    def _apply(self, V: Tensor) -> Tensor:
        Y = self.A.forward(V)
        if self.skew is not None:
            p, q = self.skew.T
            Y = Y + torch.outer(p, q.conj() @ V) - torch.outer(q, p.conj() @ V)
        return self._spoil(Y)

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        return self._apply(U) if self.symmetric else self._spoil(self.A.backward(U))

    def _spoil(self, Y: Tensor) -> Tensor:
        first, self.products = self.products, self.products + Y.shape[1]
        number = torch.arange(first, self.products, dtype=Y.real.dtype, device=Y.device)
        if self.drift:
            Y = Y * (1 + self.drift * number)
        if self.noise and len(Y):
            g = torch.randn(Y.shape, dtype=Y.dtype, generator=self.generator).to(Y.device)
            Y = Y + g * (self.noise * torch.linalg.vector_norm(Y, dim=0) / len(Y) ** 0.5)
        if self.fault is not None and first <= self.at < self.products:
            if self.fault == "raise":
                raise Injected(f"{self!r}: product number {self.at}")
            Y = Y.clone()
            Y[0, self.at - first] = float(self.fault)
        return Y

    def __repr__(self) -> str:
        faults = [f"{self.fault} at product {self.at}"] if self.fault else []
        levels = {"noise": self.noise, "asymmetry": self.asymmetry, "drift": self.drift}
        return f"Faulty({', '.join([repr(self.A), *faults, *(f'{k}={v:g}' for k, v in levels.items() if v)])})"


@torch.no_grad()
def _norm(A: Operator, generator: torch.Generator) -> float:
    v = A.domain.random(1, generator=generator)
    norm = torch.linalg.vector_norm(v).item()
    for _ in range(10):
        if norm:
            v = A.forward(v / norm)
            norm = torch.linalg.vector_norm(v).item()
    return norm
