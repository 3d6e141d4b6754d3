"""Test operators with known spectra, and what each of them traps.

Every function returns a :class:`Known` at a default size: symmetric matrices of the literature
(``classical``), chosen spectra (``prescribed``) and rectangular operators (``rectangular``). A new
function that its module names in ``__all__`` is found by :func:`families` and tested.

>>> poisson1d(3)
Known poisson1d: Gram(Difference[4×3]), eigenvalues 3.41421 … 0.585786, rank 3
>>> "strakos" in families()
True
"""

import inspect
import sys
from collections.abc import Callable, Iterator

import torch

from precondlab.catalogue import factories
from precondlab.testing.gallery import classical, prescribed, rectangular
from precondlab.testing.gallery.classical import *  # noqa: F403
from precondlab.testing.gallery.factors import rotation
from precondlab.testing.gallery.known import Known
from precondlab.testing.gallery.prescribed import *  # noqa: F403
from precondlab.testing.gallery.rectangular import *  # noqa: F403

__all__ = ["Known", "every", "families", "rotation"]
__all__ += classical.__all__
__all__ += prescribed.__all__
__all__ += rectangular.__all__


def families() -> dict[str, Callable[..., Known]]:
    """Return every function of the gallery by name; each can be called without arguments."""
    return factories(sys.modules[__name__], "Known")


def every(*, generator: torch.Generator | None = None) -> Iterator[Known]:
    """Yield every matrix at its default size; those with a chosen spectrum are rotated if a generator is given.

    >>> all(known.operator.shape[0] >= 8 for known in every())
    True
    """
    for factory in families().values():
        rotates = generator is not None and "generator" in inspect.signature(factory).parameters
        yield factory(generator=generator) if rotates else factory()
