"""A preconditioner is its state: saved, and loaded into another one, it makes the same products bit for bit."""

import inspect
import io

import numpy as np
import pytest
import torch

import precondlab as pl
from precondlab import checkpoint
from precondlab import preconditioners as factory
from precondlab.operators import Dense, Diagonal, Gram, Identity, Jacobian
from tests.preconditioners.spectra import positive

N = 30
OVERLAPPING = [range(18), range(12, N)]
OPTIONS = {"rank": 8, "damping": 1e-2, "degree": 3}


class Model(pl.Operator):
    """The operator of a model that moves: every product is with its present one."""

    def __init__(self, operator):
        super().__init__(operator.domain, operator.codomain, positive=True)
        self.present = operator

    def _apply(self, V):
        return self.present.forward(V)


def at_point(seed):
    return positive((1 + seed) * torch.logspace(0, -3 + seed, N), seed)


def eigenpairs(seed):
    values, vectors = torch.linalg.eigh(at_point(seed).matrix)
    return values[-4:], vectors[:, -4:]


def network(seed):
    problem, model = pl.problems.poisson(1), pl.models.mlp((1, 6, 1), seed=seed)
    return problem, model, Gram(Jacobian(problem.residual(model, interior=20)))


def waves():
    return pl.problems.poisson(1), pl.models.fourier(5)


def loss():
    problem, model = waves()
    return problem.residual(model, interior=16)


# from A and a seed; makers of A and the options above need no line
CASES = {
    "additive": lambda A, s: factory.additive(factory.jacobi(A), factory.schwarz(A, OVERLAPPING)),
    "block_jacobi, blocks": lambda A, s: factory.block_jacobi(A, [range(10), range(10, N)]),
    "blockwise": lambda A, s: factory.blockwise(A, lambda B: factory.nystrom(B, rank=8, damping=1e-2)),
    "chebyshev": lambda A, s: factory.chebyshev(A, degree=5 + s, interval=(1e-3, 2.0 + s)),
    "deflation": lambda A, s: factory.deflation(*eigenpairs(s)),
    "frozen": lambda A, s: factory.frozen(*waves(), weights={"boundary": 1.0 + s}),
    "greens_operator": lambda A, s: factory.greens_operator(loss(), shift=1.0 + s),
    "kfac": lambda A, s: factory.kfac(network(s)[2], damping=1e-2),
    "lbfgs": lambda A, s: factory.lbfgs(eigenpairs(s)[1], at_point(s).matrix @ eigenpairs(s)[1]),
    "mass_stiffness": lambda A, s: factory.mass_stiffness(*network(s)[:2], damping=1e-2 / (1 + s), points=50),
    "multiplicative": lambda A, s: factory.multiplicative(A, (0.5 - s / 4) * factory.schwarz(A, OVERLAPPING)),
    "nested": lambda A, s: factory.nested(A, factory.jacobi(A), lambda B: factory.nystrom(B, rank=8, damping=1e-2)),
    "nested, polynomial": lambda A, s: factory.nested(
        A, factory.nystrom(A, rank=8, damping=1e-2), lambda B: factory.lanczos_polynomial(B, degree=3)
    ),
    "schwarz": lambda A, s: factory.schwarz(A, OVERLAPPING),
    "schwarz, restricted": lambda A, s: factory.schwarz(A, OVERLAPPING, restricted=True, coarse=None),
    "sketch": lambda A, s: factory.sketch(Dense(at_point(s).matrix)),
    "sketch, trigonometric": lambda A, s: factory.sketch(
        Dense(torch.cat([at_point(s).matrix] * 4)), embedding="trigonometric", generator=seeded(s)
    ),
    "sketch, sparse": lambda A, s: factory.sketch(
        Dense(torch.cat([at_point(s).matrix] * 4)), hashes=4, generator=seeded(s)
    ),
    "symbol": lambda A, s: factory.symbol(*waves(), weights={"boundary": 1.0 + s}),
    "two_level": lambda A, s: factory.two_level(A, factory.jacobi(A), eigenpairs(s)[1]),
}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def makers():
    """Return every public function of the package that returns an operator."""
    public = {name: getattr(factory, name) for name in factory.__all__}
    functions = {name: f for name, f in public.items() if inspect.isfunction(f)}
    kinds = {name: f.__globals__.get(f.__annotations__["return"]) for name, f in functions.items()}
    return {name: functions[name] for name, kind in kinds.items() if kind and issubclass(kind, pl.Operator)}


