"""PINA: the residual map of a solver on a batch, through its own conditions and equations.

A solver is trained with one of our optimizers by PINA's and Lightning's own means::

    solver = PINN(problem, model, optimizer=TorchOptimizer(Hosted, make=pl.optim.LevenbergMarquardt))
    callbacks = [lightning.Follow(pina.residual), lightning.Monitor(SpectrumMonitor(pina.residual))]
    Trainer(solver, callbacks=callbacks, max_epochs=100).train()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from precondlab.map import Map

if TYPE_CHECKING:
    from pina.solver import SingleModelSolver

__all__ = ["residual"]


def residual(solver: SingleModelSolver, batch: Any) -> Map:
    """Return the residual map of a PINA solver with one model on a batch.

    The blocks are the problem's conditions. Rows are divided by √N and multiplied by the square root of the
    condition's weight, so that ``‖r‖²`` is the solver's loss.

    Parameters
    ----------
    solver
        With mean (or summed) squared errors and fixed weights.
    batch
        Pairs (name of a condition, its data), as the solver's ``training_step`` gets.

    Raises
    ------
    ValueError
        For another loss, adaptive weights, several models, unknown parameters of an inverse problem, or dropout or
        batch normalization in training mode.

    Cost: one evaluation of the residual.
    """
    try:
        from pina.problem import InverseProblem
        from pina.solver import SingleModelSolver
        from pina.weighting import ScalarWeighting
    except ImportError as error:
        raise ImportError("precondlab.integrations.pina needs PINA: pip install 'precondlab[pina]'") from error

    if not isinstance(solver, SingleModelSolver):
        raise ValueError(f"pina.residual: expected a solver with a single model, got {type(solver).__name__}")
    problem, weighting = cast(Any, solver.problem), solver.weighting
    refused = {
        f"the loss {solver.loss}, expected torch.nn.MSELoss": not isinstance(solver.loss, nn.MSELoss),
        f"{type(weighting).__name__}, expected fixed weights": not isinstance(weighting, ScalarWeighting),
        "an inverse problem, expected no unknown besides the model": isinstance(problem, InverseProblem),
    }
    for reason, wrong in refused.items():
        if wrong:
            raise ValueError(f"pina.residual: got {reason}; train it with one of PINA's own optimizers")
    names = [name for name, _ in batch]
    weights = weighting.update_weights(dict.fromkeys(names))
    summed = solver._reduction == "sum"

    def blocks() -> dict[str, Tensor]:
        out = {}
        for name, data in batch:
            data = {**data, "input": data["input"].clone()}
            rows = problem.conditions[name].evaluate(data, solver).as_subclass(torch.Tensor)
            out[name] = rows * (weights[name] / (1 if summed else max(1, rows.numel()))) ** 0.5
        return out

    return Map.of_module(solver.model, blocks)
