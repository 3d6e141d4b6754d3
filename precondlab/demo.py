"""What the demonstration shows: the tables of the theory, spectra before and after P, training curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from precondlab import paper
from precondlab.dynamics import predict_training
from precondlab.models import fourier
from precondlab.operator import Operator
from precondlab.operators import Diagonal, Gram, Jacobian
from precondlab.preconditioners import Design, symbol
from precondlab.problems import poisson
from precondlab.report import draw_curves, draw_scaling, draw_spectra, style
from precondlab.spectrum import condition
from precondlab.training.optimizers import GradientDescent

__all__ = ["TABLES", "draw", "draw_design", "draw_history", "draw_residual"]

TABLES = (
    paper.poisson_weights,
    paper.poisson_large,
    paper.poisson_gamma,
    paper.poisson_weight_sweep,
    paper.poisson_steps,
    paper.helmholtz_frequencies,
    paper.advection_speeds,
    paper.advection_resonance,
    paper.growth,
    paper.hard_boundary,
    paper.pieces,
    paper.tanh_network,
    paper.fourier_network,
)
_FREQUENCIES, _GAMMA = 16, 20.0
_LARGEST_SPECTRUM = 3000  # smaller dimension up to which a whole spectrum is computed


def draw(out: Path) -> list[Path]:
    """Draw the spectrum of Poisson's A and PAP, training with and without P, and κ against K."""
    out.mkdir(parents=True, exist_ok=True)
    problem = poisson(dim=1)
    M = symbol(problem, fourier(_FREQUENCIES), kernel=_GAMMA)
    weight = {"boundary": math.pi / _GAMMA**2}
    with style() as plt:
        figure, axes = plt.subplots()
        J = _jacobian(_FREQUENCIES, weight)
        draw_spectra(axes, {"A": _eigenvalues(J), "PAP": _eigenvalues(J @ Diagonal(M.entries.sqrt()))})
        axes.set_title(f"Poisson, {_FREQUENCIES} frequencies: P removes the spread")
        spectrum = out / "spectrum.png"
        figure.savefig(spectrum)

        figure, axes = plt.subplots()
        draw_curves(axes, _training_curves(weight, M), logx=True)
        axes.set_title("Gradient descent: predicted and measured loss")
        axes.set_ylim(bottom=1e-19)
        training = out / "training.png"
        figure.savefig(training)

        figure, axes = plt.subplots()
        sizes = [5, 10, 20, 40, 80]
        kappas = {"A": [condition(Gram(_jacobian(K, {"boundary": 1.03 * K**2}))).estimate for K in sizes]}
        kappas["PAP"] = [
            condition(Gram(_jacobian(K, weight)), preconditioner=symbol(problem, fourier(K), kernel=_GAMMA)).estimate
            for K in sizes
        ]
        draw_scaling(axes, sizes, kappas, slope=4, xlabel="frequencies K")
        axes.set_title("Poisson: κ grows like K⁴, and not at all with P")
        scaling = out / "scaling.png"
        figure.savefig(scaling)
        plt.close("all")
    return [spectrum, training, scaling]


def draw_residual(J: Jacobian, out: Path, *, steps: int) -> list[Path]:
    """Draw the spectrum of JᵀJ, where it is small enough, and the predicted loss of gradient descent."""
    out.mkdir(parents=True, exist_ok=True)
    pictures = []
    with style() as plt:
        if min(J.shape) <= _LARGEST_SPECTRUM:
            figure, axes = plt.subplots()
            values = _eigenvalues(J)
            draw_spectra(axes, {"JᵀJ": values}, floor=condition(Gram(J)).noise_floor)
            pictures.append(out / "spectrum.png")
            figure.savefig(pictures[-1])
        rate = 1 / condition(Gram(J), num_matvecs=min(40, *J.shape)).largest
        curve = predict_training(J, J.value, steps=steps, learning_rate=rate, largest=2 / rate)
        figure, axes = plt.subplots()
        draw_curves(axes, {f"predicted, η = {rate:.3g}": curve.loss}, logx=True)
        axes.fill_between(range(1, steps + 2), curve.lower, curve.upper, alpha=0.3)
        pictures.append(out / "training.png")
        figure.savefig(pictures[-1])
        plt.close("all")
    return pictures


def draw_design(A: Gram, found: Design, out: Path) -> Path:
    """Draw the spectrum of A and of ``SᴴAS`` for the best candidates that have a factor S."""
    out.mkdir(parents=True, exist_ok=True)
    spectra = {}
    for candidate in [c for c in found.candidates if c.name == "none"] + list(found.candidates[:4]):
        root = None if candidate.preconditioner is None else candidate.preconditioner.sqrt
        if candidate.name == "none" or root is not None:
            spectra[candidate.name] = _eigenvalues(A.J if root is None else A.J @ root)
    with style() as plt:
        figure, axes = plt.subplots()
        draw_spectra(axes, spectra)
        axes.set_title("Spectrum before and after")
        figure.savefig(out / "precondition.png")
        plt.close("all")
    return out / "precondition.png"


def draw_history(history: Sequence[Mapping[str, Any]], out: Path) -> Path:
    """Draw loss, validation and relative error of a training run against seconds."""
    out.mkdir(parents=True, exist_ok=True)
    names = {"loss": "loss", "validation": "loss on points of validation", "error": "relative error"}
    with style() as plt:
        figure, axes = plt.subplots()
        for name, label in names.items():
            known = [(row["seconds"], row[name]) for row in history if row[name] is not None]
            if known:
                axes.plot(*zip(*known, strict=True), "-" if name == "loss" else ".-", label=label)
        axes.set(xlabel="seconds", yscale="log")
        axes.legend()
        figure.savefig(out / "training.png")
        plt.close("all")
    return out / "training.png"


def _jacobian(frequencies: int, weights: dict[str, float]) -> Jacobian:
    points = 4 * frequencies + 8
    return Jacobian(poisson(dim=1).residual(fourier(frequencies), interior=points, weights=weights))


def _eigenvalues(J: Operator) -> list[float]:
    return torch.linalg.svdvals(J.dense()).square().tolist()


def _training_curves(weights: dict[str, float], M: Operator) -> dict[str, list[float]]:
    """Return predicted and measured losses from one random start, without and with P."""
    curves = {}
    for name, preconditioner, steps in (("without P", None, 2000), ("with P", M, 25)):
        model = fourier(_FREQUENCIES)
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(len(model.coefficients), generator=generator, dtype=torch.float64)
        with torch.no_grad():
            model.coefficients.copy_(start)
        r = poisson(dim=1).residual(model, interior=4 * _FREQUENCIES + 8, weights=weights)
        J = Jacobian(r)
        P = None if preconditioner is None else preconditioner.sqrt
        optimizer = GradientDescent(r, preconditioner=preconditioner)
        rate = optimizer.param_groups[0]["lr"]
        curve = predict_training(J if P is None else J @ P, r.value, steps=steps, learning_rate=rate)
        curves[f"measured {name}"] = [optimizer.step().item() for _ in range(steps + 1)]
        curves[f"predicted {name}"] = curve.loss.tolist()
    return curves
