"""Hypothesis strategies: spectra, operators with their matrices, maps, models and problems.

Structure and sizes are drawn by hypothesis, so that failures shrink to small cases; numbers come
from a torch generator whose seed is drawn.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from scipy.sparse.linalg import aslinearoperator
from torch import Tensor, nn

from precondlab.map import Map
from precondlab.operator import Operator, as_operator
from precondlab.operators.gram import Gram, Kernel
from precondlab.operators.structured import BlockDiagonal, Dense, Diagonal, HStack, Identity, LowRank, VStack
from precondlab.space import Space

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(
        'precondlab.testing.strategies needs hypothesis; run: pip install "precondlab[testing]"'
    ) from error

__all__ = ["generators", "maps", "models", "operators", "problems", "spectra"]

Draw = Callable[..., Any]
Pair = tuple[Operator, Tensor]

SMOOTH: tuple[type[nn.Module], ...] = (nn.Tanh, nn.SiLU, nn.GELU, nn.Softplus, nn.Sigmoid)


def generators() -> st.SearchStrategy[torch.Generator]:
    """Return a strategy for seeded torch generators.

    >>> generators().filter(lambda generator: generator.initial_seed() >= 0).validate()
    """
    return st.integers(0, 2**32 - 1).map(lambda seed: torch.Generator().manual_seed(seed))


@st.composite
def spectra(
    draw: Draw, *, min_size: int = 1, max_size: int = 12, condition: float = 1e12, signed: bool = False
) -> Tensor:
    """Draw eigenvalues or singular values ``[n]`` (float64, descending in size) that are hard in some way.

    Uniform, log-uniform, powers ``i⁻ᵃ``, clusters with multiplicity, pairs with a tiny gap, an
    isolated small value, exact zeros, Strakoš' spectrum; with mixed signs if ``signed``. The
    largest is 1 in size, non-zero ones are at least ``1/condition``.
    """
    n = draw(st.integers(min_size, max_size))
    kind = draw(
        st.sampled_from(["uniform", "log", "power", "cluster", "tight", "isolated", "zeros", "strakos"])
    )
    generator = draw(generators())
    u = torch.rand(n, dtype=torch.float64, generator=generator)
    i = torch.arange(1, n + 1, dtype=torch.float64)
    match kind:
        case "uniform" | "zeros":
            values = 0.1 + 0.9 * u
        case "log":
            values = condition**-u
        case "power":
            values = i ** -float(draw(st.integers(1, 4)))
        case "cluster":
            values = torch.where(u < 0.5, 1.0, 1e-3)
        case "tight":
            values = (1 - 0.5 * ((i - 1) // 2) / n) * (1 - (i % 2) * 10.0 ** -draw(st.integers(1, 15)))
        case "isolated":
            values = torch.cat([0.5 + 0.5 * u[1:], u.new_tensor([1e-7])])
        case _:
            low, rho = 1e-3, 0.8
            values = low + (i - 1) / max(n - 1, 1) * (1 - low) * rho ** (n - i)
    values = (values / values.max()).clamp(min=1 / condition).sort(descending=True).values
    if kind == "zeros" and n > 1:
        values[n - draw(st.integers(1, n - 1)) :] = 0
    if signed:
        values = values * torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    return values


@st.composite
def operators(
    draw: Draw,
    *,
    max_size: int = 6,
    depth: int = 3,
    dtypes: Sequence[torch.dtype] = (torch.float64, torch.float32, torch.complex128),
    shape: tuple[int, int] | None = None,
) -> Pair:
    """Draw a random expression of operators and its matrix, as a pair ``(operator, matrix)``.

    Leaves are dense, diagonal, low-rank, identity, positive with a drawn spectrum, or SciPy's own;
    nodes are ``+ - * / @ .H .T``, palindromes, Gram, Kernel, stacks and block diagonals. The
    matrix is computed beside the operator, by dense algebra in double precision.

    Parameters
    ----------
    max_size
        Largest number of rows or columns.
    depth
        Largest height of the expression.
    dtypes
        To choose from.
    shape
        Rows and columns; drawn if None.

    >>> from hypothesis import given, settings
    >>> @settings(max_examples=5, database=None, derandomize=True, deadline=None)
    ... @given(operators())
    ... def test(pair):
    ...     operator, matrix = pair
    ...     assert operator.shape == matrix.shape
    >>> test()
    """
    dtype = draw(st.sampled_from(list(dtypes)))
    m, n = shape or (draw(st.integers(1, max_size)), draw(st.integers(1, max_size)))
    operator, matrix = _tree(draw, m, n, depth, max_size, dtype, draw(generators()))
    return operator, matrix.to(dtype)


def _tree(
    draw: Draw, m: int, n: int, depth: int, max_size: int, dtype: torch.dtype, generator: torch.Generator
) -> Pair:
    def sub(m: int, n: int) -> Pair:
        return _tree(draw, m, n, depth - 1, max_size, dtype, generator)

    def split(size: int) -> tuple[int, int]:
        first = draw(st.integers(1, size - 1))
        return first, size - first

    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return _leaf(draw, m, n, dtype, generator)
    nodes = ["sum", "difference", "scaled", "divided", "adjoint", "transpose", "product"]
    nodes += ["square", "palindrome", "gram", "kernel"] * (m == n)
    nodes += ["vstack"] * (m > 1) + ["hstack"] * (n > 1) + ["diagonal"] * (m > 1 and n > 1)
    node = draw(st.sampled_from(nodes))
    inner = draw(st.integers(1, max_size))
    match node:
        case "sum" | "difference":
            (A, a), (B, b) = sub(m, n), sub(m, n)
            return (A + B, a + b) if node == "sum" else (A - B, a - b)
        case "scaled" | "divided":
            A, a = sub(m, n)
            factor = draw(
                st.sampled_from([-2, -1.0, 0, 0.5, 3.0, *([1j, 2 - 1j] if dtype.is_complex else [])])
            )
            return (A / (factor or 1), a / (factor or 1)) if node == "divided" else (factor * A, factor * a)
        case "adjoint" | "transpose":
            A, a = sub(n, m)
            return (A.H, a.mH) if node == "adjoint" else (A.T, a.mT)
        case "product":
            (A, a), (B, b) = sub(m, inner), sub(inner, n)
            return A @ B, a @ b
        case "square":
            A, a = sub(n, n)
            return A**2, a @ a
        case "palindrome":
            (P, q), (A, a) = sub(inner, n), sub(inner, inner)
            return P.H @ A @ P, q.mH @ a @ q
        case "gram":
            A, a = sub(inner, n)
            return Gram(A), a.mH @ a
        case "kernel":
            A, a = sub(n, inner)
            return Kernel(A), a @ a.mH
        case "vstack":
            (A, a), (B, b) = (sub(part, n) for part in split(m))
            return VStack(A, B), torch.cat([a, b])
        case "hstack":
            (A, a), (B, b) = (sub(m, part) for part in split(n))
            return HStack(A, B), torch.cat([a, b], dim=1)
        case _:
            (A, a), (B, b) = (sub(*part) for part in zip(split(m), split(n), strict=True))
            return BlockDiagonal(A, B), torch.block_diag(a, b)


def _leaf(draw: Draw, m: int, n: int, dtype: torch.dtype, generator: torch.Generator) -> Pair:
    wide = torch.complex128 if dtype.is_complex else torch.float64

    def normal(*shape: int) -> Tensor:  # rounded to the dtype, so that operator and matrix start equal
        return torch.randn(*shape, dtype=wide, generator=generator).to(dtype).to(wide)

    leaves = ["dense", "scipy", "lowrank"] + ["identity", "diagonal", "positive", "symmetric"] * (m == n)
    match draw(st.sampled_from(leaves)):
        case "dense":
            a = normal(m, n)
            return Dense(a.to(dtype)), a
        case "scipy":
            a = normal(m, n)
            return as_operator(aslinearoperator(a.to(dtype).numpy())), a
        case "lowrank":
            rank = draw(st.integers(1, 3))
            U, s, V = normal(m, rank), normal(rank), normal(n, rank)
            return LowRank(U.to(dtype), s.to(dtype), V.to(dtype)), U @ torch.diag(s) @ V.mH
        case "identity":
            return Identity(Space(n, dtype=dtype)), torch.eye(n, dtype=wide)
        case "diagonal":
            d = normal(n)
            d = d.abs().to(wide) if draw(st.booleans()) else d
            return Diagonal(d.to(dtype)), torch.diag(d)
        case kind:
            values = draw(spectra(min_size=n, max_size=n, signed=kind == "symmetric"))
            Q = torch.linalg.qr(normal(n, n)).Q
            a = (Q * values) @ Q.mH
            a = ((a + a.mH) / 2).to(dtype)
            return Dense(a, symmetric=True, positive=kind == "positive" and bool(values.min() > 1e-3)), a.to(
                wide
            )


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
def problems(draw: Draw) -> Any:
    """Draw one of the package's problems, in one dimension where the dimension is free."""
    from precondlab import problems as package

    factories = [getattr(package, name) for name in package.__all__]
    factories = [
        f for f in factories if inspect.isfunction(f) and f.__module__ != "precondlab.problems.problem"
    ]
    factory = draw(st.sampled_from(sorted(factories, key=lambda f: f.__name__)))
    return factory(dim=1) if "dim" in inspect.signature(factory).parameters else factory()
