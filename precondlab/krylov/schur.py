"""Block Krylov–Schur: Lanczos and Golub–Kahan decompositions that can be restarted and resumed.

The projected matrix is kept whole, so that a restart, a locked vector or a block needs no case of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from precondlab.errors import CheckpointError
from precondlab.krylov.basis import Basis, require_finite
from precondlab.krylov.checks import require_integer
from precondlab.operator import Operator

__all__ = ["GolubKahanSchur", "KrylovSchur"]


def _vanishes(coupling: Tensor, scale: float) -> bool:
    """Whether what is new in a block is so small that its direction is round-off."""
    return coupling.norm().item() <= torch.finfo(coupling.dtype).eps ** 0.75 * scale


def _require_state(solver: object, state: dict[str, Any], own: dict[str, Any], bases: dict[str, Basis]) -> None:
    """Raise unless a state has the entries, block size, dtypes and vectors of this solver's own."""
    who = type(solver).__name__
    if state.keys() != own.keys():
        raise CheckpointError(f"{who}: expected a state with {sorted(own)}, got {sorted(state)}")
    if state["block"] != own["block"]:
        raise CheckpointError(f"{who}: the state has blocks of {state['block']} vectors, this one of {own['block']}")
    for name, basis in bases.items():
        found, space = state[name], basis.space
        if found.dtype != space.dtype or found.shape[0] != space.size or found.shape[1] > basis.size + basis.room:
            raise CheckpointError(
                f"{who}: expected {name} of shape ({space.size}, ≤ {basis.size + basis.room}) and {space.dtype}, "
                f"got {tuple(found.shape)} and {found.dtype}; load the state of the same operator and capacity"
            )


def _require_own(A: Operator, defect: float, projected: np.ndarray) -> None:
    """Raise if a decomposition is not one of A, by far more than noise in the products."""
    scale = float(np.abs(projected).max(initial=0.0))
    if not defect <= A.domain.eps**0.25 * scale:
        raise CheckpointError(
            f"the state belongs to another operator than {A!r}: a product differs by {defect:.1e} from what the "
            f"decomposition says, of a norm of {scale:.1e}; load the state of this operator, or start anew"
        )


