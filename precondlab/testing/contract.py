"""The public contract of operators: named checks, to be run at once or one test each."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from precondlab.operator import Operator, as_operator
from precondlab.testing.laws import LAWS
from precondlab.testing.probe import CheckFailed, Probe

__all__ = ["Check", "CheckFailed", "check_operator", "checks"]


class Check(NamedTuple):
    """A named check of one operator; call it to run it.

    It is a pair ``(name, run)`` as well, and its string is its name, so a list of checks can be
    given to ``pytest.mark.parametrize("check", ..., ids=str)``.

    >>> check = Check("nothing", lambda: None)
    >>> check(), str(check)
    (None, 'nothing')
    """

    name: str
    run: Callable[[], None]

    def __call__(self) -> None:
        """Run the check; raises :class:`CheckFailed`."""
        self.run()

    def __str__(self) -> str:
        return self.name


def checks(
    A: LinearOperator,
    /,
    *,
    matrix: Tensor | None = None,
    generator: torch.Generator | None = None,
    rtol: float | None = None,
) -> list[Check]:
    """Return the checks that apply to an operator, without running them.

    Parameters are those of :func:`check_operator`. Each check draws its own random vectors, so
    it gives the same answer alone and in any order.

    >>> from precondlab.operators import Dense
    >>> [check.name for check in checks(Dense(torch.eye(2)))][:3]
    ['linear', 'adjoint', 'block = columns']
    """
    operator = A if isinstance(A, Operator) else as_operator(A)
    if matrix is not None and matrix.shape != operator.shape:
        raise ValueError(f"check {operator!r}: expected a matrix {operator.shape}, got {tuple(matrix.shape)}")
    seed = 0 if generator is None else int(torch.randint(2**31, (), generator=generator, device=generator.device))
    return [
        Check(name, partial(_run, law, operator, name, seed, rtol, matrix))
        for name, (law, applies) in LAWS.items()
        if applies(operator, matrix)
    ]


def check_operator(
    A: LinearOperator,
    /,
    *,
    matrix: Tensor | None = None,
    generator: torch.Generator | None = None,
    rtol: float | None = None,
) -> list[Check]:
    """Run every check that applies to an operator and return them; raise if any fails.

    The laws: linear; adjoint ``⟨u, Av⟩ = ⟨Aᴴu, v⟩``; a block of columns is its columns; torch and
    NumPy agree, whatever the memory layout; products agree with the dense matrix (up to 256 rows
    and columns, or with ``matrix``); symmetric and positive if declared so; ``S Sᴴ = A`` for
    ``S = A.sqrt``; repeatable, leaving its argument alone; a derivative agrees with finite differences
    of its map; wrong shapes, dtypes and devices are refused; SciPy's attributes are there.

    A wrong operator with the adjoint that belongs to it passes the adjoint test. Give ``matrix``
    to rule that out; derivatives need none, finite differences see it.

    Parameters
    ----------
    A
        An :class:`~precondlab.operator.Operator`, or any SciPy ``LinearOperator``.
    matrix
        The matrix ``[m n]`` that A should have, found in another way.
    generator
        Of the random vectors; a fixed seed if None.
    rtol
        Allowed error relative to ``‖A‖_F ‖v‖``; by default :func:`tolerance` of the dtype. Give the
        accuracy of the inner solver for an operator that solves something iteratively.

    Raises
    ------
    CheckFailed
        An AssertionError naming every check that failed, what was measured and what is allowed.

    Cost: about 150 products; m + n more for small operators; about 50 evaluations of the map for
    a derivative.

    >>> from precondlab.operators import Dense
    >>> len(check_operator(Dense(torch.eye(3)), matrix=torch.eye(3))) > 8
    True
    >>> check_operator(Dense(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), symmetric=True))
    Traceback (most recent call last):
    ...
    precondlab.testing.probe.CheckFailed: ...
    """
    every = checks(A, matrix=matrix, generator=generator, rtol=rtol)
    failures = []
    for check in every:
        try:
            check()
        except CheckFailed as failure:
            failures.append(failure)
    if failures:
        raise CheckFailed("\n".join(map(str, failures)))
    return every


def _run(
    law: Callable[[Probe], None],
    A: Operator,
    name: str,
    seed: int,
    rtol: float | None,
    matrix: Tensor | None,
) -> None:
    generator = torch.Generator().manual_seed(seed ^ zlib.crc32(name.encode()))
    law(Probe(A, name, generator, rtol, matrix))
