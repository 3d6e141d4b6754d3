"""The numbers a case is computed from, in a file that every interpreter reads."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from precondlab.bench.cases import Case

__all__ = ["Inputs", "read", "write"]

Array = np.ndarray


@dataclass(frozen=True)
class Inputs:
    """A case with its network, points and vectors.

    Attributes
    ----------
    layers
        Weight ``[w_out, w_in]`` and bias ``[w_out]`` per layer; a flat vector of parameters is their
        concatenation in this order.
    points, boundary
        ``[N, d]`` and ``[N_b, d]``.
    scale, boundary_scale
        √ of the quadrature weights, which multiply the rows.
    labels
        Classes of the points, for a classifier.
    theta
        All parameters of a network that is not plain.
    """

    case: Case
    layers: list[tuple[Array, Array]]
    points: Array
    boundary: Array
    scale: Array
    boundary_scale: Array
    labels: Array = field(repr=False)
    theta: Array = field(repr=False)


def write(case: Case, path: Path) -> None:
    """Write the inputs of a case; random numbers repeat."""
    generator = np.random.default_rng(0)
    arrays: dict[str, Array] = {}
    for index, (a, b) in enumerate(itertools.pairwise(case.sizes) if case.plain else ()):
        reach = 1 / math.sqrt(a)
        arrays[f"weight{index}"] = generator.uniform(-reach, reach, (b, a))
        arrays[f"bias{index}"] = generator.uniform(-reach, reach, b)
    points, boundary, weights, boundary_weights = _points(case, generator)
    arrays |= {"points": points, "boundary": boundary}
    arrays |= {"scale": np.sqrt(weights), "boundary_scale": np.sqrt(boundary_weights)}
    arrays["theta"] = np.zeros(0) if case.plain else 0.1 * generator.standard_normal(case.parameters)
    arrays["labels"] = generator.integers(0, case.sizes[-1], case.points)
    np.savez(path, allow_pickle=False, **arrays)


def read(case: Case, path: Path) -> Inputs:
    """Read what :func:`write` wrote."""
    with np.load(path, allow_pickle=False) as file:
        layers = [(file[f"weight{i}"], file[f"bias{i}"]) for i in range(len(case.sizes) - 1) if case.plain]
        names = ("points", "boundary", "scale", "boundary_scale", "labels", "theta")
        return Inputs(case, layers, *(file[name] for name in names))


def _points(case: Case, generator: np.random.Generator) -> tuple[Array, Array, Array, Array]:
    """Return points, boundary points and their weights: those that ``Problem.residual`` takes."""
    if case.supervised:
        nothing = np.zeros((0, case.features))
        return generator.normal(size=(case.points, case.features)), nothing, np.ones(case.points), np.zeros(0)
    from precondlab.problems.sampling import box_points, face_points

    dim = case.sizes[0]
    domain = ((-math.pi, math.pi),) * dim
    points, weights = box_points(domain, case.points, seed=0)
    if not case.boundary:
        return points.numpy(), np.zeros((0, dim)), weights.numpy(), np.zeros(0)
    faces = [(axis, end) for axis, interval in enumerate(domain) for end in interval]
    boundary, boundary_weights = face_points(domain, faces, case.boundary, seed=1000)
    return points.numpy(), boundary.numpy(), weights.numpy(), boundary_weights.numpy()
