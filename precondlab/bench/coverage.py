"""How often certified intervals hold: condition numbers and eigenvalues of operators whose spectrum is known."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from scipy.stats import beta

from precondlab.bench.environment import machine, own_versions
from precondlab.operator import Operator
from precondlab.operators import Dense, Kernel
from precondlab.report import style
from precondlab.spectrum import condition, eigsh
from precondlab.testing import gallery
from precondlab.testing.gallery import Known
from precondlab.testing.strategies.spectra import operators_with_spectrum

__all__ = ["draw", "run", "table"]

if TYPE_CHECKING:
    from rich.table import Table

_BUDGETS = (5, 10, 30, 80)  # products
_CONFIDENCE = 0.95
_CERTAIN = 1 - 1e-9  # asked of an interval that is to be called a certificate
_DAMPINGS = (0.0, 1e-4)  # relative to the norm
_LEVEL = 0.99  # of the Clopper–Pearson limit
_PATHS = {"forward": 0.6, "factored M": 0.1, "M": 0.1, "inverse": 0.1, "float32": 0.1}  # shares of the trials
_LARGEST = 400  # rows up to which an M is made by a factorization
Row = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One interval beside the truth."""

    path: str
    contained: bool
    lower_holds: bool
    claimed: bool
    reversed: bool
    false_certificate: bool
    width: float
    ghosts: int


@dataclass(frozen=True)
class Case:
    """A positive or another operator, what `condition` is given with it, and the number it should enclose."""

    path: str
    operator: Operator
    truth: float
    slack: float
    options: Row


def run(*, runs: int = 10_000, report: Callable[[str], object]) -> Row:
    """Enclose κ of every matrix of the gallery and of drawn ones, at random budgets, and count what held.

    A trial counts as covered if ``lower ≤ κ ≤ upper`` at the nominal confidence, so one with ``upper = ∞`` if its lower
    bound holds: ``finite`` is the share of the others, ``coverage_finite`` theirs. A *false certificate* is a status OK
    with κ outside, of the same run at a confidence of 1 − 1e-9; a *reversed* interval has ``upper < lower``; a *ghost*
    is an eigenvalue that :func:`~precondlab.spectrum.eigsh` returns more often than it occurs. Positive operators are
    also given ``M = (A + μI)⁻¹``, with a factor and without, as preconditioner or approximate inverse, and rounded to
    float32.
    """
    families = {name: _rotated(factory) for name, factory in gallery.families().items()}
    each = math.ceil(runs / (len(families) + 4))
    rows, every = [], []
    for name, make in families.items():
        found = [trial for i in range(each) for trial in _trials(make(i), i)]
        every += found
        rows.append(_row(name, found))
        report(f"{name}: {rows[-1]['coverage']:.2%} of {rows[-1]['runs']}")
    drawn = list(_drawn(max(1, runs - each * len(families))))
    rows.append(_row("drawn by hypothesis", drawn))
    paths = [_row(path, [trial for trial in every + drawn if trial.path == path]) for path in _PATHS]
    faults = ("lower_violations", "false_certificates", "reversed", "ghosts")
    ok = all(_held(row) and not any(row[fault] for fault in faults) for row in rows + paths)
    return {
        "ok": ok,
        "runs": sum(row["runs"] for row in rows),
        "confidence": _CONFIDENCE,
        "confidence_of_certificates": _CERTAIN,
        "budgets": _BUDGETS,
        "dampings": _DAMPINGS,
        "families": rows,
        "paths": paths,
        "machine": machine(),
        "versions": own_versions(),
    }


def _rotated(factory: Callable[..., Known]) -> Callable[[int], Known]:
    rotates = "generator" in inspect.signature(factory).parameters  # others are fixed matrices of the literature

    def make(number: int) -> Known:
        known = factory(generator=torch.Generator().manual_seed(number)) if rotates else factory()
        return known if known.operator.symmetric else known.gram()

    return make


def _drawn(count: int) -> Iterator[Trial]:
    found: list[Trial] = []

    @seed(0)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    @given(operators_with_spectrum())
    def collect(known: Known) -> None:
        if known.operator.domain.dtype == torch.float64 and min(known.operator.shape):
            found.extend(_trials(known if known.operator.symmetric else known.gram(), len(found)))

    collect()
    yield from found


def _trials(known: Known, number: int) -> Iterator[Trial]:
    rng = np.random.default_rng(number)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    if not known.norm:
        return
    case = _case(known, rng)
    budget = int(rng.choice(_BUDGETS))
    state = generator.get_state()
    found = []
    for confidence in (_CONFIDENCE, _CERTAIN):
        generator.set_state(state)
        options = {"num_matvecs": budget, "confidence": confidence, "generator": generator}
        found.append(condition(case.operator, **case.options, **options))
    result, certificate = found
    truth, slack = case.truth, case.slack
    lower_holds = result.lower <= truth * slack
    contained = lower_holds and truth <= result.upper * slack
    false = certificate.status.ok and not certificate.lower <= truth * slack <= certificate.upper * slack**2
    yield Trial(
        path=case.path,
        contained=contained,
        lower_holds=lower_holds,
        claimed=result.status.ok,
        reversed=any(c.upper < c.lower for c in found),
        false_certificate=false,
        width=result.upper / result.lower,
        ghosts=_ghosts(known, generator),
    )


