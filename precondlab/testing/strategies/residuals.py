"""Random models, residual maps in the styles users write them in, and problems."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from precondlab import problems as package
from precondlab.map import Map
from precondlab.problems import Problem
from precondlab.testing.strategies.spectra import Draw, generators

__all__ = ["maps", "models", "problems"]

SMOOTH: tuple[type[nn.Module], ...] = (nn.Tanh, nn.SiLU, nn.GELU, nn.Softplus, nn.Sigmoid)


@st.composite
def models(
    draw: Draw,
    *,
    inputs: int | None = None,
    outputs: int | None = None,
    dtypes: Sequence[torch.dtype] = (torch.float64,),
    frozen: bool = True,
) -> nn.Module:
    """Draw a small feed-forward network with smooth activations, random weights, in evaluation mode.

    Width 1 to 5, up to 3 hidden layers. Some layers may lack a bias, have their bias frozen (not with
    ``frozen=False``), or share their weights with another layer.
    """
    dtype = draw(st.sampled_from(list(dtypes)))
    inputs = inputs or draw(st.integers(1, 3))
    outputs = outputs or draw(st.integers(1, 2))
    width, hidden = draw(st.integers(1, 5)), draw(st.integers(0, 3))
    activation = draw(st.sampled_from(SMOOTH))
    sizes = [inputs, *[width] * hidden, outputs]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        if layers:
            layers.append(activation())
        layers.append(nn.Linear(a, b, bias=draw(st.booleans()), dtype=dtype))
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    if hidden == 3 and draw(st.booleans()):
        linear[1].weight = linear[2].weight  # tied
    generator = draw(generators())
    for layer in linear:
        for parameter in layer.parameters():
            parameter.data.normal_(generator=generator)
        if frozen and layer.bias is not None and draw(st.booleans()):
            layer.bias.requires_grad_(False)
    return nn.Sequential(*layers).eval()


@st.composite
def maps(
    draw: Draw,
    *,
    styles: Sequence[str] = ("function", "blocks", "closure"),
    dtypes: Sequence[torch.dtype] = (torch.float64,),
    frozen: bool = True,
) -> Map:
    """Draw the residual of ``Δu + c u ∂₁u = f`` with boundary values, for a random model, points and weights.

    Styles: ``"function"`` of a parameter dict and ``"blocks"``, one function per block, are written with
    torch.func; ``"closure"`` is written with ``torch.autograd.grad``, as most scripts are. The blocks are
    ``interior`` and ``boundary``; there may be a parameter without influence.
    """
    dtype = draw(st.sampled_from(list(dtypes)))
    dim = draw(st.integers(1, 2))
    model = draw(models(inputs=dim, outputs=1, dtypes=[dtype], frozen=frozen))
    generator = draw(generators())
    sizes = {"interior": draw(st.integers(1, 7)), "boundary": draw(st.integers(1, 3))}
    points = {k: torch.rand(n, dim, dtype=dtype, generator=generator) for k, n in sizes.items()}
    weights = {k: draw(st.sampled_from([0.0, 0.25, 1.0, 40.0])) for k in sizes}
    c = draw(st.sampled_from([0.0, 0.7]))
    params = dict(model.named_parameters())

    def network(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, {k: v for k, v in p.items() if k in params}, (x,))[..., 0]

    def interior(p: dict[str, Tensor], x: Tensor) -> Tensor:
        def at(point: Tensor) -> Tensor:
            u, du = network(p, point), torch.func.grad(lambda y: network(p, y))(point)
            ddu = torch.func.hessian(lambda y: network(p, y))(point)
            return ddu.trace() + c * u * du[0] - point.sum()

        return torch.func.vmap(at)(x)

    def boundary(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return network(p, x) - 1

    def classic() -> dict[str, Tensor]:
        x = points["interior"].clone().requires_grad_()
        u = model(x)
        (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        value = c * u[:, 0] * du[:, 0] - x.detach().sum(1)
        for i in range(dim):
            if du.requires_grad:
                second = torch.autograd.grad(du[:, i].sum(), x, create_graph=True, allow_unused=True)[0]
                value = value if second is None else value + second[:, i]
        return {"interior": value, "boundary": model(points["boundary"])[:, 0] - 1}

    style = draw(st.sampled_from(list(styles)))
    if draw(st.booleans()):
        params = {**params, "unused": torch.ones(2, dtype=dtype, requires_grad=True)}
        if style == "closure":
            model.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=dtype)))
    residuals = {"interior": interior, "boundary": boundary}
    match style:
        case "closure":
            return Map.of_module(model, classic, weights=weights)
        case "blocks":
            quadrature = {"interior": torch.rand(sizes["interior"], dtype=dtype, generator=generator)}
            return Map(residuals, params, points=points, quadrature=quadrature, weights=weights)
        case _:
            return Map(lambda p: {k: f(p, points[k]) for k, f in residuals.items()}, params, weights=weights)


@st.composite
def problems(draw: Draw, *, max_dim: int = 2) -> Problem:
    """Draw one of the factories of :mod:`precondlab.problems`, at its defaults; ``dim`` where it has one is drawn."""
    factories = [factory for name in package.__all__ if inspect.isfunction(factory := getattr(package, name))]
    factory = draw(st.sampled_from(factories))
    if "dim" not in inspect.signature(factory).parameters:
        return factory()
    return factory(dim=draw(st.integers(1, max_dim)))
