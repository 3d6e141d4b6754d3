"""Loss weights that make the blocks of a residual equally strong, and what each choice does to κ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from precondlab.operators import Gram
from precondlab.preconditioners.weights import require_blocks
from precondlab.spectrum import Condition, condition, trace
from precondlab.spectrum.extremes import eigsh

__all__ = ["Weighting", "compare_weights", "equalize"]

Strength = Literal["trace", "largest", "residual"]


@dataclass(frozen=True)
class Weighting:
    """Weights of the blocks and the condition number they give."""

    name: str
    weights: Mapping[str, float]
    condition: Condition


def equalize(
    A: Gram,
    /,
    *,
    by: Strength = "trace",
    num_matvecs: int = 60,
    generator: torch.Generator | None = None,
) -> dict[str, float]:
    """Return weights λ_b under which all blocks of a residual are equally strong; the first block keeps its own.

    ``λ_b s_b = λ_1 s_1`` with the strength ``s_b`` of ``J_bᵀJ_b`` measured by

    * ``"trace"``: ``tr J_bJ_bᵀ``, the mean rate of the block under gradient descent times its rows;
    * ``"largest"``: ``λ_max(J_bᵀJ_b)``, the fastest rate of the block;
    * ``"residual"``: ``r_bᵀ K_b r_b / ‖r_b‖²``, the rate at which the present residual of the block falls.

    These rules need no search but do not look at κ: for Poisson's equation the trace rule gives
    λ ~ K⁴ where the best is ~ K². Compare them by :func:`compare_weights`, or minimize κ by
    :func:`~precondlab.preconditioners.balance`.

    Parameters
    ----------
    A
        ``Gram(J)`` of a residual with named blocks.
    by
        What is made equal.
    num_matvecs
        Budget of products per block.

    Raises
    ------
    ValueError
        If a block is zero by the measure chosen, so that no weight makes it equal to the others.

    Cost: at most ``num_matvecs`` products with every block.
    Reference: Wang, Yu & Perdikaris (2022), doi:10.1016/j.jcp.2021.110768, for the traces.

    >>> from precondlab import models, operators, problems
    >>> r = problems.poisson().residual(models.fourier(2), interior=40)
    >>> weights = equalize(operators.Gram(operators.Jacobian(r)))
    >>> round(weights["boundary"] / weights["interior"], 6)  # tr of k⁴ over all waves: 2(1 + 16), of the ends: 5/π
    21.362830
    """
    present = require_blocks("equalize", A).map.weights
    unit = A.reweighted(dict.fromkeys(present, 1.0))
    strengths = {name: _strength(unit.block(name), by, num_matvecs, generator) for name in present}
    dead = [name for name, strength in strengths.items() if not strength > 0]
    if dead:
        raise ValueError(
            f"equalize: the blocks {dead} have strength 0 by {by!r}: no weight makes them equal to the others; "
            "fix their weights, or measure by another strength"
        )
    first = next(iter(present))
    return {name: present[first] * strengths[first] / strength for name, strength in strengths.items()}


def compare_weights(
    A: Gram, choices: Mapping[str, Mapping[str, float]] | None = None, /, *, num_matvecs: int | None = None
) -> list[Weighting]:
    """Return κ for several choices of the weights, best first; by default the rules of :func:`equalize`.

    ``choices`` maps a name to weights, as for :meth:`Gram.reweighted`; the present weights are always among them.

    Cost: one :func:`~precondlab.condition` per choice.

    >>> from precondlab import models, operators, problems
    >>> r = problems.poisson().residual(models.fourier(4), interior=40)
    >>> [w.name for w in compare_weights(operators.Gram(operators.Jacobian(r)), {"λ = 30": {"boundary": 30.0}})]
    ['λ = 30', 'present']
    """
    present = require_blocks("compare_weights", A).map.weights
    found: dict[str, Mapping[str, float]] = {"present": {}}
    rules: tuple[Strength, ...] = ("trace", "largest", "residual")
    found |= {f"equal {by}": equalize(A, by=by) for by in rules} if choices is None else choices
    rows = [
        Weighting(name, {**present, **weights}, condition(A.reweighted(weights), num_matvecs=num_matvecs))
        for name, weights in found.items()
    ]
    return sorted(rows, key=lambda row: row.condition.lower)


def _strength(block: Gram, by: Strength, num_matvecs: int, generator: torch.Generator | None) -> float:
    measures: dict[Strength, Callable[[], float]] = {
        "trace": lambda: trace(block, num_matvecs=num_matvecs, generator=generator).value,
        "largest": lambda: float(eigsh(block, 1, which="LA", num_matvecs=num_matvecs, tol=1e-3).values[-1]),
        "residual": lambda: _rate(block),
    }
    if by not in measures:
        raise ValueError(f"equalize: by should be one of {list(measures)}, got {by!r}")
    return measures[by]()


def _rate(block: Gram) -> float:
    r = require_blocks("equalize", block).value
    if not r.any():
        return 0.0
    return (block.J.backward(r[:, None]).norm() / r.norm()).item() ** 2
