"""Pictures of spectral densities and of the measure seen from a residual."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from precondlab.spectrum import Density, Measure
from precondlab.spectrum.smoothing import Axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_cumulative", "draw_density", "draw_measure"]

_UNITS = {"linear": "per unit of λ", "log": "per decade", "symlog": "per signed decade"}


def draw_density(axes: Axes, density: Density, *, axis: Axis = "log", width: float | None = None) -> Axes:
    """Draw eigenvalues per unit of the axis, with two standard errors shaded and the width in the legend."""
    curve = density.smooth(axis=axis, width=width)
    n = density.size
    middle, radius = n * curve.density, 2 * n * curve.stderr
    label = f"Gaussian of width {curve.width:.2g}, {len(density.rules)} probes"
    axes.plot(curve.x, middle, label=label)
    axes.fill_between(curve.x, np.maximum(middle - radius, 0), middle + radius, alpha=0.3, label="± 2 standard errors")
    if curve.outside > 0:
        axes.plot([], [], " ", label=f"{n * curve.outside:.4g} of {n} eigenvalues ≤ {curve.threshold:.1e} not shown")
    _scale(axes, axis, curve.threshold)
    axes.set(xlabel="eigenvalue λ", ylabel=f"eigenvalues {_UNITS[axis]}")
    top = float(np.max(middle + radius))
    axes.set_yscale("symlog", linthresh=max(1e-3, 1e-6 * top))
    axes.set_ylim(0, 2 * top)
    axes.legend()
    return axes


def draw_cumulative(
    axes: Axes, density: Density, *, axis: Literal["linear", "log"] = "log", num_points: int = 120
) -> Axes:
    """Draw how many eigenvalues exceed each λ: the bracket of the probes dark, two standard errors beyond it light."""
    x = density.smooth(axis=axis, num_points=num_points).x
    n, counted = density.size, density.cumulative(x)
    low, high = (n - end for end in (counted.upper, counted.lower))
    axes.plot(x, n - counted.value, drawstyle="steps-post", label=f"{len(density.rules)} probes")
    spread, shade = 2 * counted.stderr, {"color": "C0", "linewidth": 0}
    axes.fill_between(x, low, high, alpha=0.45, label="bracket of the probes", **shade)
    axes.fill_between(x, np.maximum(low - spread, 0), high + spread, alpha=0.2, label="± 2 standard errors", **shade)
    _scale(axes, axis, 0.0)
    axes.set(xlabel="eigenvalue λ", ylabel="eigenvalues above λ")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.legend()
    return axes


def draw_measure(axes: Axes, measure: Measure, *, steps: int = 0, learning_rate: float | None = None) -> Axes:
    """Draw the share each Ritz value carries, and what is left of it after steps of gradient descent.

    The share left is drawn only if a learning rate is given.
    """
    shares = measure.weights / measure.mass
    floor = max(measure.tolerance, 1e-300)
    at = np.maximum(measure.nodes, floor)
    axes.vlines(at, 1e-18, shares, color="0.75", linewidth=1)
    axes.plot(at, shares, "o", label="at the start")
    if learning_rate is not None:
        left = measure.remaining(steps=steps, learning_rate=learning_rate) / measure.mass
        share = measure.unlearned(steps=steps, learning_rate=learning_rate)
        axes.plot(at, np.maximum(left, 1e-300), "x", label=f"after {steps} steps: {share.value:.3g} of it left")
    if (measure.nodes <= floor).any():
        axes.axvline(floor, color="0.5", linestyle=":", linewidth=1.2, label=f"zero to round-off ({floor:.1e})")
    axes.set(xscale="log", yscale="log", xlabel="eigenvalue λ", ylabel="share carried")
    smallest = shares[shares > 0].min()
    axes.set_ylim(max(1e-16, min(1e-4, smallest / 3)), 3)
    axes.legend()
    return axes


def _scale(axes: Axes, axis: Axis, threshold: float) -> None:
    if axis == "symlog":
        left, right = axes.dataLim.intervalx
        axes.set_xscale("symlog", linthresh=threshold)
        powers = 10.0 ** np.arange(np.ceil(np.log10(threshold)) + 1, np.log10(max(-left, right)), 2)
        ticks = np.concatenate([-powers[::-1], [0.0], powers])
        axes.set_xticks(ticks[(ticks >= left) & (ticks <= right)])
        axes.set_xlim(left, right)
    elif axis == "log":
        axes.set_xscale("log")
