"""What moves the spectrum of a network, and what only moves κ: preconditioners on networks at initialization."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from precondlab import models, problems
from precondlab.bench.environment import machine, own_versions
from precondlab.operator import Operator
from precondlab.operators import Dense, Diagonal, Gram, Hessian, Identity, Jacobian, tangent
from precondlab.preconditioners import (
    block_jacobi,
    equalize,
    greens_operator,
    jacobi,
    kfac,
    mass_stiffness,
    nested,
    nystrom,
    saddle_free,
    symbol,
)
from precondlab.problems.sampling import evaluation_points
from precondlab.report import style
from precondlab.spectrum import condition

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["LOSSES", "METHODS", "NETWORKS", "PRECONDITIONERS", "draw", "run", "tables"]

Row = dict[str, Any]

_PROBLEM = problems.poisson()
_DAMPING = 1e-8  # of the largest eigenvalue of A
_WANTED = 1e-3  # of the loss
_MOST_STEPS = 10**9
_TRAINED = 1000  # steps before the error is measured
_MOVED = 1.5  # ratio that counts as a change


def _fourier(seed: int, *, preconditioned: bool) -> nn.Module:
    P = symbol(_PROBLEM, models.fourier(12), kernel=0.1).entries.sqrt() if preconditioned else None
    return models.fourier_mlp(12, (5,), activation="gelu", scale=P, seed=seed)


#: Name → network from a seed, of 136 to 193 parameters.
NETWORKS: Mapping[str, Callable[[int], nn.Module]] = {
    "tanh MLP": lambda seed: models.mlp((1, 12, 12, 1), activation="tanh", seed=seed),
    "sine network": lambda seed: models.siren((12, 12), domain=_PROBLEM.domain, scale=8.0, seed=seed),
    "modified MLP": lambda seed: models.modified_mlp((1, 10, 10, 1), seed=seed),
    "Fourier features": lambda seed: _fourier(seed, preconditioned=False),
    "Fourier features, P": lambda seed: _fourier(seed, preconditioned=True),
    "splines (KAN)": lambda seed: models.kan((1, 5, 1), domain=_PROBLEM.domain, cells=8, seed=seed),
}

#: Name → S from J: gradient descent on ``½‖Sr‖²``.
LOSSES: Mapping[str, Callable[[Jacobian], Operator]] = {
    "equalize": lambda J: Diagonal(J.map.scale(equalize(Gram(J)))),
    "greens, order 1": lambda J: greens_operator(J.map, order=1.0),
    "greens, order 2": lambda J: greens_operator(J.map),
}

#: Name → preconditioner from a network, its A and a damping.
PRECONDITIONERS: Mapping[str, Callable[[nn.Module, Gram, float], Operator]] = {
    "jacobi": lambda model, A, mu: jacobi(A, damping=mu),
    "block_jacobi": lambda model, A, mu: block_jacobi(A, damping=mu),
    "kfac": lambda model, A, mu: kfac(A, damping=mu),
    "kfac, jacobi": lambda model, A, mu: nested(A + mu * Identity(A.domain), kfac(A, damping=mu), jacobi),
    "mass, order 0": lambda model, A, mu: mass_stiffness(_PROBLEM, model, order=0.0, damping=_DAMPING),
    "mass, order 2": lambda model, A, mu: mass_stiffness(_PROBLEM, model, damping=_DAMPING),
    "nystrom, rank 20": lambda model, A, mu: nystrom(A, rank=20, damping=mu),
    "nystrom, rank 60": lambda model, A, mu: nystrom(A, rank=60, damping=mu),
    "Hessian, rank 60": lambda model, A, mu: saddle_free(_hessian(A), rank=60, damping=mu),
}

METHODS = ("none", *LOSSES, *PRECONDITIONERS)


def run(
    *,
    networks: Sequence[str] = tuple(NETWORKS),
    seeds: Sequence[int] = (0, 1, 2),
    interior: int = 500,
    real_steps: int = 30,
    report: Callable[[str], object],
) -> Row:
    """Measure every method on every network for Poisson's equation, exactly: the matrices are small.

    κ is that of ``A + μI``, μ = 1e-8 λ_max(A), after preconditioning. Loss and error are those of gradient descent with
    rate 1/λ_max on the linearized network, from its own start. For the first seed, and on a quarter of the points, the
    network itself takes ``real_steps`` with a search for the rate.
    """
    rows: list[Row] = []
    for name in networks:
        report(name)
        for seed, method in itertools.product(seeds, METHODS):
            row = _measure(name, seed, method, interior)
            rows.append(row | (_train(name, seed, method, interior // 4, real_steps) if seed == seeds[0] else {}))
    return {
        "ok": all(row["status"] == "ok" for row in rows),
        "problem": _PROBLEM.name,
        "damping": _DAMPING,
        "wanted": _WANTED,
        "rows": rows,
        "verdicts": _verdicts(rows),
        "machine": machine(),
        "versions": own_versions(),
    }


def _measure(network: str, seed: int, method: str, interior: int) -> Row:
    model = NETWORKS[network](seed)
    J = Jacobian(_PROBLEM.residual(model, interior=interior)).formed()
    S = LOSSES[method](J).dense() if method in LOSSES else torch.eye(J.shape[0], dtype=J.domain.dtype)
    matrix, r = S @ J.dense(), S @ J.value
    mu = _DAMPING * torch.linalg.matrix_norm(matrix, 2).item() ** 2
    M = PRECONDITIONERS[method](model, Gram(J), mu) if method in PRECONDITIONERS else Identity(J.domain)
    P = M.sqrt
    row: Row = {"network": network, "method": method, "seed": seed, "parameters": J.shape[1]}
    if P is None:
        return row | {"status": "no factor"}
    U, sigma, Vh = torch.linalg.svd(matrix @ P.dense(), full_matrices=False)
    share = (sigma / sigma[0]).square()
    seen = U.T @ r
    total = r.square().sum()

    def loss(steps: int) -> float:
        """Return what is left of the loss; what no parameter moves stays."""
        return 1 - float((seen.square() * (1 - (1 - share) ** (2 * steps))).sum() / total)

    gone = torch.where(sigma > 0, -torch.expm1(_TRAINED * torch.log1p(-share)) / sigma, 0)
    moved = -(P @ (Vh.T @ (gone * seen)))
    kappa = condition(Gram(Dense(matrix)) + mu * Identity(J.domain), preconditioner=M)
    return row | {
        "status": "ok",
        "setup_matvecs": getattr(M, "setup_matvecs", 0),
        "largest": sigma[0].item() ** 2,
        "resolved": int((share > 1e-9).sum()),
        "strong": int((share > 1e-3).sum()),
        "effective": float((share / (share + 1e-6)).sum()),
        "kappa": {key: kappa.to_dict()[key] for key in ("lower", "upper", "estimate")},
        "steps": _steps(loss),
        "loss_100": loss(100),
        "error": _error(model, moved),
    }


def _hessian(A: Gram) -> Hessian:
    J = A.J
    assert isinstance(J, Jacobian)  # made so above
    return Hessian.of_residual(J.map, at=J.at)


def _train(network: str, seed: int, method: str, interior: int, steps: int) -> Row:
    """Return what real steps leave of the loss, and the error: ``θ ← θ − ηM∇L``, η by a search over powers of 4.

    M is made again every 5 steps.
    """
    model = NETWORKS[network](seed)
    r = _PROBLEM.residual(model, interior=interior)
    J = Jacobian(r)
    S = LOSSES[method](J) if method in LOSSES else Identity(J.codomain)
    M: Operator = Identity(J.domain)
    theta = J.domain.ravel(J.at)

    def loss(at: Tensor) -> float:
        return float((S @ r(at)).detach().square().sum())

    rate, losses = 1.0, [loss(theta)]
    for step in range(steps):
        J = J.moved(theta)
        if method in PRECONDITIONERS and step % 5 == 0:
            torch.nn.utils.vector_to_parameters(theta, model.parameters())
            mu = _DAMPING * torch.linalg.matrix_norm(J.dense(), 2).item() ** 2
            M = PRECONDITIONERS[method](model, Gram(J), mu)
        direction = M @ (J.H @ (S.H @ (S @ J.value)))
        found = _search(lambda rate, d=direction, at=theta: loss(at - rate * d), losses[-1], rate)
        if found is None:
            break
        rate, least = found
        theta = theta - rate * direction
        losses.append(least)
    torch.nn.utils.vector_to_parameters(theta, model.parameters())
    return {"real_loss": losses[-1] / losses[0], "real_error": _PROBLEM.error(model, points=1000)}


def _error(model: nn.Module, moved: Tensor) -> float:
    """Return the relative L² error of the linearized network after a change of its parameters."""
    x = evaluation_points(_PROBLEM.domain, 1000)
    with torch.no_grad():
        exact, start = (field(x)[:, 0] for field in (_PROBLEM.exact, model))  # type: ignore[misc]
    return float((start + tangent(model, x) @ moved - exact).norm() / exact.norm())


def _search(loss: Callable[[float], float], start: float, last: float) -> tuple[float, float] | None:
    """Return the rate and the loss of the first least loss on the way down from 16 times the last rate, by fours."""
    best: tuple[float, float] | None = None
    for k in range(-2, 25):
        rate = last * 4.0**-k
        value = loss(rate)
        if value < (start if best is None else best[1]):
            best = rate, value
        elif best is not None:
            break
    return best


def _steps(loss: Callable[[int], float]) -> int | None:
    """Return the first step at which the loss has fallen as wanted, by bisection; None if that takes too many."""
    if loss(_MOST_STEPS) > _WANTED:
        return None
    low, high = 0, _MOST_STEPS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if loss(middle) <= _WANTED else (middle, high)
    return high


def _medians(rows: Sequence[Row], network: str, method: str) -> Row:
    """Return medians over seeds; None is more than any number of steps."""
    found = [row for row in rows if (row["network"], row["method"], row["status"]) == (network, method, "ok")]
    if not found:
        return {}
    return {
        "strong": median(row["strong"] / row["parameters"] for row in found),
        "resolved": median(row["resolved"] / row["parameters"] for row in found),
        "kappa": median(row["kappa"]["estimate"] or math.inf for row in found),
        "steps": median(math.inf if row["steps"] is None else row["steps"] for row in found),
        "error": median(row["error"] for row in found),
        "real_error": next((row["real_error"] for row in found if "real_error" in row), math.nan),
    }


def _verdicts(rows: Sequence[Row]) -> list[Row]:
    """Say of every method, by medians over the networks, what it does to the spectrum, to κ and to the steps."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    verdicts = []
    for method in METHODS[1:]:
        pairs = [(_medians(rows, network, "none"), _medians(rows, network, method)) for network in networks]
        pairs = [(before, after) for before, after in pairs if before and after]
        gain = {key: median(a[key] / b[key] for b, a in pairs) for key in ("strong", "resolved", "kappa", "error")}
        faster = [(b["steps"], a["steps"]) for b, a in pairs if b["steps"] < math.inf or a["steps"] < math.inf]
        gain["steps"] = median(0.0 if b == math.inf else a / b for b, a in faster) if faster else 1.0
        reading = (
            _told(gain["strong"], "fewer large eigenvalues", "as many large eigenvalues", "more large eigenvalues"),
            _told(gain["kappa"], "κ falls", "κ stays", "κ rises"),
            _told(gain["steps"], "trains faster", "trains as before", "trains more slowly"),
            _told(gain["error"], "smaller error", "as large an error", "larger error"),
        )
        verdicts.append({"method": method, "reading": ", ".join(reading), **gain})
    return verdicts


