"""What `bench spectra` computes, in which ways, and the figures aimed at."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from precondlab.bench.cases import Case, laplacian
from precondlab.bench.ways import Entry
from precondlab.bench.ways.spectral.fourier import extremes

__all__ = ["QUICK", "STUDIES", "Goal", "Study", "condition", "density", "top"]

Kind = Literal["condition", "top", "density"]


@dataclass(frozen=True)
class Goal:
    """``figure ≤ limit`` for a way, of the row itself or relative to that of another way.

    Parameters
    ----------
    figure
        ``error``, ``products``, ``cpu_seconds``, ``wall_seconds``, ``memory_mb``, ``basis_mb``
        or ``total_mb``.
    limit
        Largest value.
    way, against
        Of which row, and relative to which.
    """

    figure: str
    limit: float
    way: str = "precondlab"
    against: str | None = None


@dataclass(frozen=True)
class Study:
    """One spectral quantity in several ways.

    Parameters
    ----------
    name, title
        For tables.
    kind
        ``"condition"``: κ; ``"top"``: the largest eigenvalues; ``"density"``: mean and largest node.
    options
        Given to every computation, with those of its entry on top.
    entries
        The ways; precondlab's first.
    accuracy
        Relative error from which a result counts as wrong; for a density that of its largest node.
    case
        Network and data, if there are any.
    tiny
        Options that take no time, to load libraries before anything is measured.
    truth
        κ, or the largest eigenvalues, if a formula has them.
    reference
        Otherwise the computation to compare with.
    goals
        Figures aimed at.
    repeats
        How often every way that gives a right answer is timed.
    timeout
        Seconds for one run.
    structured
        Whether samples have clusters and decaying directions, as data have.
    """

    name: str
    title: str
    kind: Kind
    options: dict[str, Any]
    entries: tuple[Entry, ...]
    accuracy: float
    case: Case | None = None
    tiny: dict[str, Any] = field(default_factory=dict)
    truth: float | tuple[float, ...] | None = None
    reference: Entry | None = None
    goals: tuple[Goal, ...] = ()
    repeats: int = 5
    timeout: float = 900.0
    structured: bool = False


def _own(factory: str, name: str = "precondlab", **options: Any) -> Entry:
    return Entry(name, "precondlab", f"spectral.own:{factory}", options)


def _scipy(name: str, factory: str, **options: Any) -> Entry:
    return Entry(f"SciPy {name}", "SciPy", f"spectral.scipy_condition:{factory}", options)


def _peer(name: str, factory: str, **options: Any) -> Entry:
    module = {"curvlinops": "curvlinops", "hessian-eigenthings": "eigenthings", "matfree": "matfree"}
    family = name.split()[0]
    return Entry(name, family, f"spectral.peer_{module[family]}:{factory}", options, "peers")


_CONDITION = (
    _own("Kappa"),
    _scipy("eigsh SA, LA", "Arpack", which="SA"),
    _scipy("eigsh SM, LA", "Arpack", which="SM"),
    _scipy("eigsh σ = 0, cg", "ShiftInvert"),
    _scipy("eigsh σ = 0, cg, same M", "ShiftInvert", preconditioned=True),
    _scipy("lobpcg", "Lobpcg"),
    _scipy("lobpcg, same M", "Lobpcg", preconditioned=True),
    _scipy("svds SM, LM", "Svds"),
    _scipy("lsmr conda²", "Lsmr"),
    _scipy("dense svd", "Dense"),
    _peer("hessian-eigenthings lanczos SA, LA", "Kappa"),
    _peer("matfree lsmr cond_A²", "Lsmr"),
)


def condition(K: int, *, accuracy: float = 1e-6, seconds: float = 60.0, **goals: float) -> Study:
    """Return κ of Fourier–Poisson in a rotated basis; goals ``error`` and ``products``."""
    smallest, largest = extremes(K)
    return Study(
        name=f"condition-{K}",
        title=f"κ of Fourier–Poisson, K = {K:,}, basis rotated",
        kind="condition",
        options={"K": K, "products": 20 * (2 * K + 1), "seconds": seconds},
        tiny={"K": 15, "products": 500, "seconds": 5.0},
        entries=_CONDITION,
        accuracy=accuracy,
        truth=largest / smallest,
        goals=tuple(Goal(figure, limit) for figure, limit in goals.items()),
    )


def top(case: Case, *, repeats: int = 7, **goals: float) -> Study:
    """Return the ten largest eigenvalues of a PINN's A to 1e-6."""
    return Study(
        name=f"top-{case.name}",
        title=f"10 largest eigenvalues of a PINN's A, {case.parameters:,} parameters, to 1e-6",
        kind="top",
        options={"count": 10, "tol": 1e-4, "steps": 20},
        case=case,
        entries=(
            _own("PoissonTop"),
            _peer("curvlinops eigsh", "Top"),
            _peer("hessian-eigenthings lanczos", "Top"),
        ),
        accuracy=1e-6,
        reference=Entry("dense JJᵀ", "dense", "spectral.plain:DenseTop"),
        goals=tuple(Goal(figure, limit) for figure, limit in goals.items()),
        repeats=repeats,
    )


