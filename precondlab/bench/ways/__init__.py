"""The ways of computing a product that are compared: one file per family, and the list of all of them.

A way is a class in a module of this folder and one :class:`Entry` below.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["ENTRIES", "PLANNED", "QUICK", "REFERENCE", "Entry"]

Environment = Literal["own", "peers"]
_PDE = ("laplacian", "derivative", "normalized")
_SMALL = 100_000  # parameters
_CLASSIFIERS = ("classification", "encoder", "convolution")
_ANY_LAPLACIAN = ("laplacian", "normalized")


@dataclass(frozen=True)
class Entry:
    """One way: where its class is, the options it is called with, and the tasks it is for.

    Parameters
    ----------
    name
        For tables.
    family
        Ways of one family are variants of one method; comparisons take the fastest of them.
    factory
        ``"module:Class"`` below ``precondlab.bench.ways``, or ``"/path/to/FILE.py:Class"``.
    options
        Keyword arguments of the class.
    environment
        Interpreter: that of precondlab, or that of the other libraries.
    tasks
        Of the cases it can compute.
    at_most
        Parameters; larger cases leave the way out, which is never the fastest of its family and takes minutes.
    """

    name: str
    family: str
    factory: str
    options: dict[str, Any] = field(default_factory=dict)
    environment: Environment = "own"
    tasks: tuple[str, ...] = ("laplacian",)
    at_most: float = float("inf")


def _own(name: str, **options: Any) -> Entry:
    return Entry(name, "precondlab", "own:Residual", options, tasks=_PDE)


def _classifier(name: str, **options: Any) -> Entry:
    return Entry(name, "precondlab", "own:Classifier", options, tasks=_CLASSIFIERS)


def _jax(laplacian: str, product: str, at_most: float = float("inf")) -> Entry:
    options = {"laplacian": laplacian, "product": product}
    return Entry(f"JAX {laplacian}, {product}", "JAX", "peer_jax:Jit", options, "peers", at_most=at_most)


#: Its products are the ones that all others must agree with.
REFERENCE = "precondlab graph"

#: J formed where that pays for 100 products.
PLANNED = "precondlab, planned"

ENTRIES = (
    _own("precondlab"),
    Entry(PLANNED, "precondlab", "own:Planned"),
    _own("precondlab, 30 MB", memory_budget=30_000_000),
    _own("precondlab jets", route="jets"),
    _own("precondlab graph", route="graph"),
    Entry("precondlab functional", "precondlab", "own:Residual", {"route": "functional"}, "own", _PDE, _SMALL),
    Entry("precondlab dual", "precondlab", "own:Residual", {"route": "dual"}, "own", _PDE, _SMALL),
    Entry("dense J", "dense J", "dense:Formed"),
    Entry("torch.func", "torch.func", "torch_func:JvpVjp", tasks=_ANY_LAPLACIAN),
    Entry("curvlinops GGN", "curvlinops", "peer_curvlinops:SquaredLoss", {}, "peers", _ANY_LAPLACIAN),
    Entry("curvlinops Jᵀ(Jv)", "curvlinops", "peer_curvlinops:Jacobians", {}, "peers", _ANY_LAPLACIAN),
    _jax("jet", "jvp-vjp"),
    _jax("jet", "linearize"),
    _jax("hessian", "jvp-vjp", _SMALL),
    _jax("hessian", "linearize", _SMALL),
    _classifier("precondlab"),
    _classifier("precondlab graph", route="graph"),
    Entry("curvlinops GGN", "curvlinops", "peer_curvlinops:CrossEntropy", {}, "peers", _CLASSIFIERS),
    Entry("hessian-eigenthings", "hessian-eigenthings", "peer_eigenthings:CrossEntropy", {}, "peers", _CLASSIFIERS),
)
#: Enough to see that everything works, in seconds.
QUICK = ("precondlab", "precondlab jets", "precondlab graph", "torch.func", "dense J")