def _told(ratio: float, less: str, same: str, more: str) -> str:
    return more if ratio >= _MOVED else less if ratio <= 1 / _MOVED else same


def _power(x: float) -> str:
    return f"{x:.0e}".replace("e+0", "e").replace("e+", "e") if x < math.inf else "> 1e9"


def _magnitude(x: float) -> str:
    return f"{x:.0e}".replace("e-0", "e-").replace("e+0", "e")


_PANELS = (
    ("steps", "Steps to 1e-3 of the loss", 0.0, 7.0, lambda x: f"{x:.0f}" if x < 1e4 else _power(x)),
    ("error", "Error after 1000 linear steps", -5.0, 0.5, _magnitude),
    ("real_error", "Error after 30 real steps", -5.0, 0.5, _magnitude),
    ("strong", "Eigenvalues above 1e-3 λ_max", -1.7, 0.0, lambda x: f"{100 * x:.0f} %"),
    ("kappa", "κ of the damped operator", 0.0, 9.0, lambda x: f"{x:.3g}" if x < 1e3 else _power(x)),
)


def draw(document: Row, out: Path) -> Path:
    """Draw steps, spectra and κ of every method on every network as maps; return the file ``networks.png``."""
    out.mkdir(parents=True, exist_ok=True)
    rows = document["rows"]
    networks = list(dict.fromkeys(row["network"] for row in rows))
    with style() as plt:
        figure, panels = plt.subplots(1, len(_PANELS), figsize=(20, 1.8 + 0.32 * len(METHODS)), sharey=True)
        for axes, (key, title, low, high, text) in zip(panels, _PANELS, strict=True):
            values = np.array([[_medians(rows, n, m).get(key, np.nan) for n in networks] for m in METHODS])
            logs = np.log10(np.clip(values, 10**low, 10**high))
            good = (logs - low) / (high - low) if key == "strong" else (high - logs) / (high - low)
            axes.imshow(good, cmap="viridis", vmin=0, vmax=1, aspect="auto")
            for (i, j), value in np.ndenumerate(values):
                color = "k" if good[i, j] > 0.5 else "w"
                axes.text(
                    j, i, text(value) if value == value else "–", ha="center", va="center", fontsize=8, color=color
                )
            axes.set_xticks(range(len(networks)), networks, rotation=30, ha="right", fontsize="small")
            axes.set_yticks(range(len(METHODS)), METHODS, fontsize="small")
            axes.set_title(title, fontsize="medium")
            axes.grid(visible=False)
        figure.tight_layout()
        figure.savefig(out / "networks.png")
        plt.close(figure)
    return out / "networks.png"


def tables(document: Row) -> list[Table]:
    """Return a rich table of what each method does, as medians of ratios to none."""
    from rich.table import Table

    table = Table(title="Networks: medians over networks of ratios to no preconditioner", title_justify="left")
    for name in ("", "> 1e-3 λ_max", "> 1e-9 λ_max", "κ", "steps", "error", "reading"):
        table.add_column(name, justify="left" if name in ("", "reading") else "right")
    for verdict in document["verdicts"]:
        numbers = (f"{verdict[key]:.3g}" for key in ("strong", "resolved", "kappa", "steps", "error"))
        table.add_row(verdict["method"], *numbers, verdict["reading"])
    return [table]