_DENSITY = (
    _own("ClassifierDensity"),
    Entry("plain loop, torch.func", "plain loop", "spectral.plain:Density"),
    _peer("curvlinops spectrum", "Density"),
    _peer("curvlinops fast_lanczos", "Lanczos"),
    _peer("hessian-eigenthings density", "Density"),
    _peer("matfree", "Density", reortho="none"),
    _peer("matfree reorthogonalized", "Density", reortho="full"),
)


def density(case: Case, *, steps: int = 80, repeats: int = 3, **goals: float) -> Study:
    """Return the density of a classifier's GGN."""
    return Study(
        name=f"density-{case.name}",
        title=f"density of a GGN, {case.parameters:,} parameters, {case.points:,} samples, {steps} steps",
        kind="density",
        options={"steps": steps, "probes": 30},
        tiny={"steps": 5, "probes": 2},
        case=case,
        entries=_DENSITY,
        accuracy=1e-6,
        reference=Entry("trace by plain loop", "plain loop", "spectral.plain:Trace"),
        goals=tuple(Goal(figure, limit) for figure, limit in goals.items()),
        repeats=repeats,
    )


def memory(size: int, *, budget: int, count: int = 4, steps: int = 60, decay: float = 0.2) -> tuple[Study, Study]:
    """Return the largest eigenvalues and the density of a large synthetic operator within so many bytes."""
    whole, small = "precondlab, not restarted", "precondlab"
    common = {"size": size, "decay": decay}
    tiny = {"size": 1000}
    restarted = Study(
        name="memory-top",
        title=f"{count} largest of i^−{decay:g} with {size:,} parameters, basis within {budget / 1e9:.2g} GB",
        kind="top",
        options=common | {"count": count, "tol": 0.0},
        tiny=tiny,
        entries=(
            _own("SyntheticTop", small, solver={"memory_budget": budget}),
            _own("SyntheticTop", whole, solver={"ncv": 2 * steps, "memory_budget": 20 * budget}),
        ),
        accuracy=1e-8,
        truth=tuple(float(i) ** -decay for i in range(count, 0, -1)),
        goals=(Goal("products", 1.5, against=whole), Goal("basis_mb", budget / 1e6)),
        repeats=1,
        timeout=1800,
    )
    unrestarted = Study(
        name="memory-density",
        title=f"density of i^−{decay:g} with {size:,} parameters, {steps} steps",
        kind="density",
        options=common | {"steps": steps},
        tiny=tiny | {"steps": 5},
        entries=(_own("SyntheticDensity"),),
        accuracy=1e-6,
        truth=(1.0,),
        goals=(Goal("products", steps), Goal("memory_mb", budget / 1e6)),
        repeats=1,
        timeout=1800,
    )
    return restarted, unrestarted


def large(case: Case, *, steps: int) -> tuple[Study, Study]:
    """Return ten eigenvalues and a density of a large float32 classifier."""
    common: dict[str, Any] = {"dtype": "float32"}
    limits = (Goal("wall_seconds", 600.0), Goal("total_mb", 4096.0))
    eigen, spectrum = "curvlinops eigsh", "curvlinops spectrum"
    return (
        Study(
            name="classifier-top",
            title=f"10 largest eigenvalues of a GGN, {case.parameters:,} parameters, float32",
            kind="top",
            options=common | {"count": 10, "tol": 1e-5},
            case=case,
            entries=(_own("ClassifierTop"), _peer(eigen, "Top")),
            accuracy=1e-4,
            reference=_peer(eigen, "Top"),
            goals=(*limits, Goal("cpu_seconds", 1.0, against=eigen), Goal("total_mb", 1.0, against=eigen)),
            repeats=1,
            timeout=7200,
            structured=True,
        ),
        Study(
            name="classifier-density",
            title=f"density of a GGN, {case.parameters:,} parameters, float32, {steps} steps",
            kind="density",
            options=common | {"steps": steps, "probes": 8},
            tiny={"steps": 5, "probes": 2},
            case=case,
            entries=(
                _own("ClassifierDensity"),
                _peer(spectrum, "Density"),
                _peer("curvlinops fast_lanczos", "Lanczos"),
            ),
            accuracy=1e-4,
            reference=Entry("trace by plain loop", "plain loop", "spectral.plain:Trace"),
            goals=(*limits, Goal("cpu_seconds", 1.0, against=spectrum), Goal("total_mb", 1.0, against=spectrum)),
            repeats=1,
            timeout=7200,
            structured=True,
        ),
    )


STUDIES = (
    condition(200, error=1e-6, products=60),
    condition(1000, error=1e-6, products=60),
    condition(10_000, accuracy=1e-3, error=1e-3),
    top(laplacian(64, 2000, 400, name="small"), cpu_seconds=0.6, error=1e-6),
    density(Case("supervised", "classification", (784, 512, 512, 10), 2048), cpu_seconds=5.0),
    *memory(10_000_000, budget=10**9),
    *large(Case("classifier", "classification", (784, 2048, 2048, 2048, 10), 2048), steps=40),
)

_SMALL = Case("quick", "classification", (12, 10, 5), 40)
QUICK = tuple(
    dataclasses.replace(study, repeats=2, entries=tuple(e for e in study.entries if e.environment == "own"))
    for study in (
        condition(40, seconds=5.0, error=1e-6, products=60),
        top(laplacian(12, 60, 20, depth=2, name="quick"), error=1e-6),
        density(_SMALL, steps=12),
        *memory(3000, budget=8 * 3000 * 13, count=3, steps=40),
    )
)
