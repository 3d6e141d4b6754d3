"""The two squares of an operator: ``A = JᴴJ`` on parameters and the tangent kernel ``K = JJᴴ`` on residuals."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from torch import Tensor

from precondlab.operator import Operator
from precondlab.operators.jacobian import Jacobian
from precondlab.operators.layerwise import kernel_matrix
from precondlab.operators.plan import Plan

__all__ = ["Gram", "Kernel"]


class Gram(Operator):
    """The Gram operator ``A = JᴴJ``, ``[n n]``: the matrix gradient descent sees.

    For a Jacobian J of a residual this is the Gauss–Newton matrix of ``½‖r‖²``.

    Cost per product: one with J and one with ``Jᴴ``.

    >>> import torch
    >>> from precondlab.operators import Dense
    >>> Gram(Dense(torch.tensor([[1.0, 2.0]]))).dense()
    tensor([[1., 2.],
            [2., 4.]])
    """

    def __init__(self, J: Operator) -> None:
        _require_operator("Gram", J)
        super().__init__(J.domain, J.domain, positive=True)
        self.J = J

    @cached_property
    def sqrt(self) -> Operator:
        return self.J.H

    def block(self, name: str) -> Gram:
        """Return the contribution ``J_bᵀJ_b`` of one named residual block."""
        return Gram(_jacobian(self).block(name))

    def reweighted(self, weights: Mapping[str, float]) -> Gram:
        """Return ``Σ_b λ_b J_bᵀJ_b`` with other λ for some blocks; nothing is recomputed."""
        return Gram(_jacobian(self).reweighted(weights))

    def plan(self, *, num_matvecs: int = 300) -> Plan:
        """Compare products as they are with a formed J; see :meth:`Jacobian.plan`."""
        return _jacobian(self).plan(num_matvecs=num_matvecs)

    def formed(self) -> Gram:
        """Return the same operator with J formed once; see :meth:`Jacobian.formed`."""
        return Gram(_jacobian(self).formed())

    def _apply(self, V: Tensor) -> Tensor:
        return self.J.gram(V) if isinstance(self.J, Jacobian) else self.J.backward(self.J.forward(V))

    def __repr__(self) -> str:
        return f"Gram({self.J!r})"


class Kernel(Operator):
    """The kernel operator ``K = JJᴴ``, ``[m m]``: the empirical neural tangent kernel of the residual.

    Cost per product: one with ``Jᴴ`` and one with J.

    >>> import torch
    >>> from precondlab.operators import Dense
    >>> Kernel(Dense(torch.tensor([[1.0, 2.0]]))).dense()
    tensor([[5.]])
    """

    def __init__(self, J: Operator) -> None:
        _require_operator("Kernel", J)
        super().__init__(J.codomain, J.codomain, positive=True)
        self.J = J
        self._matrix: Tensor | None = None

    @cached_property
    def sqrt(self) -> Operator:
        return self.J

    def block(self, row: str, column: str | None = None) -> Operator:
        """Return ``J_row J_columnᵀ``: how one block's residual moves when another's is descended."""
        J = _jacobian(self)
        if column is None or column == row:
            return Kernel(J.block(row))
        return J.block(row) @ J.block(column).H

    def reweighted(self, weights: Mapping[str, float]) -> Kernel:
        """Return the kernel with other λ for some blocks; nothing is recomputed."""
        return Kernel(_jacobian(self).reweighted(weights))

    def formed(self) -> Kernel:
        """Return the same operator with its matrix formed once, layer by layer and without J.

        Row i of J on a layer is ``Σ_c g_ci a_ciᵀ``, so ``K_ij = Σ_layers Σ_cd (g_ci·g_dj)(a_ci·a_dj)``: p + q
        operations in place of p q for a layer from p to q. Where not all parameters are in linear layers that
        ``jets`` know, J is formed on the way.

        Raises
        ------
        ValueError
            If the matrix, or J where it is needed, does not fit the memory budget of J.

        Cost: one backward pass per row and ``m² C² (p + q)`` operations per layer with C channels; memory m² numbers
        and inputs and adjoints of all rows.
        """
        view = Kernel(self.J)
        view._matrix = kernel_matrix(_jacobian(self))
        return view

    def dense(self) -> Tensor:
        return super().dense() if self._matrix is None else self._matrix.clone()

    def _apply(self, V: Tensor) -> Tensor:
        return self.J.forward(self.J.backward(V)) if self._matrix is None else self._matrix @ V

    def __repr__(self) -> str:
        return f"Kernel({self.J!r}{'' if self._matrix is None else ', dense'})"


def _require_operator(name: str, J: object) -> None:
    if not isinstance(J, Operator):
        raise TypeError(
            f"{name}: expected an operator, got {type(J).__name__}; "
            "take pl.Jacobian of a map, or wrap a matrix with pl.operators.Dense"
        )


def _jacobian(square: Gram | Kernel) -> Jacobian:
    if not isinstance(square.J, Jacobian):
        raise TypeError(f"{square!r}: named blocks and weights belong to a Jacobian, not to {square.J!r}")
    return square.J
