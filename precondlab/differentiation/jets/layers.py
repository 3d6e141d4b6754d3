"""Layers as maps of jets: value, tangent and adjoint, derived by hand.

Jets of a layer's output are ``[C, N, w]`` (channels, points, width); tangents and adjoints carry a block
of k columns, ``[C, N, k, w]``. A layer of one's own is one class with ``primal``, ``tangent`` and
``adjoint``; each is called with jets or, for inputs that do not depend on the parameters, None. Where only the
value is asked for, ``channels`` and ``some`` may leave out what nobody takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from precondlab.differentiation.jets import sparse
from precondlab.differentiation.jets.activations import Derivatives, Unsupported
from precondlab.differentiation.jets.algebra import JetAlgebra
from precondlab.differentiation.jets.sparse import Jet

__all__ = ["Add", "Affine", "Channelwise", "Elementwise", "Layer", "Multiply", "Params", "Scale", "summed"]


class Layer:
    """One step of a network on jets.

    The primal pass keeps in the instance what the other passes need; an instance belongs to one
    algebra and one set of points.
    """

    def primal(self, algebra: JetAlgebra, *inputs: Tensor) -> Tensor:
        """Return the output jets ``[C, N, w]``."""
        raise NotImplementedError(f"{type(self).__name__} does not define primal")

    def tangent(self, algebra: JetAlgebra, *tangents: Tensor | None, params: Params) -> Tensor | None:
        """Return the change ``[C, N, k, w]`` of the output for changes of inputs and parameters."""
        raise NotImplementedError(f"{type(self).__name__} does not define tangent")

    def adjoint(
        self, algebra: JetAlgebra, w: Tensor, *, wanted: Sequence[bool], gradients: Params
    ) -> Sequence[Tensor | None]:
        """Return the adjoint of each wanted input; add those of the parameters that it names to ``gradients``."""
        raise NotImplementedError(f"{type(self).__name__} does not define adjoint")

    def rows(self, w: Tensor) -> dict[str, Tensor] | None:
        """Return each point's gradient for its own w ``[C, N, w]``: name → ``[N, *shape]``; None: by ``adjoint``."""
        return None

    def outer(self, w: Tensor) -> Sequence[Outer]:
        """Return names of parameters with a ``[C, N, p]`` and g ``[C, N, q]``: their gradients for weights w
        ``[C, N, w]`` of the output, side by side ``[q, p]``, are ``Σ g aᵀ``."""
        return ()

    def kept(self) -> Sequence[Tensor]:
        """Return the tensors kept between passes."""
        return ()

    def channels(self, algebra: JetAlgebra, wanted: Iterable[int]) -> Iterable[int]:
        """Return the channels of the inputs that some channels of the output are made of, the value among them."""
        return range(algebra.size)

    def some(self, algebra: JetAlgebra, wanted: Iterable[int], *inputs: Jet) -> Jet:
        """Return some channels of the output, keeping nothing."""
        whole = self.primal(algebra, *(sparse.dense(algebra, jet) for jet in inputs))
        return {k: whole[k] for k in wanted}


class Channelwise(Layer):
    """A layer that maps every channel by itself: linear, but for a shift of the value."""

    def channels(self, algebra: JetAlgebra, wanted: Iterable[int]) -> Iterable[int]:
        return wanted


Outer = tuple[tuple[str, ...], Tensor, Tensor]
Params = dict[str, Tensor]  # blocks of columns ``[k, *shape]`` under the parameters' names


