"""Loss weights that make the blocks of a residual equally strong, and what each choice does to κ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import torch

from precondlab.operators import Gram
from precondlab.preconditioners.weights import require_blocks
from precondlab.spectrum import Condition, condition, trace
from precondlab.spectrum.extremes import eigsh

__all__ = ["Weighting", "compare_weights", "equalize"]

Strength = Literal["trace", "largest", "residual"]


_PRODUCTS = 20  # for the scale of round-off


class _NoStrength(ValueError):
    """A rule does not apply."""


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
        If a block is zero to round-off by the measure chosen, so that no weight makes it equal to the others, or the
        first has the weight 0.

    Cost: at most ``num_matvecs`` products with every block.
    Reference: Wang, Yu & Perdikaris (2022), doi:10.1016/j.jcp.2021.110768, for the traces.

    >>> from precondlab import models, operators, problems
    >>> r = problems.poisson().residual(models.fourier(2), interior=40)
    >>> weights = equalize(operators.Gram(operators.Jacobian(r)))
    >>> round(weights["boundary"] / weights["interior"], 6)  # tr of k⁴ over all waves: 2(1 + 16), of the ends: 5/π
    21.362830
    """
    present = require_blocks("equalize", A).map.weights
    first = next(iter(present))
    if not present[first] > 0:
        raise ValueError(f"equalize: the weights are relative to that of {first!r}, which is 0; give it a positive one")
    unit = A.reweighted(dict.fromkeys(present, 1.0))
    strengths = {name: _strength(unit.block(name), by, num_matvecs, generator) for name in present}
    dead = [name for name, strength in strengths.items() if not strength > 0]
    if dead:
        raise _NoStrength(
            f"equalize: the blocks {dead} have strength 0 by {by!r}: no weight makes them equal to the others; "
            "fix their weights, or measure by another strength"
        )
    return {name: present[first] * strengths[first] / strength for name, strength in strengths.items()}


def compare_weights(
    A: Gram, choices: Mapping[str, Mapping[str, float]] | None = None, /, *, num_matvecs: int | None = None
) -> list[Weighting]:
    """Return κ for several choices of the weights, best first; by default the rules of :func:`equalize` that apply.

    ``choices`` maps a name to weights, as for :meth:`Gram.reweighted`; the present weights are always among them.

    Cost: one :func:`~precondlab.condition` per choice.

    >>> from precondlab import models, operators, problems
    >>> r = problems.poisson().residual(models.fourier(4), interior=40)
    >>> [w.name for w in compare_weights(operators.Gram(operators.Jacobian(r)), {"λ = 30": {"boundary": 30.0}})]
    ['λ = 30', 'present']
    """
    present = require_blocks("compare_weights", A).map.weights
    found: dict[str, Mapping[str, float]] = {"present": {}}
    found |= _rules(A) if choices is None else choices
    rows = [
        Weighting(name, {**present, **weights}, condition(A.reweighted(weights), num_matvecs=num_matvecs))
        for name, weights in found.items()
    ]
    return sorted(rows, key=lambda row: row.condition.lower)


def _rules(A: Gram) -> dict[str, Mapping[str, float]]:
    rules: tuple[Strength, ...] = ("trace", "largest", "residual")
    found = {}
    for by in rules:
        with suppress(_NoStrength):
            found[f"equal {by}"] = equalize(A, by=by)
    return found


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
    """Return ``rᵀKr/‖r‖²``, 0 if it is round-off of the largest eigenvalue."""
    r = require_blocks("equalize", block).value
    if not r.any():
        return 0.0
    rate = (block.J.backward(r[:, None]).norm() / r.norm()).item() ** 2
    largest = float(eigsh(block, 1, which="LA", num_matvecs=_PRODUCTS, tol=0.1).values[-1])
    return rate if rate > (len(r) * block.domain.eps) ** 2 * largest else 0.0
