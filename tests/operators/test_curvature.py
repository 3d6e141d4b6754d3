"""Hessian and GGN against dense derivatives by torch.autograd.functional."""

from fnmatch import fnmatch
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.func import functional_call

import precondlab as pl

F64 = torch.float64


def network(activation=nn.Tanh, outputs=3):
    return pl.models.mlp((4, 6, outputs), activation=activation, seed=0)


def data(samples=10, outputs=3):
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(samples, 4, dtype=F64, generator=generator)
    return X, torch.randint(outputs, (samples,), generator=generator)


def flat(model):
    space = pl.Space.of({name: p.detach() for name, p in model.named_parameters() if p.requires_grad})
    return space, space.ravel({name: p.detach() for name, p in model.named_parameters() if p.requires_grad})


def dense_ggn(model, loss_fn, X, y):
    space, theta = flat(model)

    def outputs(t):
        return functional_call(model, space.unravel(t), (X,)).reshape(-1)

    shape = model(X).shape
    J = torch.autograd.functional.jacobian(outputs, theta)
    H = torch.autograd.functional.hessian(lambda o: loss_fn(o.reshape(shape), y), outputs(theta))
    return J.T @ H @ J


class Attention(nn.Module):
    """Something that no closed form covers."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4, dtype=F64)
        self.out = nn.Linear(4, 3, dtype=F64)

    def forward(self, x):
        scores = torch.softmax(self.inner(x) @ self.inner(x).T, dim=-1)
        return self.out(scores @ x)


@pytest.mark.parametrize("model", [network(), network(nn.ReLU), Attention()], ids=["tanh", "relu", "attention"])
@pytest.mark.parametrize("loss_fn", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum")], ids=["mean", "sum"])
def test_ggn_is_the_dense_product(model, loss_fn):
    X, y = data()
    G = pl.GGN(model, loss_fn, (X, y))
    assert G.route == ("graph" if isinstance(model, Attention) else "jets")
    pl.testing.check_operator(G, matrix=dense_ggn(model, loss_fn, X, y))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_uneven_batches_are_weighted_by_what_they_hold(reduction):
    model, (X, y), loss_fn = network(), data(), nn.CrossEntropyLoss(reduction=reduction)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, y), batch_size=4)
    expected = dense_ggn(model, loss_fn, X, y)
    torch.testing.assert_close(pl.GGN(model, loss_fn, loader).dense(), expected)
    torch.testing.assert_close(pl.GGN(model, loss_fn, [(X[:7], y[:7]), (X[7:], y[7:])]).dense(), expected)


def test_squared_loss_and_frozen_parameters():
    model, (X, _) = network(outputs=1), data()
    model[0].weight.requires_grad_(False)
    G = pl.GGN(model, nn.functional.mse_loss, (X, torch.zeros(10, 1, dtype=F64)))
    assert G.shape == (13, 13)
    torch.testing.assert_close(G.dense(), dense_ggn(model, nn.functional.mse_loss, X, torch.zeros(10, 1, dtype=F64)))


def test_ggn_takes_the_solvers_of_scipy():
    from scipy.sparse.linalg import eigsh

    X, y = data()
    G = pl.GGN(network(), nn.CrossEntropyLoss(), (X, y))
    expected = torch.linalg.eigvalsh(G.dense())[-3:].numpy()
    assert eigsh(G, k=3, return_eigenvectors=False) == pytest.approx(expected, rel=1e-10)


def test_hessian_is_the_dense_one():
    model, (X, y) = network(), data()
    space, theta = flat(model)

    def loss(params):
        return nn.functional.cross_entropy(functional_call(model, params, (X,)), y)

    expected = torch.autograd.functional.hessian(lambda t: loss(space.unravel(t)), theta)
    H = pl.Hessian(loss, dict(model.named_parameters()))
    pl.testing.check_operator(H, matrix=expected)
    assert not H.positive
    same = pl.Hessian.of_module(model, lambda: nn.functional.cross_entropy(model(X), y))
    torch.testing.assert_close(same.dense(), expected)
    torch.testing.assert_close(H.gradient, torch.autograd.functional.jacobian(lambda t: loss(space.unravel(t)), theta))


def test_mean_squared_error_has_a_hessian():  # forward over reverse fails on it in torch
    model, (X, _) = network(outputs=1), data()
    H = pl.Hessian.of_module(model, lambda: nn.functional.mse_loss(model(X), torch.zeros(10, 1, dtype=F64)))
    pl.testing.check_operator(H)


def test_a_parameter_without_influence_is_an_exact_zero():
    H = pl.Hessian(lambda p: (p["a"] ** 3).sum(), {"a": torch.ones(2), "unused": torch.ones(2)})
    torch.testing.assert_close(H.dense(), torch.diag(torch.tensor([6.0, 6.0, 0.0, 0.0])))


class Tokens(nn.Module):
    """Token ids in, scores of the next token out, with the embedding tied to the output; as Hugging Face calls it."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4, dtype=F64)
        self.mix = nn.Linear(4, 4, dtype=F64)
        self.head = nn.Linear(4, 7, bias=False, dtype=F64)
        self.head.weight = self.embed.weight
        self.spare = nn.Linear(2, 2, dtype=F64)

    def forward(self, input_ids, labels=None):
        return SimpleNamespace(logits=self.head(torch.tanh(self.mix(self.embed(input_ids)))))


