"""Every shipped check rejects operators that break just its law; good operators pass all of them."""

import pytest
import torch
from hypothesis import given, settings

from precondlab.map import Map
from precondlab.operator import Operator
from precondlab.operators import Dense, Diagonal, Gram, Identity, Jacobian, Kernel, LowRank
from precondlab.space import Space
from precondlab.testing import CheckFailed, checks
from precondlab.testing.laws import LAWS
from precondlab.testing.strategies import generators

F64 = torch.float64
N = 6
matrix = torch.randn(N, N, dtype=F64, generator=torch.Generator().manual_seed(1))
tall = matrix[:, :4].contiguous()
spd = matrix @ matrix.T + torch.eye(N, dtype=F64)
x = torch.linspace(0.1, 1, 5, dtype=F64)
theta = {"a": torch.tensor([1.0, 2.0, 0.5], dtype=F64), "b": torch.tensor(0.3, dtype=F64)}
r = Map(lambda p: torch.tanh(x[:, None] * p["a"]).sum(1) + torch.sin(p["b"] * x), theta)


def mutant(base, *args, **methods):
    """Return an operator of a subclass of ``base`` with some methods replaced."""
    return type("Mutant", (base,), methods)(*args)


def apply(f, a=matrix, **options):
    """Return a dense operator whose forward product is ``f(A, V)``."""
    A = mutant(Dense, a, _apply=f, **options)
    return A


def both(f, a=matrix):
    """Return a wrong operator together with the adjoint that belongs to it: no dot test can see it."""
    return Dense(f(a.clone()))


def scale_column(a):
    a[:, 1] *= 1.01
    return a


def drop_rows(a):
    a[:2] = 0
    return a


def noise(self, V):
    return self.matrix @ V * (1 + 1e-9 * torch.randn(1, dtype=V.dtype))


def drift(self, V):
    self.calls = getattr(self, "calls", 0) + 1
    return self.matrix @ V * (1 + 1e-8 * self.calls)


def overwrite(self, V):
    V.mul_(2)
    return self.matrix @ V / 2


def remember(self, V):
    if getattr(self, "memory", None) is None or self.memory.shape[1] != V.shape[1]:
        self.memory = self.matrix @ V
    return self.memory.copy_(self.matrix @ V)


def unchecked(self, x, verb, *, adjoint, vector):
    return torch.zeros(self.shape[1 if adjoint else 0], *x.shape[1:], dtype=F64)


def mumbling(self, x, verb, *, adjoint, vector):
    try:
        return Operator._enter(self, x, verb, adjoint=adjoint, vector=vector)
    except ValueError:
        raise ValueError("shapes do not match") from None


def ignore_strides(self, x, space, verb):
    import numpy as np

    return torch.from_numpy(np.frombuffer(np.asarray(x).tobytes(order="A"), np.float64).reshape(x.shape).copy())


def ignore_imaginary(self, x, verb, *, adjoint, vector):
    return Operator._enter(
        self,
        x.real if isinstance(x, torch.Tensor) and x.is_complex() else x,
        verb,
        adjoint=adjoint,
        vector=vector,
    )


def uncounted(self, V):
    return self._apply(V) if V.shape[1] else self.codomain.zeros(0)


def root(f):
    return property(lambda self: f(self))


def jacobian(f):
    """Return the Jacobian with wrong columns or rows, and with the adjoint that belongs to them."""
    return mutant(
        Jacobian,
        r,
        _apply=lambda self, V: f(Jacobian(r).dense()) @ V,
        _apply_adjoint=lambda self, U: f(Jacobian(r).dense()).T @ U,
    )


big = torch.ones(300, dtype=F64)
big[::10] = -0.5

