"""KFAC against Kronecker products formed by hand, from jets written out layer by layer and torch.autograd."""

import pytest
import torch

import precondlab as pl
from precondlab.differentiation.calculus import Pointwise
from precondlab.errors import NotPositive
from precondlab.operators import Gram, Jacobian
from precondlab.preconditioners import block_jacobi, jacobi, kfac, nested

LAMBDA = 3.0


def gram(problem, model, *, weight=LAMBDA, interior=30, **options):
    return Gram(Jacobian(problem.residual(model, interior=interior, weights={"boundary": weight}, **options)))


def values(model, points):
    """Return A of the residual u(x)."""
    rows = Pointwise(model, lambda x, u: u(x)[:, 0])
    return Gram(Jacobian(pl.Map({"": rows}, dict(model.named_parameters()), points={"": points})))


def jets(model, x):
    """Return u, u′, u″ ``[N 3]`` of a tanh network in one dimension, with inputs and pre-activations of its layers."""
    channels = [x, torch.ones_like(x), torch.zeros_like(x)]
    inputs, outputs = [], []
    linear = [layer for layer in model if isinstance(layer, torch.nn.Linear)]
    for i, layer in enumerate(linear):
        ones = [torch.full_like(x, float(c == 0)) for c in range(3)]
        inputs.append(torch.stack([torch.cat([z, one], 1) for z, one in zip(channels, ones, strict=True)]))
        W = torch.cat([layer.weight, layer.bias[:, None]], 1)
        z = inputs[-1] @ W.T
        outputs.append(z)
        t = torch.tanh(z[0])
        slope = 1 - t**2
        hidden = [t, slope * z[1], slope * z[2] - 2 * t * slope * z[1] ** 2]
        channels = hidden if i + 1 < len(linear) else list(z)
    return torch.cat(channels, 1), inputs, outputs


def factors(model, x, seed, channels):
    """Return F and B of every layer for residual rows ``Σ_c seed_c u^(c)``."""
    u, inputs, outputs = jets(model, x)
    adjoints = torch.autograd.grad((seed * u).sum(), outputs)
    found = []
    for a, g in zip(inputs, adjoints, strict=True):
        a, g = a.detach()[:channels].flatten(0, 1), g[:channels].flatten(0, 1)
        found.append((a.T @ a / len(a), g.T @ g))
    return found


def by_hand(model, points, weights, damping):
    """Return M, dense, from eigenvalue-free Kronecker products and an LU inverse."""
    x, ends = points["interior"], points["boundary"]
    interior = torch.zeros(len(x), 3, dtype=x.dtype)
    interior[:, 2] = weights["interior"].sqrt()
    boundary = torch.zeros(len(ends), 3, dtype=x.dtype)
    boundary[:, 0] = LAMBDA**0.5
    blocks = []
    for two in zip(factors(model, x, interior, 3), factors(model, ends, boundary, 1), strict=True):
        total = 0
        for F, B in two:
            f, b = F.trace() / len(F), B.trace() / len(B)
            F = F + (damping / 2 * f / b).sqrt() * torch.eye(len(F), dtype=x.dtype)
            B = B + (damping / 2 * b / f).sqrt() * torch.eye(len(B), dtype=x.dtype)
            total = total + torch.einsum("oq,ip->oiqp", B, F)  # on matrices [out, in + 1]
        out, inner = total.shape[:2]
        inverse = torch.linalg.inv(total.reshape(out * inner, -1))
        order = torch.arange(out * inner).reshape(out, inner)
        order = torch.cat([order[:, :-1].flatten(), order[:, -1]])  # weight, then bias
        blocks.append(inverse[order][:, order])
    return torch.block_diag(*blocks)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_inverse_of_the_kronecker_sum_formed_by_hand(seed):
    model = pl.models.mlp((1, 5, 4, 1), seed=seed)
    A = gram(pl.problems.poisson(), model)
    r = A.J.map
    x = r.points["interior"]
    weights = {"interior": torch.full_like(x[:, 0], 2 * torch.pi / len(x))}
    expected = by_hand(model, r.points, weights, damping=1e-2)
    M = kfac(A, damping=1e-2)
    torch.testing.assert_close(M.dense(), expected, rtol=1e-8, atol=1e-8 * expected.abs().max().item())
    pl.testing.check_operator(M)
    torch.testing.assert_close((M.sqrt @ M.sqrt.H).dense(), M.dense())
    identity = torch.eye(len(M.dense()), dtype=torch.float64)
    torch.testing.assert_close((M.inverse @ M).dense(), identity, rtol=0, atol=1e-8)


