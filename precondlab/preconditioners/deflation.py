"""Deflation: a preconditioner from eigenpairs that a spectrum computation has already paid for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from precondlab.errors import NotPositive
from precondlab.operator import Operator
from precondlab.preconditioners.preconditioner import Preconditioner
from precondlab.preconditioners.spectral import SpectralUpdate

__all__ = ["deflation"]


def deflation(values: Any, vectors: Any, /, *, target: float | None = None) -> Operator:
    """Move known eigenvalues of A to one place, ``M = (I + V(σΛ⁻¹ − I)Vᴴ)/σ``.

    For eigenpairs ``AV = VΛ`` the spectrum of ``σMA`` is that of A with every λ_i replaced by σ, hence
    κ(MA) is that of the remaining eigenvalues together with σ. Ritz pairs with residual
    norms ρ move that by relative perturbations of order ρ/λ.

    Parameters
    ----------
    values
        Λ ``[r]``, positive: eigenvalues or Ritz values, from :func:`scipy.sparse.linalg.eigsh` for instance.
    vectors
        V ``[n r]`` with orthonormal columns, a tensor or an array.
    target
        Where to: σ. By default the smallest of the values, which is right for the r largest eigenvalues of A;
        for the smallest ones give a value inside the rest of the spectrum, the largest eigenvalue say.

    Raises
    ------
    NotPositive
        If an eigenvalue or the target is not positive.
    ValueError
        If shapes do not fit or the columns are not orthonormal.

    Cost: no product with A; memory and each application n r numbers and 4 n r operations.
    Reference: Giraud & Gratton (2006), doi:10.1137/040617546.

    >>> from precondlab.operators import Diagonal
    >>> A = Diagonal(torch.tensor([100.0, 2.0, 1.0], dtype=torch.float64))
    >>> M = deflation([100.0], torch.eye(3, dtype=torch.float64)[:, :1], target=2.0)
    >>> (M @ A).dense().diagonal()
    tensor([1.0000, 1.0000, 0.5000], dtype=torch.float64)
    """
    V = vectors.detach() if isinstance(vectors, Tensor) else torch.from_numpy(np.array(vectors, order="C"))
    if not (V.is_floating_point() or V.is_complex()):
        raise ValueError(f"deflation: expected vectors of a floating dtype, got {V.dtype}")
    real = V.real.dtype
    Lambda = torch.as_tensor(values, dtype=real, device=V.device).detach()
    if V.dim() != 2 or Lambda.shape != V.shape[1:] or not 1 <= V.shape[1] <= V.shape[0]:
        raise ValueError(
            f"deflation: expected values [r] and vectors [n r], r ≤ n, got {tuple(Lambda.shape)} and {tuple(V.shape)}"
        )
    sigma = Lambda.min().item() if target is None else float(target)
    if not (Lambda > 0).all() or not 0 < sigma < float("inf"):
        raise NotPositive(
            f"deflation: expected positive eigenvalues and a positive target, got {Lambda.min().item():.3e} and "
            f"{sigma:.3e}; leave out eigenvalues at the level of round-off"
        )
    gap = (V.mH @ V - torch.eye(V.shape[1], dtype=V.dtype, device=V.device)).abs().max().item()
    if not gap <= torch.finfo(real).eps ** 0.5:
        raise ValueError(f"deflation: expected orthonormal vectors, ‖VᴴV − I‖ = {gap:.1e}; use torch.linalg.qr first")
    inverse = SpectralUpdate(V, (1 / Lambda).to(V.dtype), 1 / sigma)
    return Preconditioner(inverse, "Deflation", f"rank {V.shape[1]}", f"σ={sigma:.3g}", setup_matvecs=0)
