"""matfree: Lanczos tridiagonalization of a GGN written in JAX, compiled as a whole, and LSMR's estimate of κ."""

from __future__ import annotations

from typing import Any

import numpy as np

from precondlab.bench.inputs import Inputs
from precondlab.bench.ways.spectral.computation import Computation
from precondlab.bench.ways.spectral.fourier import FourierPoisson
from precondlab.bench.ways.spectral.plain import summary

__all__ = ["Density", "Lsmr"]

Array = Any  # jax.Array, which is not installed where this is checked


class Density(Computation):
    """``tridiag_sym`` with ``reortho`` ``"none"`` or ``"full"``; compiled before it is run; option ``steps``."""

    def __init__(self, inputs: Inputs | None, **options: Any) -> None:
        super().__init__(inputs, **options)
        import jax  # pyright: ignore[reportMissingImports]
        import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
        from jax.flatten_util import ravel_pytree  # pyright: ignore[reportMissingImports]
        from matfree import decomp  # pyright: ignore[reportMissingImports]

        x = jnp.asarray(self.inputs.points)
        flat, unravel = ravel_pytree([(jnp.asarray(w), jnp.asarray(b)) for w, b in self.inputs.layers])

        def outputs(flat: Array, x: Array) -> Array:
            layers = unravel(flat)
            for weight, bias in layers[:-1]:
                x = jnp.tanh(x @ weight.T + bias)
            weight, bias = layers[-1]
            return x @ weight.T + bias

        def product(v: Array, flat: Array, x: Array) -> Array:
            logits, pull = jax.vjp(lambda p: outputs(p, x), flat)
            moved = jax.jvp(lambda p: outputs(p, x), (flat,), (v,))[1]
            p = jax.nn.softmax(logits)
            return pull(p * (moved - (p * moved).sum(1, keepdims=True)) / len(x))[0]

        tridiagonalize = decomp.tridiag_sym(options["steps"], reortho=options["reortho"], materialize=True)
        start = jnp.asarray(np.random.default_rng(0).standard_normal(len(flat)))
        self.arguments = start, flat, x
        self.compiled = jax.jit(lambda v, p, x: tridiagonalize(product, v, p, x)[1]).lower(*self.arguments).compile()

    def run(self) -> dict[str, Any]:
        T = np.asarray(self.compiled(*self.arguments))
        self.budget.spend(self.options["steps"])
        nodes, Y = np.linalg.eigh(T)
        return summary(nodes, Y[0] ** 2)


class Lsmr(Computation):
    """The estimate ``cond_A`` of ``lsmr`` on the hidden Fourier problem, run to round-off; option ``products``."""

    def run(self) -> dict[str, Any]:
        import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
        from matfree import lstsq  # pyright: ignore[reportMissingImports]

        problem = FourierPoisson(self.options["K"], self.budget)
        entries, row, W = map(jnp.asarray, (problem.entries, problem.condition, problem.reflections))

        def adjoint(u: Array) -> Array:
            v = entries * u[:-1] + row * u[-1]
            for w in W[::-1]:
                v = v - 2 * (w @ v) * w
            return v

        b = jnp.asarray(np.random.default_rng(0).standard_normal(problem.size + 1))
        most = int(self.options["products"])
        _, stats = lstsq.lsmr(atol=1e-14, btol=1e-14, ctol=0.0, maxiter=most)(adjoint, b)
        self.budget.spent = float(stats["iteration_count"])
        return {"value": float(stats["cond_A"]) ** 2}
