"""The two squares of an operator."""

import pytest
import torch
from hypothesis import given

import precondlab as pl
from precondlab.map import Map
from precondlab.operators import Dense, Gram, Jacobian, Kernel
from precondlab.testing import check_operator
from precondlab.testing.strategies import generators, operators


@given(operators(depth=1), generators())
def test_contract(pair, generator):
    J, matrix = pair
    check_operator(Gram(J), matrix=matrix.mH @ matrix, generator=generator)
    check_operator(Kernel(J), matrix=matrix @ matrix.mH, generator=generator)


@given(operators(depth=1, dtypes=[torch.float64, torch.complex128]))
def test_the_spectra_of_both_squares_agree(pair):
    J, _ = pair
    gram, kernel = (torch.linalg.eigvalsh(A.dense()).flip(0) for A in (Gram(J), Kernel(J)))
    rank = min(J.shape)
    torch.testing.assert_close(gram[:rank], kernel[:rank], atol=1e-12 * (1 + gram[0].item()), rtol=1e-10)


@pytest.mark.parametrize("square", [Gram, Kernel])
def test_mistakes_are_refused(square):
    with pytest.raises(TypeError, match=r"got Tensor; take pl.Jacobian of a map, or wrap a matrix"):
        square(torch.eye(2))
    with pytest.raises(TypeError, match="got Map"):
        square(Map(lambda p: p["a"], {"a": torch.ones(2)}))
    with pytest.raises(TypeError, match="named blocks and weights belong to a Jacobian"):
        square(Dense(torch.eye(2))).block("interior")
    with pytest.raises(TypeError, match="named blocks and weights belong to a Jacobian"):
        square(Dense(torch.eye(2))).reweighted({})


def test_unknown_blocks_are_named():
    J = Jacobian(Map(lambda p: {"b": p["a"] ** 2}, {"a": torch.ones(2)}))
    for square in (Gram(J), Kernel(J)):
        with pytest.raises(ValueError, match=r"no block 'c'; the residual has \['b'\]"):
            square.block("c")


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.shared, self.last = (torch.nn.Linear(*s).double() for s in ((2, 4), (4, 4), (4, 1)))

    def forward(self, x):
        return self.last(self.shared(self.shared(self.first(x).tanh()).tanh()).tanh())


KERNELS = {
    "every layer": lambda: (pl.problems.poisson(2), pl.models.mlp((2, 5, 4, 1), seed=0)),
    "two conditions in a block": lambda: (pl.problems.heat(), pl.models.mlp((2, 5, 1), seed=0)),
    "one layer twice": lambda: (pl.problems.poisson(2), Tied()),
    "coefficients of waves": lambda: (pl.problems.poisson(), pl.models.fourier(4)),
}


@pytest.mark.parametrize("case", KERNELS)
def test_a_kernel_formed_layer_by_layer_is_the_product(case):
    problem, model = KERNELS[case]()
    J = Jacobian(problem.residual(model, interior=300, boundary=16, weights={"interior": 0.1}))
    expected = J.dense() @ J.dense().T
    K = Kernel(J).formed()
    scale = expected.abs().max().item()
    torch.testing.assert_close(K.dense(), expected, rtol=0, atol=1e-12 * scale)
    v = K.domain.random()
    torch.testing.assert_close(K @ v, expected @ v, rtol=0, atol=1e-11 * scale)
    block = Kernel(J.block("boundary")).formed()
    torch.testing.assert_close(block.dense(), expected[300:332, 300:332][: len(block.dense()), : len(block.dense())])
    assert repr(K).endswith(", dense)") and K.sqrt is J


def test_a_kernel_that_does_not_fit_says_what_it_needs():
    r = pl.problems.poisson(2).residual(pl.models.mlp((2, 5, 1), seed=0), interior=300, boundary=16)
    with pytest.raises(ValueError, match="the matrix needs 798,848 bytes, the budget is 500,000"):
        Kernel(Jacobian(r, memory_budget=500_000)).formed()