@dataclass
class Affine(Channelwise):
    """``x ↦ W x + b``; the bias moves the value only.

    Results lie in memory as ``[k, w, C, N]``, the points last: matrix products are fastest with wide results.
    """

    weight: Tensor
    bias: Tensor | None
    weight_name: str | None
    bias_name: str | None
    transposed: bool = False  # whether the parameter is Wᵀ

    def primal(self, algebra: JetAlgebra, *inputs: Tensor) -> Tensor:
        (X,) = inputs
        self.X = X
        Z = (self.weight @ self._flat).view(-1, *X.shape[:2]).permute(1, 2, 0)
        if self.bias is not None:
            Z[0] += self.bias
        return Z

    def tangent(self, algebra: JetAlgebra, *tangents: Tensor | None, params: Params) -> Tensor | None:
        (dX,) = tangents
        C, N, _ = self.X.shape
        dZ = None if dX is None else self._times(self.weight, dX)  # [k, w_out, C·N]
        if self.weight_name is not None:
            dW = self._oriented(params[self.weight_name])  # [k, w_out, w_in]
            rows = dW.reshape(-1, dW.shape[2])
            if dZ is None:
                dZ = (rows @ self._flat).view(*dW.shape[:2], C * N)
            else:
                dZ.view(len(rows), C * N).addmm_(rows, self._flat)
        if self.bias_name is not None:
            db = params[self.bias_name]  # [k, w_out]
            if dZ is None:
                dZ = db.new_zeros(*db.shape, C * N)
            dZ[:, :, :N] += db[:, :, None]
        return None if dZ is None else dZ.view(*dZ.shape[:2], C, N).permute(2, 3, 0, 1)

    def adjoint(
        self, algebra: JetAlgebra, w: Tensor, *, wanted: Sequence[bool], gradients: Params
    ) -> Sequence[Tensor | None]:
        C, N, k, out = w.shape
        if self.weight_name in gradients:
            flat = w.permute(2, 3, 0, 1).reshape(k * out, C * N)
            gradient = self._oriented(gradients[self.weight_name])
            if k == 1:  # where weights are large, a sum of its own costs as much as the product
                gradient[0].addmm_(flat, self._flat.T)
            else:
                product = (self._flat @ flat.T).T if self.X.shape[2] < k * out else flat @ self._flat.T
                gradient += product.reshape(k, out, -1)
        if self.bias_name in gradients:
            gradients[self.bias_name] += w[0].sum(0)
        if not wanted[0]:
            return [None]
        return [self._times(self.weight.T, w).view(k, -1, C, N).permute(2, 3, 0, 1)]

    def _oriented(self, block: Tensor) -> Tensor:
        """Return a block of columns of the parameter as one of W."""
        return block.transpose(1, 2) if self.transposed else block

    @property
    def _flat(self) -> Tensor:
        """The input ``[w_in, C·N]``."""
        return self.X.permute(2, 0, 1).reshape(self.X.shape[2], -1)

    @staticmethod
    def _times(matrix: Tensor, X: Tensor) -> Tensor:
        """Return ``matrix x`` for each column of a block: ``[C, N, k, w]`` → ``[k, w_out, C·N]``."""
        C, N, k, width = X.shape
        return torch.bmm(matrix.expand(k, *matrix.shape), X.permute(2, 3, 0, 1).reshape(k, width, C * N))

    def rows(self, w: Tensor) -> dict[str, Tensor]:
        result = {}
        if self.weight_name is not None:
            result[self.weight_name] = self._oriented(torch.einsum("cno,cni->noi", w, self.X))
        if self.bias_name is not None:
            result[self.bias_name] = w[0]
        return result

    def outer(self, w: Tensor) -> Sequence[Outer]:
        parts = {}
        if self.weight_name is not None:
            parts[self.weight_name] = self.X
        if self.bias_name is not None:
            one = self.X.new_zeros(*self.X.shape[:2], 1)
            one[0] = 1
            parts[self.bias_name] = one
        if self.transposed:
            return [((name,), w, a) if name == self.weight_name else ((name,), a, w) for name, a in parts.items()]
        return [(tuple(parts), torch.cat(list(parts.values()), dim=2), w)] if parts else []

    def kept(self) -> Sequence[Tensor]:
        return (self.X,)

    def some(self, algebra: JetAlgebra, wanted: Iterable[int], *inputs: Jet) -> Jet:
        (X,) = inputs
        Z = {k: (self.weight @ X[k].T).T for k in wanted if k in X}
        if self.bias is not None:
            Z[0] += self.bias
        return Z


