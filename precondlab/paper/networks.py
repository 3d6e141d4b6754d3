"""Networks: how many eigenvalues of A are above and below the level that training reaches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from precondlab.models import fourier, fourier_mlp, mlp
from precondlab.operators import Jacobian
from precondlab.preconditioners import symbol
from precondlab.problems import poisson
from precondlab.report import Row, Table


def tanh_network(seeds: Sequence[int] = (0, 1, 2)) -> Table:
    """Fractions of eigenvalues below 1e-9 and above 1e-3 of the largest, tanh network, λ = 10."""
    table = Table("Poisson, MLP 1-12-5-1 tanh (95 parameters), λ = 10: % of eigenvalues, ±3 points")
    for seed in seeds:
        values = _eigenvalues(mlp((1, 12, 5, 1), activation="tanh", seed=seed), weight=10.0)
        table.rows += [
            Row(f"seed {seed}: below 1e-9", "84 ± 3", 100 * np.mean(values < 1e-9 * values[0])),
            Row(f"seed {seed}: above 1e-3", "4.5 ± 3", 100 * np.mean(values > 1e-3 * values[0])),
        ]
    return table


def fourier_network(seeds: Sequence[int] = (0, 1, 2)) -> Table:
    """The same for a network of 25 Fourier features, λ = 1, and with the features scaled by P, γ = 0.1."""
    table = Table("Poisson, 25 Fourier features → 5 gelu → 1 (136 parameters), λ = 1: % of eigenvalues, ±3 points")
    P = symbol(poisson(dim=1), fourier(12), kernel=0.1).entries.sqrt()
    expected = {
        "without P": ("24 ± 5", "32 ± 3", "3.1e3 ± 0.7e3"),
        "with P": ("64 ± 3", "18 ± 3", "2.3 ± 0.15"),
    }
    for (name, (below, above, largest)), scale in zip(expected.items(), (None, P), strict=True):
        for seed in seeds:
            values = _eigenvalues(fourier_mlp(12, (5,), activation="gelu", scale=scale, seed=seed), weight=1.0)
            table.rows += [
                Row(f"{name}, seed {seed}: below 1e-9", below, 100 * np.mean(values < 1e-9 * values[0])),
                Row(f"{name}, seed {seed}: above 1e-3", above, 100 * np.mean(values > 1e-3 * values[0])),
                Row(f"{name}, seed {seed}: λ_max", largest, values[0]),
            ]
    return table


def _eigenvalues(model: nn.Module, *, weight: float) -> np.ndarray:
    residual = poisson(dim=1).residual(model, interior=1000, weights={"boundary": weight})
    singular = torch.linalg.svdvals(Jacobian(residual).dense())
    return singular.square().numpy()