class KrylovSchur:
    """``A Q = Q T + Q₊ S`` for a symmetric operator: Q ``[n m]`` and the next block Q₊ ``[n p]`` orthonormal.

    ``step()`` makes Q₊ part of Q by one product with the block; ``restart(keep)`` replaces Q by Ritz
    vectors. With p = 1 and no restart it is the Lanczos decomposition. A block that loses rank is filled with
    random vectors, so that eigenvalues of any multiplicity are found in the end.

    Parameters
    ----------
    A
        Symmetric operator.
    start
        First block ``[n p]``; linearly dependent columns are replaced by random ones.
    capacity
        Largest number of basis vectors, those of the next block included. A step without room for the block after it
        raises ``ValueError``: restart first.

    Attributes
    ----------
    T, S
        Projected matrix ``[m m]`` and coupling ``[p m]``, float64 (complex128) on the host.
    invariant
        Whether Q spans an invariant subspace up to ``ε^¾‖A‖``: the next block is random, or round-off.
    locked
        Leading vectors of Q that span an invariant subspace found earlier.
    num_matvecs
        Products taken.

    Raises
    ------
    Breakdown
        At the first product that is not finite.

    Cost: p products per step; memory ``capacity`` vectors.
    References: Stewart (2002), doi:10.1137/S0895479800371529; Zhou & Saad (2008), doi:10.1007/s11075-008-9192-9.

    >>> from precondlab.operators import Diagonal
    >>> A = Diagonal(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64))
    >>> K = KrylovSchur(A, torch.ones(3, 1, dtype=torch.float64), capacity=3)
    >>> for _ in range(3):
    ...     K.step()
    >>> K.ritz()[0].round(12), K.complete
    (array([1., 2., 4.]), True)
    """

    def __init__(self, A: Operator, start: Tensor, *, capacity: int, generator: torch.Generator | None = None) -> None:
        self.A = A
        self.block = start.shape[1]
        capacity = require_integer("KrylovSchur", "capacity", capacity, least=self.block)
        self.basis = Basis(A.domain, capacity, generator=generator)
        self.num_matvecs = 0
        kind = np.complex128 if A.domain.dtype.is_complex else np.float64
        self.T = np.zeros((0, 0), kind)
        require_finite(start, A, 0)
        self.basis.append(start)
        self.basis.append_random(self.block - self.basis.size)
        self.S = np.zeros((self.basis.size, 0), kind)
        self.invariant, self.locked = False, 0

    @property
    def complete(self) -> bool:
        """Whether Q spans the whole space."""
        return len(self.T) == self.A.domain.size

    def step(self) -> None:
        """Extend Q by the next block."""
        m, total = len(self.T), self.basis.size
        self.basis.require_room(total - m)
        if self.invariant:
            self.locked = m
        W = self.A.forward(self.basis.vectors[:, m:].contiguous())
        self.num_matvecs += total - m
        require_finite(W, self.A, self.num_matvecs)
        scale = np.abs(self.T).max(initial=0.0)
        C, R = self.basis.append(W, scale=scale)
        self.basis.append_random(self.block - len(R))
        T = np.zeros((total, total), self.T.dtype)
        T[:m, :m] = self.T
        T[:, m:] = C.cpu().numpy()
        T[m:, :m] = self.S
        T[m:, m:] = (T[m:, m:] + T[m:, m:].conj().T) / 2
        T[:m, m:] = self.S.conj().T
        self.T = T
        self.S = np.zeros((self.basis.size - total, total), self.T.dtype)
        self.S[: len(R), m:] = R.cpu().numpy()
        self.invariant = _vanishes(R, max(float(scale), C.norm().item()))

    def ritz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return Ritz values, ascending, their vectors in the basis as columns, and residual norms ``‖A x − θ x‖``."""
        values, Y = np.linalg.eigh(self.T)
        return values, Y, np.linalg.norm(self.S @ Y, axis=0)

    def vectors(self, Y: np.ndarray) -> Tensor:
        """Return ``Q Y`` ``[n k]``."""
        Q = self.basis.vectors[:, : len(self.T)]
        return Q @ torch.as_tensor(Y, dtype=Q.dtype, device=Q.device)

    def defect(self, y: np.ndarray) -> float:
        """Return ``‖(A Q − Q T − Q₊ S) y‖`` by one product: round-off, unless A is noisy or not symmetric."""
        x = torch.as_tensor(np.concatenate([y, self.T @ y, self.S @ y]))
        Q, m = self.basis.vectors, len(self.T)
        x, image = x[:m].to(Q), x[m:].to(Q)
        return (self.A.forward((Q[:, :m] @ x)[:, None])[:, 0] - Q @ image).norm().item()

    def explored(self, Y: np.ndarray) -> np.ndarray:
        """Return which Ritz vectors belong to the part of Q that was found last, after the locked one."""
        return np.linalg.norm(Y[self.locked :], axis=0) > 0.5

    def restart(self, Y: np.ndarray) -> None:
        """Replace Q by ``Q Y`` for Ritz vectors Y ``[m k]``; the next block stays."""
        m, p = len(self.T), self.basis.size - len(self.T)
        last = self.explored(Y)
        Y = Y[:, np.argsort(last, kind="stable")]
        self.locked = int((~last).sum())
        whole = np.zeros((m + p, Y.shape[1] + p), self.T.dtype)
        whole[:m, : Y.shape[1]] = Y
        whole[m:, Y.shape[1] :] = np.eye(p)
        self.basis.rotate(torch.as_tensor(whole))
        self.T = Y.conj().T @ self.T @ Y
        self.T = (self.T + self.T.conj().T) / 2
        self.S = self.S @ Y

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on later, bit for bit: tensors and plain numbers."""
        return {
            "vectors": self.basis.vectors.clone(),
            "T": torch.as_tensor(self.T.copy()),
            "S": torch.as_tensor(self.S.copy()),
            "block": self.block,
            "invariant": self.invariant,
            "locked": self.locked,
            "num_matvecs": self.num_matvecs,
            "generator": self.basis.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from an earlier :meth:`state_dict` of the same operator; one product checks that it is.

        Raises
        ------
        CheckpointError
            If the state is of another space, dtype or block size, does not fit the capacity, or belongs to another A.
        """
        _require_state(self, state, self.state_dict(), {"vectors": self.basis})
        self.basis.restore(state["vectors"])
        self.T, self.S = state["T"].numpy().copy(), state["S"].numpy().copy()
        m = len(self.T)
        _require_own(self.A, self.defect(np.full(m, m**-0.5)) if m else 0.0, self.T)
        self.invariant, self.locked = state["invariant"], state["locked"]
        self.num_matvecs = state["num_matvecs"]
        self.basis.generator.set_state(state["generator"])


class GolubKahanSchur:
    """``J V = U B`` and ``Jᴴ U = V Bᴴ + V₊ S``: U, V and the next block V₊ ``[n p]`` orthonormal.

    The rectangular counterpart of :class:`KrylovSchur`: JᴴJ is never formed, so that singular values are
    resolved to ``ε‖J‖``. ``invariant`` and ``locked`` are those of V; ``unseen`` says that V has gone on from a vector
    of U that is round-off, whose image under Jᴴ does not see the kernel of J as a random vector would.

    Cost: p products with J and p with Jᴴ per step; memory ``capacity`` vectors of either side.
    Reference: Baglama & Reichel (2005), doi:10.1137/04060593X.

    >>> from precondlab.operators import Diagonal
    >>> J = Diagonal(torch.tensor([1.0, 3.0], dtype=torch.float64))
    >>> K = GolubKahanSchur(J, torch.ones(2, 1, dtype=torch.float64), capacity=2)
    >>> for _ in range(2):
    ...     K.step()
    >>> K.ritz()[0].round(12)
    array([3., 1.])
    """

    def __init__(self, J: Operator, start: Tensor, *, capacity: int, generator: torch.Generator | None = None) -> None:
        self.J = J
        self.block = start.shape[1]
        capacity = require_integer("GolubKahanSchur", "capacity", capacity, least=self.block)
        self.right = Basis(J.domain, capacity, generator=generator)
        self.left = Basis(J.codomain, capacity)
        self.num_matvecs = 0
        require_finite(start, J, 0)
        self.right.append(start)
        self.right.append_random(self.block - self.right.size)
        kind = np.complex128 if J.domain.dtype.is_complex else np.float64
        self.B, self.S = np.zeros((0, 0), kind), np.zeros((self.right.size, 0), kind)
        self.invariant, self.unseen, self.locked = False, False, 0

    @property
    def complete(self) -> bool:
        """Whether V spans the whole space."""
        return self.B.shape[1] == self.J.domain.size

    def step(self) -> None:
        """Extend V by the next block and U by its image."""
        rows, m = self.B.shape
        total = self.right.size
        self.right.require_room(total - m)
        if self.invariant:
            self.locked = m
        W = self.J.forward(self.right.vectors[:, m:].contiguous())
        self.num_matvecs += total - m
        require_finite(W, self.J, self.num_matvecs)
        scale = np.abs(self.B).max(initial=0.0)
        _, R = self.left.append(W, scale=scale)
        B = np.zeros((self.left.size, total), self.B.dtype)
        B[:rows, :m] = self.B
        B[:rows, m:], B[rows:, m:] = self.S.conj().T, R.cpu().numpy()
        new = self.left.vectors[:, rows:].contiguous()
        Z = self.J.backward(new)
        require_finite(Z, self.J, self.num_matvecs)
        _, coupling = self.right.append(Z, scale=scale)
        self.right.append_random(self.block - len(coupling))
        self.B = B
        self.S = np.zeros((self.right.size - total, self.left.size), self.B.dtype)
        self.S[: len(coupling), rows:] = coupling.cpu().numpy()
        largest = float(np.abs(B).max(initial=0.0))
        self.invariant = _vanishes(coupling, largest)
        self.unseen = not self.invariant and (self.unseen or _vanishes(R, largest))

    def ritz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return singular values, descending, left and right vectors in the bases, and residuals ``‖Jᴴu − σv‖``.

        Where V has more vectors than U, the difference is singular values that are zero: their left vectors
        are zero too.
        """
        left, values, right = np.linalg.svd(self.B)
        count = min(self.B.shape[1], min(self.J.shape))
        values = np.pad(values, (0, max(0, count - len(values))))[:count]
        left = np.pad(left, ((0, 0), (0, max(0, count - left.shape[1]))))[:, :count]
        return values, left, right[:count].conj().T, np.linalg.norm(self.S @ left, axis=0)

    def vectors(self, left: np.ndarray, right: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return ``U left`` ``[m k]`` and ``V right`` ``[n k]``."""
        U, V = self.left.vectors, self.right.vectors[:, : self.B.shape[1]]
        return U @ torch.as_tensor(left).to(U), V @ torch.as_tensor(right).to(V)

    def defect(self, left: np.ndarray, right: np.ndarray) -> float:
        """Return ``‖(J V − U B) right‖`` or ``‖(Jᴴ U − V Bᴴ − V₊ S) left‖``, the larger, by a product with J and Jᴴ."""
        U, V, m = self.left.vectors, self.right.vectors, self.B.shape[1]
        u, image = torch.as_tensor(left).to(U), torch.as_tensor(self.B @ right).to(U)
        v = torch.as_tensor(right).to(V)
        back = torch.as_tensor(np.concatenate([self.B.conj().T @ left, self.S @ left])).to(V)
        forward = self.J.forward((V[:, :m] @ v)[:, None])[:, 0] - U @ image
        backward = self.J.backward((U @ u)[:, None])[:, 0] - V @ back
        return max(forward.norm().item(), backward.norm().item())

    def explored(self, right: np.ndarray) -> np.ndarray:
        """Return which right singular vectors belong to the part of V that was found last, after the locked one."""
        return np.linalg.norm(right[self.locked :], axis=0) > 0.5

    def restart(self, left: np.ndarray, right: np.ndarray) -> None:
        """Replace U by ``U left`` and V by ``V right`` for singular vectors ``[m k]``; the next block stays."""
        m, p = self.B.shape[1], self.right.size - self.B.shape[1]
        last = self.explored(right)
        order = np.argsort(last, kind="stable")
        left, right, self.locked = left[:, order], right[:, order], int((~last).sum())
        whole = np.zeros((m + p, right.shape[1] + p), self.B.dtype)
        whole[:m, : right.shape[1]] = right
        whole[m:, right.shape[1] :] = np.eye(p)
        self.right.rotate(torch.as_tensor(whole))
        left = left[:, np.linalg.norm(left, axis=0) > 0.5]  # singular values that are zero have no left vector
        self.left.rotate(torch.as_tensor(left))
        self.B, self.S = left.conj().T @ self.B @ right, self.S @ left

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on later, bit for bit: tensors and plain numbers."""
        return {
            "left": self.left.vectors.clone(),
            "right": self.right.vectors.clone(),
            "B": torch.as_tensor(self.B.copy()),
            "S": torch.as_tensor(self.S.copy()),
            "block": self.block,
            "invariant": self.invariant,
            "unseen": self.unseen,
            "locked": self.locked,
            "num_matvecs": self.num_matvecs,
            "generator": self.right.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from an earlier :meth:`state_dict` of the same operator; see :meth:`KrylovSchur.load_state_dict`."""
        _require_state(self, state, self.state_dict(), {"left": self.left, "right": self.right})
        self.left.restore(state["left"])
        self.right.restore(state["right"])
        self.B, self.S = state["B"].numpy().copy(), state["S"].numpy().copy()
        rows, m = self.B.shape
        ones = (np.full(count, max(count, 1) ** -0.5) for count in (rows, m))
        _require_own(self.J, self.defect(*ones) if m else 0.0, self.B)
        self.invariant, self.unseen, self.locked = state["invariant"], state["unseen"], state["locked"]
        self.num_matvecs = state["num_matvecs"]
        self.right.generator.set_state(state["generator"])
