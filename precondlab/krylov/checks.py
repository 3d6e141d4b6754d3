"""Checks of an operator by a few products: symmetric, repeatable, finite."""

from __future__ import annotations

from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from precondlab.errors import Breakdown, NotSymmetric
from precondlab.operator import Operator
from precondlab.space import Space

__all__ = ["dots", "repeat_error", "require_integer", "require_symmetric"]


def require_integer(who: str, name: str, value: object, *, least: int = 1, most: int | None = None) -> int:
    """Return an argument as an int, or raise: ``TypeError`` if it is none, ``ValueError`` if it is out of range.

    >>> require_integer("eigsh", "k", np.int64(3))
    3
    >>> require_integer("eigsh", "k", 3.0)
    Traceback (most recent call last):
    ...
    TypeError: eigsh: k should be an integer, got 3.0 (float); use int(...)
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        kind = type(value).__name__
        raise TypeError(f"{who}: {name} should be an integer, got {value!r} ({kind}); use int(...)")
    number = int(value)
    if number < least or (most is not None and number > most):
        wanted = f"≥ {least}" if most is None else f"between {least} and {most}"
        raise ValueError(f"{who}: {name} should be {wanted}, got {number}")
    return number


def dots(space: Space, *pairs: tuple[Tensor, Tensor]) -> np.ndarray:
    """Return ``Re uᵢᴴvᵢ`` of equal columns for every pair of blocks ``[n k]``, in one copy to the host.

    >>> dots(Space(2, dtype=torch.float32), (torch.eye(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]])))
    array([[1., 4.]])
    """
    return torch.stack([space.dots(U, V).real for U, V in pairs]).double().numpy(force=True)


def require_finite(values: np.ndarray, A: Operator, product: int) -> None:
    """Raise Breakdown, naming the product, unless every number is finite."""
    if not np.isfinite(values).all():
        raise Breakdown(f"product {product} with {A!r} is not finite; check the model and its residual at this point")


def repeat_error(A: Operator, *, generator: torch.Generator | None = None) -> float:
    """Return ``‖Av − Av‖ / ‖Av‖`` for one random v: the noise of a product, 0 if it is deterministic.

    Cost: 2 products.

    >>> from precondlab.operators import Diagonal
    >>> repeat_error(Diagonal(torch.tensor([1.0, 2.0])))
    0.0
    """
    V = A.domain.random(1, generator=generator)
    first = A.forward(V).clone()
    difference = A.forward(V) - first
    (error,), (size,) = dots(A.codomain, (difference, difference), (first, first))
    require_finite(np.array([error, size]), A, A.num_matvecs)
    return float((error / size) ** 0.5) if size > 0 else 0.0


def require_symmetric(A: Operator, *, generator: torch.Generator | None = None) -> None:
    """Raise unless ``⟨u, Av⟩ = ⟨Au, v⟩`` for three random pairs, up to √ε or to the noise of the products.

    For random vectors W the matrix ``G = WᴴAW`` is Hermitian if A is; ``|G − Gᴴ|`` relative to
    ``‖Aw‖`` estimates ``‖A − Aᴴ‖_F / ‖A‖_F``.

    Raises
    ------
    NotSymmetric
        With the relative asymmetry found.

    Cost: 3 products, 2 more if they disagree.

    >>> from precondlab.operators import Dense
    >>> require_symmetric(Dense(torch.tensor([[1.0, 2.0], [0.0, 1.0]])))
    Traceback (most recent call last):
    ...
    precondlab.errors.NotSymmetric: Dense[2×2] is not symmetric: ⟨u, Av⟩ and ⟨Au, v⟩ differ by ... of ‖A‖; ...
    """
    W = A.domain.random(3, generator=generator)
    Y = A.forward(W)
    G = A.domain.inner(W, Y)
    sizes = dots(A.domain, (Y, Y))
    require_finite(sizes, A, A.num_matvecs)
    if not sizes.any():
        return
    asymmetry = (G - G.mH).abs().max().item() / sizes.max() ** 0.5
    if asymmetry > A.domain.eps**0.5 and asymmetry > 30 * repeat_error(A, generator=generator):
        raise NotSymmetric(
            f"{A!r} is not symmetric: ⟨u, Av⟩ and ⟨Au, v⟩ differ by {asymmetry:.2g} of ‖A‖; "
            "solve the least-squares problem with lsqr, or symmetrize the operator"
        )