@dataclass
class Elementwise(Layer):
    """``x ↦ σ(x)`` for a smooth σ; its tangent is multiplication by the jet of σ′(x)."""

    derivatives: Derivatives

    def primal(self, algebra: JetAlgebra, *inputs: Tensor) -> Tensor:
        (Z,) = inputs
        value, slope = algebra.compose(self.derivatives(Z[0], algebra.order + 1), Z)
        self.slope = slope.unsqueeze(2)
        return value

    def tangent(self, algebra: JetAlgebra, *tangents: Tensor | None, params: Params) -> Tensor | None:
        (dZ,) = tangents
        return None if dZ is None else algebra.multiply(self.slope, dZ)

    def adjoint(
        self, algebra: JetAlgebra, w: Tensor, *, wanted: Sequence[bool], gradients: Params
    ) -> Sequence[Tensor | None]:
        return [algebra.multiply_adjoint(self.slope, w) if wanted[0] else None]

    def kept(self) -> Sequence[Tensor]:
        return (self.slope,)

    def channels(self, algebra: JetAlgebra, wanted: Iterable[int]) -> Iterable[int]:
        return sparse.below(algebra, wanted)

    def some(self, algebra: JetAlgebra, wanted: Iterable[int], *inputs: Jet) -> Jet:
        return sparse.compose(algebra, wanted, self.derivatives, *inputs)


class Multiply(Layer):
    """``(u, v) ↦ u v``: gates, and products with fixed functions of x."""

    def primal(self, algebra: JetAlgebra, *inputs: Tensor) -> Tensor:
        u, v = inputs
        self.u, self.v = u.unsqueeze(2), v.unsqueeze(2)
        shape = torch.broadcast_shapes(u.shape, v.shape)
        return algebra.multiply(u.expand(shape), v.expand(shape))

    def tangent(self, algebra: JetAlgebra, *tangents: Tensor | None, params: Params) -> Tensor | None:
        du, dv = tangents
        parts = [
            algebra.multiply(other, self._spread(moved, other))
            for moved, other in ((du, self.v), (dv, self.u))
            if moved is not None
        ]
        return None if not parts else parts[0] if len(parts) == 1 else parts[0].add_(parts[1])

    def adjoint(
        self, algebra: JetAlgebra, w: Tensor, *, wanted: Sequence[bool], gradients: Params
    ) -> Sequence[Tensor | None]:
        return [
            _collapse(algebra.multiply_adjoint(other, w), own.shape[-1]) if want else None
            for want, own, other in zip(wanted, (self.u, self.v), (self.v, self.u), strict=True)
        ]

    @staticmethod
    def _spread(moved: Tensor, other: Tensor) -> Tensor:
        return moved.expand(*moved.shape[:-1], max(moved.shape[-1], other.shape[-1]))

    def kept(self) -> Sequence[Tensor]:
        return self.u, self.v

    def channels(self, algebra: JetAlgebra, wanted: Iterable[int]) -> Iterable[int]:
        return sparse.below(algebra, wanted)

    def some(self, algebra: JetAlgebra, wanted: Iterable[int], *inputs: Jet) -> Jet:
        return sparse.multiply(algebra, wanted, *inputs)


@dataclass
class Add(Channelwise):
    """``(u, v) ↦ a u + b v``: skip connections, scalings (one input) and shifts."""

    factors: Sequence[float]
    shift: Tensor | float = 0.0

    def primal(self, algebra: JetAlgebra, *inputs: Tensor) -> Tensor:
        self.widths = [x.shape[-1] for x in inputs]
        total = self._combine(inputs)
        total[0] += self.shift
        return total

    def tangent(self, algebra: JetAlgebra, *tangents: Tensor | None, params: Params) -> Tensor | None:
        moved = [(f, t) for f, t in zip(self.factors, tangents, strict=True) if t is not None]
        if not moved:
            return None
        width = max(self.widths)
        return sum(f * t.expand(*t.shape[:-1], width) for f, t in moved)  # type: ignore[return-value]

    def adjoint(
        self, algebra: JetAlgebra, w: Tensor, *, wanted: Sequence[bool], gradients: Params
    ) -> Sequence[Tensor | None]:
        return [
            _collapse(f * w, width) if want else None
            for f, width, want in zip(self.factors, self.widths, wanted, strict=True)
        ]

    def _combine(self, inputs: Sequence[Tensor]) -> Tensor:
        total = self.factors[0] * inputs[0]
        for factor, x in zip(self.factors[1:], inputs[1:], strict=True):
            total = total + factor * x
        return total

    def some(self, algebra: JetAlgebra, wanted: Iterable[int], *inputs: Jet) -> Jet:
        parts = {k: [f * x[k] for f, x in zip(self.factors, inputs, strict=True) if k in x] for k in wanted}
        total = {k: part[0] if len(part) == 1 else part[0] + part[1] for k, part in parts.items() if part}
        total[0] = total[0] + self.shift
        return total