def alone(make):
    """Return a function of A and a seed, or None if the maker needs more than :data:`OPTIONS`."""
    operand, *options = inspect.signature(make).parameters.values()
    needed = {p.name for p in options if p.default is p.empty}
    if operand.name not in ("A", "K") or not needed <= OPTIONS.keys():
        return None
    random = any(p.name == "generator" for p in options)
    given = {name: OPTIONS[name] for name in needed}
    return lambda A, s: make(A, **given, **({"generator": seeded(s)} if random else {}))


ALONE = {name: make for name, maker in makers().items() if name != "kfac" and (make := alone(maker))}
MAKERS = ALONE | CASES


def made(name):
    """Return M, and M made where the model was before; what of A they apply is of the same present point."""
    there = Model(at_point(1))
    M, other = MAKERS[name](Model(at_point(0)), 0), MAKERS[name](there, 1)
    there.present = at_point(0)
    return M, other


def results(M):
    """Return everything a user can ask of M."""
    V = M.domain.random(3)
    found = [M.forward(V), M.backward(V), *(R.dense() for R in (M.sqrt, M.inverse) if R is not None)]
    return found + ([M.guess(torch.ones(M.embedding.shape[1], dtype=V.dtype))] if hasattr(M, "guess") else [])


def equal(first, second):
    return len(first) == len(second) and all(map(torch.equal, first, second))


def saved_by_torch(state, folder):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def saved_as_checkpoint(state, folder):
    pytest.importorskip("safetensors")
    checkpoint.save(folder, state)
    return checkpoint.load(folder)


def test_every_maker_takes_part():
    missing = makers().keys() - {name.partition(",")[0] for name in MAKERS}
    assert not missing, f"give CASES a line for {missing}"
    assert len(makers()) >= 19


@pytest.mark.parametrize("through", [saved_by_torch, saved_as_checkpoint])
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_loaded_products_are_those_saved(name, through, tmp_path):
    M, other = made(name)
    expected, before = results(M), results(other)
    assert not torch.equal(expected[0], before[0])
    other.load_state_dict(through(M.state_dict(), tmp_path / "state"))
    assert equal(results(other), expected)
    assert repr(other) == repr(M)
    assert getattr(other, "setup_matvecs", 0) == getattr(M, "setup_matvecs", 0)
    assert equal(results(M), expected)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_state_is_flat_plain_and_without_copies(name):
    M = made(name)[0]
    state = M.state_dict()
    assert all(type(value) in (torch.Tensor, bool, int, float, str) for value in state.values())
    places = [
        (x.untyped_storage().data_ptr(), x.storage_offset()) for x in state.values() if isinstance(x, torch.Tensor)
    ]
    assert len(set(places)) == len(places)
    again = M.state_dict()
    assert list(again) == list(state)
    assert all(again[key].data_ptr() == x.data_ptr() for key, x in state.items() if isinstance(x, torch.Tensor))


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_what_is_wrong_at_the_end_changes_nothing(name):
    M, other = made(name)
    before, text = results(other), repr(other)
    state = M.state_dict()
    last = list(state)[-1]
    for broken, message in [
        ({key: value for key, value in state.items() if key != last}, f"{last} is missing"),
        (state | {"extra": 1.0}, "extra is unexpected"),
        (state | {last: [1.0]}, f"{last} is of type list and not"),
        (state | {"shape": "1×1"}, "shape is 1×1 and not"),
        (state | {"dtype": "float16"}, "dtype is float16 and not"),
        (state | {"kind": "Other"}, r"belongs to Other\["),
        ({}, "belongs to no preconditioner"),
    ]:
        with pytest.raises(ValueError, match=message.replace(".", r"\.")):
            other.load_state_dict(broken)
        assert equal(results(other), before)
        assert repr(other) == text


def test_errors_say_which_state_it_is_and_what_differs():
    A = at_point(0)
    M = factory.nystrom(A, rank=8)
    for other, message in [
        (factory.jacobi(A), r"the state belongs to Nystrom\[30×30, rank 8\], this is Jacobi\[30×30, exact\]: kind is "),
        (
            factory.nystrom(A, rank=9),
            r"operator.U is float64 \[30, 8\] and not float64 \[30, 9\].*with the same .*rank",
        ),
        (factory.pivoted_cholesky(A, rank=8), "kind is Nystrom and not PivotedCholesky"),
        (factory.nystrom(Dense(A.matrix.float(), positive=True), rank=8), "dtype is float64 and not float32"),
    ]:
        before = results(other)
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(M.state_dict())
        assert equal(results(other), before)


