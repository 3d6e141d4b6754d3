"""The spectrum of the curvature during training, within a fraction of its time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from precondlab.dynamics.drift import columns, participation, relative_norm
from precondlab.map import Map
from precondlab.operator import Operator
from precondlab.operators import Gram, Jacobian
from precondlab.spectrum import condition
from precondlab.spectrum.estimate import jackknife

__all__ = ["SpectrumMonitor"]


class SpectrumMonitor:
    """Record the spectrum of ``A = JᵀJ`` every so many steps, without touching the training.

    :meth:`step` is called once before every training step. It measures at the first call, then every ``every`` calls;
    a measurement that would take more than the budget waits until it fits. None is made with fewer products
    than another, so that the numbers of different steps can be compared. Parameters, gradients and torch's random
    state are left alone: a monitored run equals an unmonitored one bit for bit.

    A record has plain floats:

    ``step``
        Training steps done.
    ``lambda_max``
        Largest Ritz value: a lower bound on the largest eigenvalue.
    ``lambda_min``
        Smallest Ritz value: an upper bound on the smallest eigenvalue.
    ``condition_number``, ``condition_upper``
        Bounds on ``λ_max/λ_min``; the lower one is certain, the upper one holds with probability 0.95 and is
        infinite where the products could not tell.
    ``effective_rank``, ``effective_rank_stderr``
        ``(tr A)²/tr A²``, the number of equal eigenvalues with the same two moments, from random probes, and its
        standard error. Left out for an operator that is not declared positive.
    ``drift``, ``drift_stderr``
        ``‖A − A₀‖/‖A₀‖`` in the Frobenius norm, A₀ being the first operator measured, from the same probes.
        Few probes know their errors roughly: with the default of 10, ±2 standard errors hold in about 90 % of
        measurements and ±2.26, Student's factor for 95 %, in 91–96 %.
    ``overhead``
        Part of the time since the first call that was spent here.

    For a symmetric operator that is not declared positive, eigenvalues are replaced by their moduli.

    Parameters
    ----------
    source
        A map; or a function of what :meth:`step` is given, such as the batch, that returns a map or a symmetric
        operator.
    every
        Steps between measurements.
    budget
        Largest ``overhead`` after which another measurement is made; ``float("inf")`` for no limit. The first
        one is made in any case and pays its time back before the second.
    num_matvecs
        Products for the extreme eigenvalues.
    num_probes
        Products for effective rank and drift; at least 2.
    generator
        For the probes.

    Attributes
    ----------
    history : list of dict
        All records.

    Raises
    ------
    ValueError, TypeError
        For options out of range, or a source that gives neither a map nor a symmetric operator; at parameters that
        are not finite.
    Breakdown
        If a product is not finite.

    Cost of a measurement: the construction of J and ``num_matvecs + num_probes`` products with A. Memory: as many
    vectors, and ``2 num_probes`` kept.

    >>> theta = torch.tensor([1.0, 1.0], dtype=torch.float64)
    >>> monitor = SpectrumMonitor(Map(lambda p: p["a"] ** 2, {"a": theta}), every=2, budget=float("inf"))
    >>> record = monitor.step()
    >>> record["lambda_max"], record["condition_number"], monitor.step()  # A = 4·1
    (4.0, 1.0, None)
    >>> theta *= 3
    >>> monitor.step()["drift"]  # A = 36·1
    8.0
    """

    def __init__(
        self,
        source: Map | Callable[..., Map | Operator],
        /,
        *,
        every: int = 100,
        budget: float = 0.05,
        num_matvecs: int = 30,
        num_probes: int = 10,
        generator: torch.Generator | None = None,
    ) -> None:
        if not isinstance(source, Map) and not callable(source):
            raise TypeError(
                f"SpectrumMonitor: expected a pl.Map or a function that returns one, got {type(source).__name__}"
            )
        if every < 1 or not budget > 0 or num_matvecs < 1 or num_probes < 2:
            raise ValueError(
                "SpectrumMonitor: expected every ≥ 1, budget > 0, num_matvecs ≥ 1 and num_probes ≥ 2, "
                f"got {every}, {budget}, {num_matvecs} and {num_probes}"
            )
        self._source = source
        self.every, self.budget = every, budget
        self.num_matvecs, self.num_probes = num_matvecs, num_probes
        self._generator = generator
        self.history: list[dict[str, float]] = []
        self._steps = 0
        self._began: float | None = None
        self._spent = self._last = 0.0
        self._reference: tuple[Tensor, Tensor] | None = None

    @property
    def overhead(self) -> float:
        """Part of the time since the first call that was spent on measurements."""
        return self._spent / max(self._elapsed(perf_counter()), 1e-9)

    def step(self, *context: Any) -> dict[str, float] | None:
        """Count a training step that is about to be made; measure and return the record if it is time to.

        The context is handed to the source if that is a function.
        """
        begin = perf_counter()
        elapsed = self._elapsed(begin)
        since = self._steps - self.history[-1]["step"] if self.history else self.every
        affordable = not self.history or self._spent + self._last <= self.budget * elapsed
        record = None
        if since >= self.every and affordable:
            record = self._measure(self._operator(*context))
            self._last = perf_counter() - begin
            self._spent += self._last
            record["overhead"] = self.overhead
            self.history.append(record)
        self._steps += 1
        return record

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` needs to continue: plain numbers, lists and tensors."""
        return {
            "steps": self._steps,
            "history": [dict(record) for record in self.history],
            "elapsed": self._elapsed(perf_counter()),
            "spent": self._spent,
            "last": self._last,
            "reference": None if self._reference is None else [part.clone() for part in self._reference],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state: counts, time spent, history, and the operator that drift refers to."""
        missing = self.state_dict().keys() ^ state.keys()
        if missing:
            raise ValueError(
                f"SpectrumMonitor: the entries {sorted(missing)} are missing from the state or unknown; "
                "pass what state_dict() of a monitor returned"
            )
        self._steps, self._spent, self._last = state["steps"], state["spent"], state["last"]
        self.history = [dict(record) for record in state["history"]]
        self._began = perf_counter() - state["elapsed"]
        reference = state["reference"]
        self._reference = None if reference is None else (reference[0].clone(), reference[1].clone())

    def _elapsed(self, now: float) -> float:
        self._began = now if self._began is None else self._began
        return now - self._began

    def _operator(self, *context: Any) -> Operator:
        A: Any = self._source if isinstance(self._source, Map) else self._source(*context)
        A = Gram(Jacobian(A)) if isinstance(A, Map) else A
        if not isinstance(A, Operator) or not A.symmetric:
            raise TypeError(
                f"SpectrumMonitor: the source should give a pl.Map or a symmetric operator, got {A!r}; "
                "take pl.Gram of a Jacobian"
            )
        return A

    @torch.no_grad()
    def _measure(self, A: Operator) -> dict[str, float]:
        if self._reference is None:
            Z = A.domain.random(self.num_probes, generator=self._generator)
            images = A.forward(Z).contiguous()
            self._reference = (Z, images)
        else:
            Z = self._reference[0].to(A.domain.device)
            if Z.shape[0] != A.shape[0] or Z.dtype != A.domain.dtype:
                raise ValueError(
                    f"SpectrumMonitor: {A!r} is measured against an operator on {Z.shape[0]} unknowns in {Z.dtype}; "
                    "start a new monitor for another model"
                )
            images = A.forward(Z)
        extremes = condition(A, num_matvecs=self.num_matvecs)
        record = {
            "step": float(self._steps),
            "lambda_max": extremes.largest,
            "lambda_min": extremes.smallest,
            "condition_number": extremes.lower,
            "condition_upper": extremes.upper,
        }
        before = self._reference[1].to(images.device)
        count, moved = Z.shape[1], images - before
        found = {
            "drift": jackknife(
                relative_norm, columns(A.domain, moved, moved), columns(A.domain, before, before), num_matvecs=count
            )
        }
        if A.positive:
            found["effective_rank"] = jackknife(
                participation, columns(A.domain, Z, images), columns(A.domain, images, images), num_matvecs=count
            )
        for name, estimate in found.items():
            record[name], record[f"{name}_stderr"] = estimate.value, estimate.stderr
        return {name: float(value) for name, value in record.items()}