def _case(known: Known, rng: np.random.Generator) -> Case:
    """Draw how κ is asked for."""
    A, values = known.operator, np.abs(known.values)
    path = str(rng.choice(list(_PATHS), p=list(_PATHS.values())))
    damping = float(rng.choice(_DAMPINGS)) * known.norm if A.positive else 0.0
    mu = known.norm * 10 ** rng.uniform(-6, -2)
    slack = 1 + 2 * float(known.rtol)
    if path == "forward" or not A.positive or A.shape[0] > _LARGEST:
        return Case("forward", A, _ratio(values + damping), slack, {"damping": damping})
    matrix = A.dense()
    matrix = (matrix + matrix.mH) / 2
    if path == "float32":
        rounded = matrix.to(torch.float32)
        values = torch.linalg.eigvalsh(rounded.double()).clamp(min=0).numpy()
        values = np.where(values > 1e-15 * len(values) * values.max(), values, 0.0)
        truth = _ratio(values)
        slack = 1 + (1e-15 * len(values) * truth if truth < math.inf else 0.0)
        return Case(path, Dense(rounded, positive=True), truth, slack, {})
    found, Q = torch.linalg.eigh(matrix)
    scale = (found.clamp(min=0) + mu) ** -0.5
    M = Dense(Q * scale**2 @ Q.mH, positive=True) if path == "M" else Kernel(Dense(Q * scale))
    if path == "inverse":
        return Case(path, A, _ratio(values + damping), slack, {"approximate_inverse": M, "damping": damping})
    slack += float(1e-14 * len(values) * known.norm / mu)  # M is made from A in float64
    return Case(path, A, _ratio(values / (values + mu)), slack, {"preconditioner": M})


def _ratio(values: np.ndarray) -> float:
    return float(values.max() / values.min()) if values.min() > 0 else math.inf


def _ghosts(known: Known, generator: torch.Generator) -> int:
    """Count eigenvalues returned more often than they occur within the accuracy claimed."""
    A = known.operator
    k = min(4, A.shape[0] - 1)
    if k < 1:
        return 0
    found = eigsh(A, k, which="LA", num_matvecs=40, generator=generator)
    tolerance = 1e-10 * known.norm + 2 * known.rtol * known.norm
    converged = found.values[found.residuals <= 1e-12 * known.norm]
    return sum(
        max(
            0,
            int((np.abs(converged - value) <= tolerance).sum())
            - int((np.abs(known.values - value) <= 2 * tolerance).sum()),
        )
        for value in converged
    )


def _row(name: str, trials: list[Trial]) -> Row:
    held, runs = sum(t.contained for t in trials), len(trials)
    claimed = [t for t in trials if t.claimed]
    widths = [t.width for t in trials if t.claimed and t.width < math.inf]
    return {
        "family": name,
        "runs": runs,
        "held": held,
        "coverage": held / runs if runs else 1.0,
        "coverage_limit": float(beta.ppf(1 - _LEVEL, held, runs - held + 1)) if held else 0.0,
        "lower_violations": sum(not t.lower_holds for t in trials),
        "reversed": sum(t.reversed for t in trials),
        "false_certificates": sum(t.false_certificate for t in trials),
        "ghosts": sum(t.ghosts for t in trials),
        "finite": len(claimed) / runs if runs else 0.0,
        "coverage_finite": sum(t.contained for t in claimed) / len(claimed) if claimed else None,
        "median_width": float(np.median(widths)) if widths else None,
    }


def _held(row: Row) -> bool:
    """Whether as many intervals hold as should; one that does not is no evidence."""
    missed = row["runs"] - row["held"]
    return missed <= max(1, (1 - _CONFIDENCE) * row["runs"])


def draw(document: Row, out: Path) -> Path:
    """Draw coverage and the share of finite intervals of every family; return the file ``coverage.png``."""
    out.mkdir(parents=True, exist_ok=True)
    rows = document["families"][::-1]
    places = np.arange(len(rows))
    with style() as plt:
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 1.2 + 0.24 * len(rows)), sharey=True)
        limits = [row["coverage"] - row["coverage_limit"] for row in rows]
        left.errorbar([row["coverage"] for row in rows], places, xerr=[limits, 0 * places], fmt="o", markersize=4)
        left.axvline(document["confidence"], color="k", linestyle="--", label=f"nominal {document['confidence']:.0%}")
        left.set(xlabel="share of intervals that hold κ, and 99 % limit", xlim=(0.9, 1.005))
        left.set_yticks(places, [row["family"] for row in rows], fontsize="small")
        left.legend(loc="lower left")
        right.barh(places, [row["finite"] for row in rows], color="C2")
        right.set(xlabel="share with a finite upper bound", xlim=(0, 1))
        figure.tight_layout()
        figure.savefig(out / "coverage.png")
        plt.close("all")
    return out / "coverage.png"


def table(document: Row) -> Table:
    """Return a rich table with a line per family."""
    from rich.table import Table

    found = Table(
        title=f"{document['runs']:,} intervals for κ, nominal {document['confidence']:.0%}", title_justify="left"
    )
    names = ("family", "runs", "held", "99 %", "low ✗", "up<low", "false", "ghosts", "finite", "held then", "width")
    for name in names:
        found.add_column(name, justify="left" if name == "family" else "right", no_wrap=True)
    found.caption = (
        "held: κ in the interval, and its 99 % limit; low ✗: lower bounds violated; up<low: empty; false: "
        "certificates that are not true; finite: with an upper bound, how many of these hold κ, and their median width"
    )
    for row in [*document["families"], *document["paths"]]:
        found.add_row(
            row["family"],
            f"{row['runs']:,}",
            f"{row['coverage']:.2%}",
            f"{row['coverage_limit']:.2%}",
            str(row["lower_violations"]),
            str(row["reversed"]),
            str(row["false_certificates"]),
            str(row["ghosts"]),
            f"{row['finite']:.0%}",
            "–" if row["coverage_finite"] is None else f"{row['coverage_finite']:.2%}",
            "–" if row["median_width"] is None else f"{row['median_width']:.4g}",
        )
    return found