def test_parts_of_another_kind_are_refused():
    A = at_point(0)
    M, other = (factory.blockwise(A, make) for make in (factory.jacobi, factory.block_jacobi))
    with pytest.raises(ValueError, match=r"operator\.parts\.0\.kind is Jacobi and not BlockJacobi"):
        other.load_state_dict(M.state_dict())


@pytest.mark.parametrize(
    "make",
    [
        factory.jacobi,
        factory.block_jacobi,
        lambda A: factory.nystrom(A, rank=8),
        lambda A: factory.nystrom(A, rank=8, damping=0.1),
        lambda A: factory.pivoted_cholesky(A, rank=8),
        lambda A: factory.schwarz(A, OVERLAPPING),
    ],
)
def test_one_made_of_the_identity_becomes_the_one_saved(make):
    A = at_point(0)
    M, other = make(A), make(Identity(A.domain))
    used = A.num_matvecs
    other.load_state_dict(M.state_dict())
    assert A.num_matvecs == used
    assert equal(results(other), results(M))
    assert (repr(other), other.setup_matvecs) == (repr(M), M.setup_matvecs)


def test_operator_applied_is_that_of_the_receiver():
    A, B = Diagonal(torch.tensor([1.0, 2.0])), Diagonal(torch.tensor([2.0, 1.0]))
    M, other = (factory.chebyshev(X, degree=d, interval=(1.0, d)) for X, d in ((A, 2), (B, 3)))
    assert not any(isinstance(value, torch.Tensor) for value in M.state_dict().values())
    other.load_state_dict(M.state_dict())
    assert torch.equal(other.dense(), M.dense().flip(0, 1))


def test_tensors_of_others_stay_as_they_were():
    values, vectors = eigenpairs(0)
    kept = vectors.clone()
    mine, other = factory.deflation(values, vectors), factory.deflation(*eigenpairs(1))
    state = other.state_dict()
    mine.load_state_dict(state)
    assert torch.equal(vectors, kept)
    expected = results(mine)
    state["operator.U"].zero_()
    assert equal(results(mine), expected)
    mine.load_state_dict(state | {"operator.values": state["operator.values"].clone().requires_grad_()})
    assert not mine.forward(mine.domain.zeros(1)).requires_grad


def test_parts_of_a_composition_are_loaded_with_it():
    outer, expected = (factory.blockwise(at_point(seed), factory.jacobi) for seed in (1, 0))
    M, other = (factory.nested(at_point(0), part, factory.jacobi) for part in (expected, outer))
    other.load_state_dict(M.state_dict())
    assert equal(results(outer), results(expected))


@pytest.mark.parametrize("dtype", [torch.complex128, torch.complex64, torch.float32])
@pytest.mark.parametrize(
    "make",
    [
        factory.block_jacobi,
        lambda A: factory.nystrom(A, rank=8),
        lambda A: factory.nested(A, factory.block_jacobi(A), lambda B: factory.nystrom(B, rank=8)),
        lambda A: factory.two_level(A, factory.jacobi(A), torch.eye(N, 3)),
        lambda A: factory.sketch(A),
    ],
)
def test_complex_and_single_precision(make, dtype, tmp_path):
    draws = [torch.randn(N, N, dtype=torch.complex128, generator=seeded(seed)) for seed in range(2)]
    draws = [draw if dtype.is_complex else draw.real for draw in draws]
    M, other = (make(Dense((X @ X.mH + torch.eye(N)).to(dtype), positive=True)) for X in draws)
    expected = results(M)
    for through in (saved_by_torch, saved_as_checkpoint):
        other.load_state_dict(through(M.state_dict(), tmp_path / "state"))
        assert equal(results(other), expected)


def test_parts_with_anything_else_are_refused():
    class Foreign(Diagonal):
        """An operator of a user, with numbers where they are not seen."""

        def __init__(self, entries):
            super().__init__(entries)
            self.table = np.zeros(3)

    M = factory.additive(Foreign(torch.ones(3)), Diagonal(torch.ones(3)))
    with pytest.raises(TypeError, match=r"operator\.terms\.0\.table of Additive\[.*is of type ndarray"):
        M.state_dict()