@dataclass
class Scale(Channelwise):
    """``x ↦ g x + b`` with g and b of length 1 or as wide as x."""

    weight: Tensor | None
    bias: Tensor | None
    weight_name: str | None = None
    bias_name: str | None = None

    def primal(self, algebra: JetAlgebra, *inputs: Tensor) -> Tensor:
        (self.X,) = inputs
        for p in (self.weight, self.bias):
            if p is not None and p.numel() not in (1, self.X.shape[-1]):
                raise Unsupported(f"a product or sum of {self.X.shape[-1]} columns with a parameter {tuple(p.shape)}")
        Z = self.X.clone() if self.weight is None else self.weight * self.X
        if self.bias is not None:
            Z[0] += self.bias
        return Z

    def tangent(self, algebra: JetAlgebra, *tangents: Tensor | None, params: Params) -> Tensor | None:
        (dX,) = tangents
        dZ = dX if dX is None or self.weight is None else self.weight * dX
        if self.weight_name is not None:
            moved = self.X.unsqueeze(2) * _columns(params[self.weight_name])
            dZ = moved if dZ is None else dZ + moved
        if self.bias_name is not None:
            db = _columns(params[self.bias_name])
            dZ = db.new_zeros(*self.X.shape[:2], len(db), self.X.shape[2]) if dZ is None else dZ.clone()
            dZ[0] += db
        return dZ

    def adjoint(
        self, algebra: JetAlgebra, w: Tensor, *, wanted: Sequence[bool], gradients: Params
    ) -> Sequence[Tensor | None]:
        for name, p, products in self._parts(w, self.X.unsqueeze(2)):
            gradients[name] += _gradient(products.sum(0), p)
        return [None if not wanted[0] else w if self.weight is None else self.weight * w]

    def rows(self, w: Tensor) -> dict[str, Tensor]:
        return {name: _gradient(products, p) for name, p, products in self._parts(w, self.X)}

    def some(self, algebra: JetAlgebra, wanted: Iterable[int], *inputs: Jet) -> Jet:
        (X,) = inputs
        Z = {k: X[k] if self.weight is None else self.weight * X[k] for k in wanted if k in X}
        if self.bias is not None:
            Z[0] = Z[0] + self.bias
        return Z

    def _parts(self, w: Tensor, X: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield each parameter with the products of w that, summed, are its gradient."""
        if self.weight_name is not None and self.weight is not None:
            yield self.weight_name, self.weight, (w * X).sum(0)
        if self.bias_name is not None and self.bias is not None:
            yield self.bias_name, self.bias, w[0]

    def kept(self) -> Sequence[Tensor]:
        return (self.X,)


def _columns(p: Tensor) -> Tensor:
    """Return a block of changes ``[k, *shape]`` of a vector or a number as ``[k, w]``."""
    return p.reshape(len(p), -1)


def _gradient(products: Tensor, p: Tensor) -> Tensor:
    """Return ``[k, *shape]`` from products ``[k, w]``, summed if p is one number for all columns."""
    return (products if products.shape[-1] == p.numel() else products.sum(-1)).reshape(-1, *p.shape)


def _collapse(w: Tensor, width: int) -> Tensor:
    """Sum over a last axis that was broadcast."""
    return w if w.shape[-1] == width else summed(w)


def summed(x: Tensor) -> Tensor:
    """Sum over the last axis, the points again last in memory."""
    return x.movedim(1, -1).sum(-2, keepdim=True).movedim(-1, 1)