#: Law → operators that break it, with the matrix they should have where the law needs it.
MUTANTS = {
    "linear": {
        "slightly quadratic": apply(lambda self, V: self.matrix @ (V + 1e-6 * V**2)),
        "clipped": apply(lambda self, V: self.matrix @ V.clamp(-100, 100)),
        "dead zone": apply(lambda self, V: self.matrix @ (V * (V.abs() > 1e-3))),
        "affine": apply(lambda self, V: self.matrix @ V + 1e-3),
        "absolute value": apply(lambda self, V: (self.matrix @ V).abs()),
        "conjugate-linear": apply(lambda self, V: self.matrix @ V.conj(), matrix.to(torch.complex128)),
    },
    "adjoint": {
        "swapped": mutant(Dense, matrix, _apply_adjoint=lambda self, U: self.matrix @ U),
        "dropped block": mutant(Dense, tall, _apply_adjoint=lambda self, U: self.matrix[2:].T @ U[2:]),
        "scaled column": mutant(Dense, tall, _apply_adjoint=lambda self, U: scale_column(self.matrix.clone()).T @ U),
        "not conjugated": mutant(
            Dense, torch.complex(matrix, matrix.T), _apply_adjoint=lambda self, U: self.matrix.T @ U
        ),
        "wrong sign": mutant(Dense, matrix, _apply_adjoint=lambda self, U: -self.matrix.T @ U),
    },
    "block = columns": {
        "first column everywhere": apply(lambda self, V: (self.matrix @ V[:, :1]).expand(-1, V.shape[1]).clone()),
        "columns mixed": apply(lambda self, V: self.matrix @ (V + 1e-8 * V.mean(1, keepdim=True))),
        "wide blocks cut": apply(lambda self, V: self.matrix @ (V * (torch.arange(V.shape[1]) < 16))),
        "columns reversed": apply(lambda self, V: (self.matrix @ V).flip(1)),
    },
    "zero columns": {
        "affine": apply(lambda self, V: self.matrix @ V + 1e-300),
        "empty block": apply(
            lambda self, V: self.matrix @ V,
            forward=lambda self, V: self.matrix @ (V if V.shape[1] else V.new_ones(N, 1)),
        ),
    },
    "torch = numpy": {
        "strides ignored": mutant(Dense, matrix, _to_torch=ignore_strides),
        "copied through float32": mutant(
            Dense, matrix, _to_torch=lambda self, x, space, verb: torch.tensor(x.astype("f4").astype("f8"))
        ),
        "matvec of something else": mutant(Dense, matrix, matvec=lambda self, x: 2 * (self @ x)),
    },
    "complex vectors": {"imaginary part dropped": mutant(Dense, matrix, _enter=ignore_imaginary)},
    "dense": {
        "dense() of the transpose": mutant(Dense, matrix, dense=lambda self: self.matrix.T),
        "scaled column": (both(scale_column), matrix),
        "dropped block": (both(drop_rows), matrix),
        "transposed": (Dense(matrix.T), matrix),
        "large, one entry": (
            Diagonal(big),
            torch.diag(big).index_put((torch.tensor(7),) * 2, torch.tensor(2.0, dtype=F64)),
        ),
    },
    "symmetric": {
        "not symmetric": Dense(spd + 1e-6 * matrix, symmetric=True),
        "skew": Dense(matrix - matrix.T, symmetric=True),
        "complex symmetric": Dense(torch.complex(spd, spd), symmetric=True),
    },
    "positive": {
        "indefinite": Dense(spd - 1.1 * torch.linalg.eigvalsh(spd)[0] * torch.eye(N), positive=True),
        "negative": Dense(-spd, positive=True),
        "large indefinite": mutant(Diagonal, big.abs(), _apply=lambda self, V: big[:, None] * V),
    },
    "sqrt": {
        "wrong factor": mutant(Diagonal, torch.ones(N), sqrt=root(lambda self: 1.001 * Identity(self.domain))),
        "the square": mutant(Diagonal, 2 * torch.ones(N), sqrt=root(lambda self: self)),
        "sides exchanged": mutant(Gram, Dense(tall @ matrix[:4]), sqrt=root(lambda self: self.J)),
    },
    "repeatable": {
        "noisy": apply(noise),
        "drifting": apply(drift),
        "overwrites its argument": apply(overwrite),
        "returns its argument": mutant(Identity, Space(N), _apply=lambda self, V: V),
        "returns its own memory": apply(remember),
    },
    "derivative": {
        "scaled column": jacobian(scale_column),
        "dropped block": jacobian(drop_rows),
        "scaled scalar parameter": jacobian(lambda a: a * torch.tensor([1, 1, 1, 1.01], dtype=F64)),
        "gram of a wrong jacobian": Gram(jacobian(scale_column)),
        "kernel of a wrong jacobian": Kernel(jacobian(scale_column)),
        "gram twice": mutant(Gram, Jacobian(r), _apply=lambda self, V: 2 * self.J.gram(V)),
    },
    "refuses bad input": {
        "unchecked": mutant(Dense, matrix, _enter=unchecked),
        "mumbling": mutant(Dense, matrix, _enter=mumbling),
    },
    "scipy attributes": {
        "uncounted": apply(lambda self, V: self.matrix @ V, forward=uncounted),
        "transpose": mutant(Dense, torch.complex(matrix, spd), _transpose=lambda self: self.H),
        "repr": mutant(Dense, matrix, __repr__=lambda self: "Dense\n" + str(self.matrix)),
        "rmatvec": mutant(Dense, matrix, rmatvec=lambda self, x: self @ x),
        "adjoint of the adjoint": mutant(Dense, matrix, _adjoint=lambda self: Dense(self.matrix)),
    },
}
CASES = [pytest.param(law, case, id=f"{law}: {name}") for law, cases in MUTANTS.items() for name, case in cases.items()]


def test_every_law_has_a_mutant():
    assert MUTANTS.keys() == LAWS.keys()


@pytest.mark.parametrize(("law", "case"), CASES)
@settings(max_examples=5)
@given(generator=generators())
def test_the_check_rejects_the_mutant(law, case, generator):
    A, expected = case if isinstance(case, tuple) else (case, None)
    (check,) = (check for check in checks(A, matrix=expected, generator=generator) if check.name == law)
    with pytest.raises(CheckFailed) as failure:
        check()
    message = str(failure.value)
    assert message.startswith(f"{law}: ")
    assert repr(A) in message


@pytest.mark.parametrize("a", [scale_column, drop_rows])
def test_why_the_dense_oracle_is_there(a):
    (dot,) = (check for check in checks(both(a)) if check.name == "adjoint")
    dot()  # a wrong operator with its own adjoint


@pytest.mark.parametrize(
    "A",
    [
        Dense(matrix),
        Dense(spd, positive=True),
        Diagonal(big.abs()),
        LowRank(tall, torch.ones(4, dtype=F64)),
        Jacobian(r),
        Gram(Jacobian(r)),
        Kernel(Jacobian(r)),
        Dense(1e150 * matrix),
        Dense(1e-150 * matrix),
        Dense(0 * matrix, positive=True),
        Dense(matrix) - Dense(matrix),
    ],
    ids=repr,
)
@settings(max_examples=10)
@given(generator=generators())
def test_what_the_mutants_are_made_from_is_good(A, generator):
    for check in checks(A, generator=generator):
        check()
