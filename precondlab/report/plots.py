"""Pictures: spectra, loss curves and how κ grows. Each function draws on axes and returns them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

import numpy as np

from precondlab.dynamics import Modes, TrainingCurve, departure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_curves", "draw_modes", "draw_prediction", "draw_scaling", "draw_spectra", "style"]


@contextlib.contextmanager
def style() -> Any:
    """Draw in the style of the library, without a display.

    Raises ImportError with the extra to install if matplotlib is missing.
    """
    try:
        import matplotlib
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'precondlab[plot]'") from error
    with as_file(files("precondlab.report") / "precondlab.mplstyle") as path, plt.style.context(str(path)):
        backend = matplotlib.get_backend()
        if backend.lower() not in ("agg", "inline", "module://matplotlib_inline.backend_inline"):
            matplotlib.use("agg")
        yield plt


def draw_spectra(axes: Axes, spectra: Mapping[str, Sequence[float]], *, floor: float | None = None) -> Axes:
    """Draw eigenvalues, descending, one line per operator; a noise floor is shaded."""
    smallest = []
    for label, values in spectra.items():
        descending = np.sort(np.asarray(values, dtype=float))[::-1]
        positive = descending[descending > 0]
        smallest.append(positive[-1])
        axes.semilogy(np.arange(1, len(positive) + 1), positive, ".-", label=label, markersize=4, linewidth=1)
    if floor:
        axes.axhspan(min(*smallest, floor) / 10, floor, color="0.85", zorder=0, label="below round-off")
    axes.set(xlabel="index", ylabel="eigenvalue")
    axes.legend()
    return axes


def draw_curves(
    axes: Axes, curves: Mapping[str, Sequence[float] | np.ndarray], *, ylabel: str = "loss", logx: bool = False
) -> Axes:
    """Draw loss curves against the step; a label that starts with "predicted" is dotted."""
    for label, values in curves.items():
        steps = np.arange(len(values)) + (1 if logx else 0)
        predicted = label.startswith("predicted")
        axes.plot(steps, values, "k:" if predicted else "-", linewidth=1.2 if predicted else 2.4, label=label)
    axes.set(xlabel="step + 1" if logx else "step", ylabel=ylabel, yscale="log", xscale="log" if logx else "linear")
    axes.legend()
    return axes


def draw_prediction(
    axes: Axes, curve: TrainingCurve, measured: Sequence[float] | np.ndarray, *, rtol: float = 0.01, logx: bool = False
) -> Axes:
    """Draw measured losses over their prediction and its bounds; a line marks the step where they part."""
    draw_curves(axes, {"measured": measured, "predicted": curve.loss}, logx=logx)
    shift = 1 if logx else 0
    steps = np.arange(len(curve.loss)) + shift
    axes.fill_between(steps, curve.lower, curve.upper, where=np.isfinite(curve.upper).tolist(), alpha=0.3)
    left = departure(curve, measured, rtol=rtol)
    if left.step is not None:
        axes.axvline(left.step + shift, color="0.5", linewidth=1, label=f"no longer linear: step {left.step}")
        axes.legend()
    return axes


def draw_modes(axes: Axes, found: Modes) -> Axes:
    """Draw ``|uᵢᵀr|`` of every mode at the start, as predicted and now; on the right, the growth of the kernel there.

    A mode that moved differs from its prediction by more than the tolerance, which is shaded. Smaller values sit at the
    lower edge.
    """
    index, bottom = np.arange(len(found.values)), max(found.tolerance / 10, np.finfo(float).tiny)
    start, now = np.maximum(found.start, bottom), np.maximum(np.abs(found.now), bottom)
    axes.plot(index, start, "o", color="0.7", label="start")
    if found.predicted is not None:
        axes.plot(index, np.maximum(np.abs(found.predicted), bottom), "k_", markersize=16, label="predicted")
    left = np.setdiff1d(index, [*found.beyond, *found.short])
    kinds = {"now": (left, "C0o"), "now, beyond": (found.beyond, "C2v"), "now, short": (found.short, "C3^")}
    for label, (indices, marker) in kinds.items():
        if len(indices):
            axes.plot(indices, now[indices], marker, label=label)
    axes.axhspan(bottom / 2, found.tolerance, color="0.92", zorder=0)
    axes.set(xlabel="mode", ylabel="residual along the mode", yscale="log", xticks=index)
    axes.set_ylim(bottom=bottom / 2)
    right = axes.twinx()
    right.plot(index, found.growth, ":", color="C1", linewidth=1.2)
    right.set(yscale="log" if found.growth.min() > 0 else "linear")
    right.set_ylabel("growth of the kernel (dotted)", color="C1")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return axes


def draw_scaling(
    axes: Axes, x: Sequence[float], measured: Mapping[str, Sequence[float]], *, slope: float, xlabel: str
) -> Axes:
    """Draw κ against a problem size on logarithmic axes, and a line of the theoretical slope."""
    for label, values in measured.items():
        axes.loglog(x, values, "o-", label=label)
    first = np.asarray(next(iter(measured.values())), dtype=float)
    reference = first[-1] * (np.asarray(x, dtype=float) / x[-1]) ** slope
    axes.loglog(x, reference, "k:", linewidth=1.2, label=f"slope {slope:g}")
    axes.set(xlabel=xlabel, ylabel="κ")
    axes.set_xticks(x, [f"{value:g}" for value in x])
    axes.minorticks_off()
    axes.legend()
    return axes
