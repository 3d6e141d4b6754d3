"""The two squares of an operator."""

import pytest
import torch
from hypothesis import given

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
