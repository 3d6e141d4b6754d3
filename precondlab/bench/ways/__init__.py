"""The ways of computing a product that are compared: one file per family, and the list of all of them.

A way is a class in a module of this folder and one :class:`Entry` below.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["ENTRIES", "QUICK", "REFERENCE", "Entry"]

Environment = Literal["own", "peers"]
_PDE = ("laplacian", "derivative")


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
    """

    name: str
    family: str
    factory: str
    options: dict[str, Any] = field(default_factory=dict)
    environment: Environment = "own"
    tasks: tuple[str, ...] = ("laplacian",)


def _own(name: str, **options: Any) -> Entry:
    return Entry(name, "precondlab", "own:Residual", options, tasks=_PDE)


def _classifier(name: str, **options: Any) -> Entry:
    return Entry(name, "precondlab", "own:Classifier", options, tasks=("classification",))


def _jax(laplacian: str, product: str) -> Entry:
    return Entry(
        f"JAX {laplacian}, {product}", "JAX", "peer_jax:Jit", {"laplacian": laplacian, "product": product}, "peers"
    )


#: Its products are the ones that all others must agree with.
REFERENCE = "precondlab graph"

ENTRIES = (
    _own("precondlab"),
    _own("precondlab, 30 MB", memory_budget=30_000_000),
    _own("precondlab jets", route="jets"),
    _own("precondlab graph", route="graph"),
    _own("precondlab functional", route="functional"),
    _own("precondlab dual", route="dual"),
    Entry("dense J", "dense J", "dense:Formed"),
    Entry("torch.func", "torch.func", "torch_func:JvpVjp"),
    Entry("curvlinops GGN", "curvlinops", "peer_curvlinops:SquaredLoss", environment="peers"),
    Entry("curvlinops Jᵀ(Jv)", "curvlinops", "peer_curvlinops:Jacobians", environment="peers"),
    _jax("jet", "jvp-vjp"),
    _jax("jet", "linearize"),
    _jax("hessian", "jvp-vjp"),
    _jax("hessian", "linearize"),
    _classifier("precondlab"),
    _classifier("precondlab graph", route="graph"),
    Entry("curvlinops GGN", "curvlinops", "peer_curvlinops:CrossEntropy", {}, "peers", ("classification",)),
    Entry(
        "hessian-eigenthings", "hessian-eigenthings", "peer_eigenthings:CrossEntropy", {}, "peers", ("classification",)
    ),
)
#: Enough to see that everything works, in seconds.
QUICK = ("precondlab", "precondlab jets", "precondlab graph", "torch.func", "dense J")
