"""JAX: ``jit`` of forward and reverse mode, with two Laplacians and two ways to compose the product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from precondlab.bench.ways.way import Way

__all__ = ["Jit"]

Array = Any  # jax.Array, which is not installed where this is checked
Params = list[tuple[Array, Array]]


class Jit(Way[Array]):
    """``jit(v ↦ Jᵀ(Jv))``; blocks go through ``vmap``.

    Options: ``laplacian`` is ``"jet"`` (Taylor mode, one direction after the other) or ``"hessian"`` (forward
    over reverse, one point vmapped over all); ``product`` is ``"jvp-vjp"`` (the primal anew in every product,
    for XLA to share between its two passes) or ``"linearize"`` (the primal kept by ``jax.linearize``).
    """

    def setup(self) -> None:
        import jax  # pyright: ignore[reportMissingImports]
        import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
        from jax.flatten_util import ravel_pytree  # pyright: ignore[reportMissingImports]

        inputs = self.inputs
        points, boundary = jnp.asarray(inputs.points), jnp.asarray(inputs.boundary)
        scale, boundary_scale = jnp.asarray(inputs.scale), jnp.asarray(inputs.boundary_scale)
        laplacian = _taylor if self.options["laplacian"] == "jet" else _trace
        params, unravel = ravel_pytree([(jnp.asarray(w), jnp.asarray(b)) for w, b in inputs.layers])

        def rows(flat: Array) -> Array:
            p = unravel(flat)
            inside, edge = -laplacian(p, points), _network(p, boundary)
            return jnp.concatenate([inside * scale, edge * boundary_scale])

        def anew(p: Array, v: Array) -> Array:
            _, pull = jax.vjp(rows, p)
            return pull(jax.jvp(rows, (p,), (v,))[1])[0]

        def kept(push: Callable[[Array], Array], v: Array) -> Array:
            return jax.linear_transpose(push, params)(push(v))[0]

        linearized = self.options["product"] == "linearize"
        apply = kept if linearized else anew
        # the linearization is an argument: its arrays would otherwise be constants of the program
        self.at = jax.jit(lambda p: jax.linearize(rows, p)[1])(params) if linearized else params
        self.one = jax.jit(apply)
        self.many = jax.jit(jax.vmap(apply, in_axes=(None, 1), out_axes=1))

    def enter(self, array: np.ndarray) -> Array:
        import jax  # pyright: ignore[reportMissingImports]

        jax.config.update("jax_enable_x64", True)
        return jax.numpy.asarray(array)

    def leave(self, array: Array) -> np.ndarray:
        return np.asarray(array)

    def product(self, v: Array) -> Array:
        return self.one(self.at, v).block_until_ready()

    def block(self, V: Array) -> Array:
        return self.many(self.at, V).block_until_ready()


def _network(params: Params, x: Array) -> Array:
    import jax.numpy as jnp  # pyright: ignore[reportMissingImports]

    for weight, bias in params[:-1]:
        x = jnp.tanh(x @ weight.T + bias)
    weight, bias = params[-1]
    return (x @ weight.T + bias)[..., 0]


def _taylor(params: Params, x: Array) -> Array:
    """Return Δu of all points ``[N]`` by Taylor mode."""
    import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
    from jax.experimental.jet import jet  # pyright: ignore[reportMissingImports]

    total = jnp.zeros(len(x))
    for axis in range(x.shape[1]):
        direction = jnp.zeros_like(x).at[:, axis].set(1.0)
        _, (_, second) = jet(lambda x: _network(params, x), (x,), ((direction, jnp.zeros_like(x)),))
        total = total + second
    return total


def _trace(params: Params, x: Array) -> Array:
    """Return Δu of all points ``[N]`` as the trace of the Hessian of one, vmapped."""
    import jax  # pyright: ignore[reportMissingImports]

    hessian = jax.hessian(lambda x: _network(params, x))
    return jax.vmap(lambda x: jax.numpy.trace(hessian(x)))(x)