def token_loss(outputs, batch):
    scores = getattr(outputs, "logits", outputs)
    return nn.functional.cross_entropy(scores.flatten(0, 1), batch["labels"].flatten())


def dense_hessian(model, loss):
    """Of a loss of the trainable parameters."""
    space, theta = flat(model)
    return torch.autograd.functional.hessian(lambda t: loss(space.unravel(t)), theta)


CROSS = nn.functional.cross_entropy
curvatures = pytest.mark.parametrize("curvature", [pl.GGN, pl.Hessian.of_model], ids=["ggn", "hessian"])


@curvatures
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("options", [{}, {"microbatch": 3}, {"microbatch": 2, "memory_budget": 0}], ids=str)
def test_any_form_of_the_data_gives_the_same_operator(curvature, reduction, options):
    model, (X, y), loss_fn = network(), data(), nn.CrossEntropyLoss(reduction=reduction)
    expected = (
        dense_ggn(model, loss_fn, X, y)
        if curvature is pl.GGN
        else dense_hessian(model, lambda p: loss_fn(functional_call(model, p, (X,)), y))
    )
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, y), batch_size=4)
    for given in ((X, y), loader, [[X[:7], y[:7]], [X[7:], y[7:]]], (((X,), y),)):
        A = curvature(model, loss_fn, given, **options)
        torch.testing.assert_close(A.dense(), expected)
        assert ("100% rebuilt" in repr(A)) == ("memory_budget" in options)
        assert (A.kept_bytes == 0) == ("memory_budget" in options)