@pytest.mark.parametrize("problem", [pl.problems.poisson(2), pl.problems.advection(), pl.problems.kdv()], ids=str)
def test_inputs_and_adjoints_of_the_layers_make_up_the_rows_of_J(problem):
    J = Jacobian(problem.residual(pl.models.mlp((problem.dim, 4, 3, 1), seed=0), interior=9, boundary=8))
    for part in (J, *(J.block(name) for name in J.codomain.shapes)):
        found, columns = torch.zeros(part.shape, dtype=torch.float64), part.domain.slices
        for rows, names, a, g in part.layers():
            gradients = torch.einsum("cnq,cnp->nqp", g, a)
            widths = [max(1, part.domain.shapes[n][1:].numel()) for n in names]
            for n, piece in zip(names, gradients.split(widths, dim=2), strict=True):
                found[rows, columns[n]] += piece.flatten(1)
        scale = part.dense().abs().max().item()
        torch.testing.assert_close(found, part.dense(), rtol=1e-10, atol=1e-12 * scale)


def test_it_is_exact_for_one_linear_layer_and_for_one_point():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    A = values(pl.models.mlp((3, 1), seed=0), x)
    torch.testing.assert_close((kfac(A) @ A).dense(), torch.eye(4, dtype=torch.float64))
    A = values(pl.models.mlp((3, 4, 1), seed=0), x[:1])  # every layer is exact; what couples layers is left out
    M, layers = kfac(A, damping=0.1), [slice(0, 16), slice(16, 21)]
    for part in layers:
        shifted = A.dense()[part, part] + 0.1 * torch.eye(part.stop - part.start, dtype=torch.float64)
        torch.testing.assert_close(M.dense()[part, part], torch.linalg.inv(shifted))
    torch.testing.assert_close(M.dense(), block_jacobi(A, layers, damping=0.1).dense())


@pytest.mark.parametrize("seed", range(3))
def test_gradient_descent_on_a_network_learns_what_it_does_not_without(seed):
    J = gram(pl.problems.poisson_sines(), pl.models.mlp((2, 16, 16, 1), seed=seed), interior=(12, 12), boundary=40).J
    A, matrix = Gram(J), J.dense()
    damping = 1e-6 * torch.linalg.matrix_norm(matrix, 2).item() ** 2

    def loss(M):
        """Return the loss after 100 steps of the longest stable length, exactly, in the linear regime."""
        K = matrix @ M.dense() @ matrix.T
        nodes, U = torch.linalg.eigh((K + K.T) / 2)
        return ((1 - nodes.clamp_min(0) / nodes[-1]) ** 100 * (U.T @ J.value)).square().sum() / J.value.square().sum()

    M = kfac(A, damping=damping)
    plain, scaled, found = (loss(each) for each in (pl.operators.Identity(A.domain), jacobi(A, damping=damping), M))
    corrected = loss(nested(A + damping * pl.operators.Identity(A.domain), M, jacobi))
    assert found < 0.5 * scaled < 0.5 * plain
    assert corrected < found


def test_blocks_without_weight_and_weights_given_later():
    model = pl.models.mlp((1, 4, 1), seed=0)
    problem = pl.problems.poisson()
    torch.testing.assert_close(
        kfac(gram(problem, model, weight=1.0).reweighted({"boundary": 7.0}), damping=0.1).dense(),
        kfac(gram(problem, model, weight=7.0), damping=0.1).dense(),
    )
    J = gram(problem, model).J
    torch.testing.assert_close(
        kfac(gram(problem, model, weight=0.0), damping=0.1).dense(),
        kfac(Gram(J.block("interior")), damping=0.1).dense(),
    )


def test_single_precision_and_frozen_weights():
    model = pl.models.mlp((2, 4, 1), seed=0, dtype=torch.float32)
    model[0].weight.requires_grad_(False)
    A = gram(pl.problems.poisson(2), model, boundary=8)
    M = kfac(A, damping=1e-2)
    assert M.dense().dtype == torch.float32
    assert list(M.domain.shapes) == ["0.bias", "2.weight", "2.bias"]
    pl.testing.check_operator(M)


def test_mistakes_are_told():
    model, x = pl.models.mlp((2, 3, 1), seed=0), torch.ones(4, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"kfac: expected pl\.Gram\(J\)"):
        kfac(pl.operators.Identity(pl.Space(3)))
    plain = pl.Map.of_module(model, lambda: model(x)[:, 0])
    with pytest.raises(ValueError, match="known to the route 'jets' only"):
        kfac(Gram(Jacobian(plain)))
    with pytest.raises(ValueError, match="finite damping ≥ 0"):
        kfac(values(model, x), damping=-1.0)
    with pytest.raises(NotPositive, match=r"layer 2\.weight/2\.bias .* give a larger damping"):
        kfac(values(model, x))  # four times the same point
