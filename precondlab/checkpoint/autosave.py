"""Resume and save a running solver from its callback."""

from __future__ import annotations

import os
import time
from typing import Any, Protocol

from precondlab.checkpoint.folder import load, save, saved
from precondlab.checkpoint.tree import fingerprint

__all__ = ["Autosave"]


class Resumable(Protocol):
    """What can say where it is and go on from there."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> object: ...


class Autosave:
    """Callback that goes on from the checkpoint in a folder, if there is one, and saves every so many seconds.

    ``eigsh(A, callback=Autosave(folder))`` or ``svds``: run the same line again after a crash, and the result is the
    one of an uninterrupted run, bit for bit on the same machine, versions and number of threads. The state after
    the first step is the fingerprint, so that the folder of another operator, or another start vector, is refused.

    Parameters
    ----------
    folder
        One for each run; delete it when the result is safe.
    every
        Seconds between two checkpoints; 0 saves each step.
    keep
        As for :func:`~precondlab.checkpoint.save`.

    Raises
    ------
    CheckpointError
        At the first call, if the folder belongs to something else or none of its checkpoints can be read.

    Cost: the first step of the solver once more at each resumption, and :func:`~precondlab.checkpoint.save`.

    >>> import tempfile
    >>> import torch
    >>> from precondlab.operators import Diagonal
    >>> from precondlab.spectrum import eigsh
    >>> A = Diagonal(torch.arange(1.0, 101.0, dtype=torch.float64))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     first = eigsh(A, 2, callback=Autosave(folder, every=0))
    ...     again = eigsh(A, 2, callback=Autosave(folder))
    >>> torch.equal(first.vectors, again.vectors)
    True
    """

    def __init__(self, folder: str | os.PathLike[str], *, every: float = 60.0, keep: int = 2) -> None:
        if not every >= 0:
            raise ValueError(f"Autosave: every should be a number of seconds ≥ 0, got {every}")
        self.folder = folder
        self.every = every
        self.keep = keep
        self._fingerprint: str | None = None
        self._last = time.monotonic()

    def __call__(self, solver: Resumable) -> None:
        """Resume at the first call, save if it is time."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(solver.state_dict())
            if saved(self.folder):
                solver.load_state_dict(load(self.folder, fingerprint=self._fingerprint))
        if time.monotonic() - self._last >= self.every:
            save(self.folder, solver.state_dict(), keep=self.keep, fingerprint=self._fingerprint)
            self._last = time.monotonic()