@curvatures
def test_what_does_not_fit_the_budget_is_made_again(curvature):
    model, (X, y) = Attention(), data(12)
    batches = list(zip(X.split(3), y.split(3), strict=True))
    whole = curvature(model, CROSS, batches)
    tight = curvature(model, CROSS, batches, memory_budget=whole.kept_bytes * 2 // 3)
    assert tight.kept_bytes == whole.kept_bytes // 2
    assert "50% rebuilt" in repr(tight)
    torch.testing.assert_close(tight.dense(), whole.dense())
    pl.testing.check_operator(tight)


@curvatures
@pytest.mark.parametrize("model", [network(), Attention()], ids=["jets", "graph"])
def test_parameters_are_chosen_by_name(curvature, model):
    X, y = data()
    whole = curvature(model, CROSS, (X, y))
    names = list(whole.domain.shapes)
    for patterns in ("*.weight", [names[-1]], [names[0], names[-1]], "*"):
        A = curvature(model, CROSS, (X, y), params=patterns)
        given = [patterns] if isinstance(patterns, str) else patterns
        kept = [name for name in names if any(fnmatch(name, pattern) for pattern in given)]
        assert list(A.domain.shapes) == kept
        rows = torch.cat([torch.arange(whole.domain.size)[whole.domain.slices[name]] for name in kept])
        torch.testing.assert_close(A.dense(), whole.dense()[rows][:, rows])
    with pytest.raises(ValueError, match=r"\['block'\] match no trainable parameter; there are"):
        curvature(model, CROSS, (X, y), params=["*", "block"])


@curvatures
def test_token_ids_mappings_tied_and_unused_parameters(curvature):
    torch.manual_seed(0)
    model = Tokens()
    ids = torch.randint(7, (5, 3))
    labels = torch.randint(7, (5, 3))
    batches = [{"input_ids": ids[:2], "labels": labels[:2]}, {"input_ids": ids[2:], "labels": labels[2:]}]
    A = curvature(model, token_loss, batches)
    assert A.unused == ("spare.weight", "spare.bias")
    assert "unused: spare.weight, spare.bias" in repr(A)
    assert "head.weight" not in A.domain.shapes
    space, theta = flat(model)

    def outputs(t):
        return functional_call(model, space.unravel(t), (ids,)).logits

    def loss(scores):
        return token_loss(scores, {"labels": labels})

    expected = torch.autograd.functional.hessian(lambda t: loss(outputs(t)), theta)
    if curvature is pl.GGN:
        J = torch.autograd.functional.jacobian(outputs, theta).reshape(-1, len(theta))
        H = torch.autograd.functional.hessian(loss, outputs(theta)).reshape(len(J), len(J))
        expected = J.T @ H @ J
    torch.testing.assert_close(A.dense(), expected)
    alone = batches[0]
    torch.testing.assert_close(
        curvature(model, token_loss, alone, microbatch=1).dense(), curvature(model, token_loss, alone).dense()
    )


@curvatures
def test_tied_layers_are_one_parameter(curvature):
    torch.manual_seed(0)
    square, (X, y) = nn.Linear(4, 4, dtype=F64), data(outputs=4)
    model, weight = nn.Sequential(square, nn.Tanh(), square), square.weight
    A = curvature(model, CROSS, (X, y))
    assert list(A.domain.shapes) == ["0.weight", "0.bias"]
    assert square.weight is weight
    expected = (
        dense_ggn(model, CROSS, X, y)
        if curvature is pl.GGN
        else dense_hessian(model, lambda p: CROSS(functional_call(model, p, (X,)), y))
    )
    torch.testing.assert_close(A.dense(), expected)


def test_parameters_that_do_nothing_are_zeros():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.spare = network(), nn.Linear(1, 1, dtype=F64)

        def forward(self, x):
            return self.net(x)

    X, y = data()
    G = pl.GGN(Spare(), CROSS, (X, y))
    assert G.unused == ("spare.weight", "spare.bias")
    assert not G.dense()[-2:].any()
    alone = pl.GGN(Spare(), CROSS, (X, y), params="spare.*")
    assert not alone.dense().any()
    assert alone.unused == tuple(alone.domain.shapes)
    with pytest.raises(ValueError, match="does not depend"):
        pl.Hessian.of_model(Spare(), CROSS, (X, y), params="spare.*")


@curvatures
def test_what_mixes_samples_is_not_split(curvature):
    X, y = data()
    with pytest.raises(ValueError, match="mixes samples"):
        curvature(Attention(), CROSS, (X, y), microbatch=3)
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 20.0], dtype=F64))
    with pytest.raises(ValueError, match="mixes samples"):
        curvature(network(), weighted, (X, y), microbatch=3)


@curvatures
def test_data_mistakes_are_refused(curvature):
    model, (X, y) = network(), data()
    with pytest.raises(TypeError, match="got Tensor"):
        curvature(model, CROSS, X)
    with pytest.raises(TypeError, match=r"\(inputs, targets\) or a mapping"):
        curvature(model, CROSS, [(X, y, y)])
    with pytest.raises(TypeError, match="first axis"):
        curvature(model, CROSS, [("text", y)])
    with pytest.raises(ValueError, match="no sample"):
        curvature(model, CROSS, (X[:0], y[:0]))
    with pytest.raises(ValueError, match="microbatch ≥ 1"):
        curvature(model, CROSS, (X, y), microbatch=0)
    with pytest.raises(ValueError, match="the loss is nan"):
        curvature(model, CROSS, (X * float("nan"), y))
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        curvature(nn.Sequential(network(), nn.Dropout()), CROSS, (X, y))
    with pytest.raises(ValueError, match="no trainable parameter"):
        curvature(network().requires_grad_(False), CROSS, (X, y))


def test_mistakes_are_refused():
    X, y = data()
    noisy = nn.Sequential(nn.Linear(4, 3, dtype=F64), nn.Dropout())
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        pl.GGN(noisy, nn.CrossEntropyLoss(), (X, y))
    with pytest.raises(ValueError, match="no batch"):
        pl.GGN(network(), nn.CrossEntropyLoss(), [])
    with pytest.raises(ValueError, match="one number"):
        pl.GGN(network(), nn.CrossEntropyLoss(reduction="none"), (X, y))
    with pytest.raises(ValueError, match="no trainable parameter"):
        pl.GGN(network().requires_grad_(False), nn.CrossEntropyLoss(), (X, y))
    with pytest.raises(ValueError, match="one number"):
        pl.Hessian(lambda p: p["a"], {"a": torch.ones(2)})
    with pytest.raises(ValueError, match="does not depend"):
        pl.Hessian(lambda p: torch.ones(()), {"a": torch.ones(2)})


