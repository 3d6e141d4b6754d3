"""Linear models: Poisson, Helmholtz and advection on Fourier bases.

The theory counts the boundary of an interval once where a residual sums both ends, so that its λ is
twice the weight of the block: ``A(λ) = diag(k⁴) + λ vvᵀ`` is the block weight λ/2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from precondlab.dynamics import descent
from precondlab.dynamics.descent import Rule
from precondlab.models import box_mask, fourier, masked
from precondlab.models.fourier import FourierSeries
from precondlab.operators import Diagonal, Gram, Jacobian
from precondlab.preconditioners import balance, symbol
from precondlab.problems import Problem, advection, helmholtz, poisson
from precondlab.report import Row, Table
from precondlab.spectrum import condition

_SPAN = ((0.0, 2 * math.pi), (0.0, 1.0))  # of x and t in the advection problem


def poisson_weights(frequencies: Sequence[int] = (2, 5, 10, 20, 40, 80)) -> Table:
    """Minimum over λ of κ(A), ``→ 3.11358 K⁴``, and the λ where it is."""
    theory = {
        2: ("70.2588", "7.31"),
        5: ("2057.42", "46.5"),
        10: ("31566", "193.7"),
        20: ("499865", "799"),
        40: ("7.97747e6", "3260"),
        80: ("1.27559e8", "1.32e4"),
    }
    table = Table("Poisson: smallest κ(A) over the boundary weight λ")
    for K in frequencies:
        best = balance(_poisson(K), "boundary", bounds=(0.1, 1e6))
        table.rows += [
            Row(f"K={K}: κ(A)", theory[K][0], best.condition.estimate),
            Row(f"K={K}: best λ", theory[K][1], 2 * best.weight),
        ]
    return table


def poisson_large() -> Table:
    """κ(A) at fixed λ for many frequencies, where eigenvalue solvers on A fail."""
    table = Table("Poisson: κ(A) at λ = 1 for large K")
    one_end = condition(_poisson(200, weight=0.5))
    table.rows += [
        Row("K=200: κ(A)", "1.393e10", one_end.estimate),
        Row("K=200: κ(A)/K⁴", "8.708", one_end.estimate / 200**4),
        Row("K=200, both ends: κ(A)", "9.168750e9", condition(_poisson(200)).estimate),
    ]
    both = condition(_poisson(1000))
    table.rows += [
        Row("K=1000, both ends: κ(A)", "5.730468e12", both.estimate),
        Row("K=1000, both ends: λ_min", "0.1745058", both.smallest),
    ]
    return table


def poisson_gamma(frequencies: int = 40) -> Table:
    """κ(PAP) with P = (γ; 1/k²) and λ = 2π/γ²."""
    theory = {
        1: "15.2787",
        2: "4.2206",
        5: "1.7975",
        10: "1.34177",
        20: "1.158463",
        50: "1.060615",
        100: "1.029862",
    }
    problem, model = poisson(dim=1), fourier(frequencies)
    table = Table(f"Poisson: κ(PAP) for K = {frequencies}, λ = 2π/γ²")
    for gamma, value in theory.items():
        M = symbol(problem, model, kernel=float(gamma))
        A = _poisson(frequencies, weight=math.pi / gamma**2)
        table.rows.append(Row(f"γ={gamma}", value, condition(A, preconditioner=M).estimate))
    return table


def poisson_weight_sweep() -> Table:
    """κ(A) and κ(PAP), γ = 20, for six weights λ."""
    theory = {
        1e-4: ("4.12e9", "157"),
        1e-2: ("4.13e7", "1.60"),
        1.0: ("5.71e5", "64.4"),
        10.0: ("2.34e5", "643"),
        1e3: ("2.05e5", "6.4e4"),
        1e5: ("1.68e6", "6.4e6"),
    }
    A, M = _poisson(16), symbol(poisson(dim=1), fourier(16), kernel=20.0)
    table = Table("Poisson: κ over the boundary weight, K = 16, γ = 20")
    for weight, (plain, preconditioned) in theory.items():
        weighted = A.reweighted({"boundary": weight / 2})
        table.rows += [
            Row(f"λ={weight:g}: κ(A)", plain, condition(weighted).estimate),
            Row(f"λ={weight:g}: κ(PAP)", preconditioned, condition(weighted, preconditioner=M).estimate),
        ]
    return table


def poisson_steps(frequencies: int = 16, *, gamma: float = 20.0, seeds: int = 5) -> Table:
    """Steps of gradient descent to a relative parameter error of 1e-8, with and without P.

    The error starts at random and is measured in the coordinates that are iterated; with P the largest
    number over the seeds is given, without P that of the first seed.
    """
    A = _poisson(frequencies, weight=500.0)
    M = symbol(poisson(dim=1), fourier(frequencies), kernel=gamma)
    P = Diagonal(M.entries.sqrt())
    balanced = A.reweighted({"boundary": math.pi / gamma**2})
    table = Table(f"Gradient descent to a parameter error of 1e-8, K = {frequencies}")
    expected: dict[Rule, tuple[str, str]] = {"safe": ("≈ 3.3e6", "≤ 10"), "best": ("≈ 1.7e6", "≤ 8")}
    for rule, (plain, preconditioned) in expected.items():
        eta = "1/λ_max" if rule == "safe" else "best"
        starts = [A.domain.random(generator=torch.Generator().manual_seed(seed)) for seed in range(seeds)]
        without = descent(A, starts[0], rule=rule)
        best = max((descent(P.H @ balanced @ P, e, rule=rule) for e in starts), key=lambda run: run.measured)
        table.rows += [
            Row(f"η {eta}: predicted", plain, without.predicted),
            Row(f"η {eta}: measured", plain, without.measured),
            Row(f"η {eta}, P: predicted", preconditioned, best.predicted),
            Row(f"η {eta}, P: measured", preconditioned, best.measured),
        ]
    return table


def helmholtz_frequencies(frequencies: Sequence[int] = (5, 10, 20, 40)) -> Table:
    """κ(A) and κ(PAP) at their best λ for ``u″ + ω²u = f``, ω = 4, at resonance."""
    omega, problem = 4.0, helmholtz(omega=4.0)
    theory = {5: "85.6", 10: "1264", 20: "1.69e4", 40: "2.27e5"}
    table = Table("Helmholtz, ω = 4: κ at the best λ")
    for K in frequencies:
        model = fourier(K)
        A = Gram(Jacobian(problem.residual(model, interior=4 * K + 8)))
        resonant_sine = model.phases != 0
        kernel = torch.where(resonant_sine, 20 / omega, 20.0).to(A.domain.dtype)
        M = symbol(problem, model, kernel=kernel)
        plain = balance(A, "boundary", bounds=(0.1, 1e5))
        preconditioned = balance(A, "boundary", preconditioner=M, bounds=(1e-5, 1e2))
        table.rows += [
            Row(f"K={K}: κ(A)", theory[K], plain.condition.estimate),
            Row(f"K={K}: κ(PAP)", "≤ 1.10", preconditioned.condition.estimate),
        ]
    return table


def advection_speeds(multiples: Sequence[int] = (6, 12, 30, 60)) -> Table:
    """κ(A) and κ(PAP) at their best λ for ``u_t + βu_x = 0``, β a multiple of 2π."""
    theory = {6: "8254", 12: "1.455e4", 30: "4.409e4", 60: "1.289e5"}
    table = Table("Advection: κ at the best λ, β a multiple of 2π")
    for multiple in multiples:
        problem, model = _advection(multiple * math.pi)
        A = _advection_gram(problem, model)
        M = symbol(problem, model, kernel=1.0)
        plain = balance(A, "initial", bounds=(10, 1e5))
        preconditioned = balance(A, "initial", preconditioner=M, bounds=(1e-2, 1e2))
        table.rows += [
            Row(f"β={multiple}π: κ(A)", theory[multiple], plain.condition.estimate),
            Row(f"β={multiple}π: κ(PAP)", "1.7578", preconditioned.condition.estimate),
        ]
        if multiple == multiples[0]:
            table.rows.append(Row(f"β={multiple}π: best λ with P", "0.925", preconditioned.weight))
    return table


def advection_resonance(speeds: Sequence[float] = (10.0, 20.0, 40.0, 80.0)) -> Table:
    """κ(PAP) for β not a multiple of 2π: the P of the paper, and the default P of this library at λ = 1.

    The paper's P takes modes that D almost annihilates for modes it acts on; adding what the initial
    condition sees of each mode to the symbol makes κ independent of β.
    """
    theory = {10.0: "17.5", 20.0: "5.80", 40.0: "4.71", 80.0: "1.91"}
    table = Table("Advection: κ(PAP) for β off the multiples of 2π")
    for speed in speeds:
        problem, model = _advection(speed)
        A = _advection_gram(problem, model)
        M = symbol(problem, model, kernel=1.0)
        paper = balance(A, "initial", preconditioner=M, bounds=(1e-2, 1e2))
        ours = condition(A, preconditioner=symbol(problem, model))
        table.rows += [
            Row(f"β={speed:g}: P = 1/|σ|, best λ", theory[speed], paper.condition.estimate),
            Row(f"β={speed:g}: P = (|σ|² + λ‖φ‖²)^-1/2, λ = 1", "≤ 1.77", ours.estimate),
        ]
    return table


def growth() -> Table:
    """Slopes of log κ: 4 in K for Poisson, 2 in β for advection once ``βK_x ≫ 2πK_t``."""
    frequencies = (20, 40, 80)
    kappas = [balance(_poisson(K), "boundary", bounds=(1.0, 1e6)).condition.estimate for K in frequencies]
    speeds = np.array([640, 1280, 2560]) * math.pi
    advected = []
    for speed in speeds:
        A = _advection_gram(*_advection(float(speed), modes=(5, 4)))
        advected.append(balance(A, "initial", bounds=(1.0, 1e9)).condition.estimate)
    poisson_slope = np.polyfit(np.log(frequencies), np.log(kappas), 1)[0]
    advection_slope = np.polyfit(np.log(speeds), np.log(advected), 1)[0]
    return Table(
        "Growth of κ(A) at the best λ",
        [
            Row("Poisson: |slope in K − 4|", "≤ 0.02", abs(poisson_slope - 4)),
            Row("advection: |slope in β − 2|", "≤ 0.05", abs(advection_slope - 2)),
        ],
    )


def hard_boundary(frequencies: Sequence[int] = (5, 10, 20, 40)) -> Table:
    """κ(A)/K⁴ and κ(PAP), γ = 1, with boundary values built into the model: by the basis and by a mask."""
    theory = {5: ("17.1", "40.7"), 10: ("18.6", "42.1"), 20: ("20.6", "86.2"), 40: ("22.6", "317")}
    problem = poisson(dim=1)
    table = Table("Poisson: boundary values built into the model")
    for K in frequencies:
        vanishing = fourier(K, boundary="zero")
        A = _interior(problem, vanishing, points=4 * K + 8)
        M = Diagonal(_inverse_symbol(vanishing) ** 2)
        table.rows += [
            Row(f"K={K}, basis: κ(A)/K⁴", "1.000000000", condition(A).estimate / K**4),
            Row(f"K={K}, basis: κ(PAP)", "1.000000000", condition(A, preconditioner=M).estimate),
        ]
        series = fourier(K)
        A = _interior(problem, masked(series, box_mask(problem.domain)), points=6 * K + 60, rule="gauss")
        M = Diagonal(_inverse_symbol(series) ** 2)
        table.rows += [
            Row(f"K={K}, mask: κ(A)/K⁴", theory[K][0], condition(A).estimate / K**4),
            Row(f"K={K}, mask: κ(PAP)", theory[K][1], condition(A, preconditioner=M).estimate),
        ]
    return table


def pieces(numbers: Sequence[int] = (2, 4, 8), *, frequencies: int = 16, speed: float = 40.0) -> Table:
    """κ(A) at the best λ on one of N pieces, of the box or of time, against that of the whole with K/N or β/N.

    A piece of the N-th size needs the N-th part of the frequencies, and transport crosses it N times as slowly.
    """
    table = Table("Domain decomposition and time slabs: N pieces replace K by K/N, β by β/N")
    for number in numbers:
        end = math.pi / number
        ends = tuple(replace(c, where=((0, -end), (0, end))) for c in poisson(dim=1).conditions)
        part = replace(poisson(dim=1), domain=((-end, end),), conditions=ends)
        few = frequencies // number
        whole = balance(_poisson(few), "boundary", bounds=(1e-3, 1e12)).condition.estimate
        residual = part.residual(fourier(few, domain=part.domain), interior=4 * few + 8)
        piece = balance(Gram(Jacobian(residual)), "boundary", bounds=(1e-3, 1e12)).condition.estimate
        table.rows.append(Row(f"Poisson, K={frequencies}, {number} subdomains", f"{whole:.6g}", piece))
    for number in numbers:
        whole = balance(_advection_gram(*_advection(speed / number, modes=(5, 15))), "initial", bounds=(1e-6, 1e9))
        slab = replace(advection(beta=speed), domain=(_SPAN[0], (0.0, 1 / number)))
        residual = slab.residual(fourier((5, 15), domain=slab.domain), interior=(12, 32), boundary=12)
        piece = balance(Gram(Jacobian(residual)), "initial", bounds=(1e-6, 1e9)).condition.estimate
        table.rows.append(Row(f"advection, β={speed:g}, {number} slabs", f"{whole.condition.estimate:.6g}", piece))
    return table


def _poisson(frequencies: int, *, weight: float = 1.0) -> Gram:
    problem = poisson(dim=1)
    residual = problem.residual(fourier(frequencies), interior=4 * frequencies + 8, weights={"boundary": weight})
    return Gram(Jacobian(residual))


def _interior(problem: Problem, model: torch.nn.Module, *, points: int, rule: Literal["gauss"] | None = None) -> Gram:
    residual = problem.residual(model, interior=points, rule=rule)
    return Gram(Jacobian(residual).block("interior"))


def _inverse_symbol(model: FourierSeries) -> Tensor:
    k = model.wavevectors[:, 0]
    return torch.where(k == 0, torch.ones_like(k), 1 / k.clamp_min(1) ** 2)


def _advection(speed: float, *, modes: tuple[int, int] = (5, 30)) -> tuple[Problem, FourierSeries]:
    return advection(beta=speed), fourier(modes, domain=_SPAN)


def _advection_gram(problem: Problem, model: FourierSeries) -> Gram:
    highest = (model.wavevectors.abs().amax(0) * torch.tensor([1.0, 1 / (2 * math.pi)])).round().int().tolist()
    grid = tuple(2 * n + 2 for n in highest)
    return Gram(Jacobian(problem.residual(model, interior=grid, boundary=grid[0])))