@pytest.mark.parametrize("kind", ["multihead", "encoder"])
def test_attention_has_second_derivatives(kind):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = (
                nn.MultiheadAttention(4, 2, batch_first=True)
                if kind == "multihead"
                else nn.TransformerEncoderLayer(
                    4, 2, dim_feedforward=8, dropout=0.0, batch_first=True, activation="gelu"
                )
            )

        def forward(self, x):
            return self.layer(x, x, x, need_weights=False)[0] if kind == "multihead" else self.layer(x)

    torch.manual_seed(0)
    model = Model().double().eval()
    x = torch.randn(2, 3, 4, dtype=F64)
    H = pl.Hessian.of_module(model, lambda: model(x).square().mean())
    pl.testing.check_operator(H)
    J = pl.Jacobian(pl.Map.of_module(model, lambda: model(x)))
    pl.testing.check_operator(J)
    G = pl.GGN(model, nn.MSELoss(), (x, torch.zeros_like(x)))
    torch.testing.assert_close(G.dense(), 2 / 24 * pl.Gram(J).dense())


def tokens_loss(outputs, targets):
    return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=-1)


@curvatures
def test_batchmean_is_a_mean_over_samples(curvature):
    model, (X, _) = network(), data(23)
    targets = torch.softmax(torch.randn(23, 3, dtype=F64, generator=torch.Generator().manual_seed(2)), dim=1)
    batches = list(zip(X.split(7), targets.split(7), strict=True))
    for loss in (nn.KLDivLoss(reduction="batchmean"), nn.KLDivLoss(reduction="sum"), nn.KLDivLoss()):
        if loss.reduction == "mean":
            with pytest.warns(UserWarning, match="batchmean"):
                whole, split = (curvature(model, loss, given).dense() for given in ((X, targets), batches))
        else:
            whole, split = (curvature(model, loss, given).dense() for given in ((X, targets), batches))
        torch.testing.assert_close(split, whole)


@curvatures
def test_losses_that_are_no_mean_over_batches_are_refused(curvature):
    model, (X, y) = network(), data(23)
    batches = list(zip(X.split(7), y.split(7), strict=True))

    def summing(outputs, targets):
        return CROSS(outputs, targets, reduction="sum")

    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 20.0], dtype=F64))
    ignored = nn.CrossEntropyLoss(ignore_index=2)
    for loss in (summing, weighted, ignored):
        with pytest.raises(ValueError, match="which it is not"):
            curvature(model, loss, batches)
        curvature(model, loss, (X, y))
    with pytest.raises(ValueError, match="'sum' over samples, which it is not"):
        curvature(model, CROSS, batches, reduction="sum")
    torch.testing.assert_close(
        curvature(model, summing, batches, reduction="sum").dense(), 23 * curvature(model, CROSS, (X, y)).dense()
    )
    with pytest.raises(ValueError, match="got reduction='avg'"):
        curvature(model, CROSS, batches, reduction="avg")
    model = nn.Sequential(nn.Embedding(7, 4, dtype=F64), nn.Linear(4, 7, dtype=F64))
    ids = torch.randint(7, (6, 3), generator=torch.Generator().manual_seed(0))
    padded = ids.clone()
    padded[4:, 1:] = -1
    with pytest.raises(ValueError, match="ignore_index"):
        curvature(model, tokens_loss, list(zip(ids.split(2), padded.split(2), strict=True)))
    curvature(model, tokens_loss, list(zip(ids.split(2), ids.split(2), strict=True)))
    ragged = [(ids[:2], ids[:2]), (ids[2:, :2], ids[2:, :2])]  # of different lengths: not compared
    curvature(model, tokens_loss, ragged)


@curvatures
def test_a_random_loss_is_refused(curvature):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            return nn.functional.dropout(self.inner(x), 0.5, training=True)

    with pytest.raises(ValueError, match="something is random"):
        curvature(Noisy(), CROSS, data())
