"""Operators: what goes in comes out, random expressions against dense algebra, and refusals."""

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from precondlab.operator import Foreign, Operator, as_operator
from precondlab.operators import Dense, Diagonal, Gram, Identity
from precondlab.space import Space
from precondlab.testing import check_operator, tolerance
from precondlab.testing.probe import magnitude
from precondlab.testing.strategies import generators, operators

F64 = torch.float64
matrix = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 3.0]], dtype=F64)
A, square = Dense(matrix), Dense(matrix.T @ matrix, positive=True)


@settings(max_examples=150)
@given(operators(), generators())
def test_random_expressions_are_dense_algebra_and_meet_the_contract(pair, generator):
    operator, expected = pair
    check_operator(operator, matrix=expected, generator=generator)


@settings(max_examples=60)
@given(operators(shape=(4, 4)), generators())
def test_the_expression_of_the_design_is_a_tensor(pair, generator):
    B, b = pair
    v = B.domain.random(3, generator=generator)
    product = (2 * B + B.H @ B) @ v
    assert type(product) is torch.Tensor
    assert (product.dtype, product.device) == (v.dtype, v.device)
    allowed = tolerance(v.dtype, size=4, gain=(1 + magnitude(B, generator)) ** 2)
    assert (product - (2 * b + b.mH @ b) @ v).norm() <= allowed * v.norm()


@given(operators(depth=2), generators())
def test_products_from_the_left(pair, generator):
    B, b = pair
    u = B.codomain.random(2, generator=generator)
    allowed = tolerance(u.dtype, size=8, gain=magnitude(B, generator)) * u.norm()
    assert (u.T @ B - u.T @ b).norm() <= allowed
    assert isinstance(u.T @ B, torch.Tensor)
    assert isinstance(u.T.numpy() @ B, np.ndarray)
    assert np.linalg.norm(u[:, 0].numpy() @ B - (u[:, 0] @ b).numpy()) <= allowed


@given(operators(depth=2))
def test_palindromes_are_declared_and_hold(pair):
    B, _ = pair
    for product in (B.H @ B, B @ B.H, B.H @ Identity(B.codomain) @ B, Gram(B)):
        assert product.symmetric
        assert product.positive
        assert product.sqrt is not None
        check_operator(product)


def test_a_palindrome_is_as_positive_as_its_middle():
    P = Dense(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    indefinite = Diagonal(torch.tensor([1.0, -1.0]))
    product = P.H @ indefinite @ P
    assert product.symmetric
    assert not product.positive
    assert (P.H @ Diagonal(torch.tensor([1.0, 2.0])) @ P).positive
    assert not (P @ indefinite @ P).symmetric
    assert not (P @ P).symmetric
    for declared in (product, (P.H @ indefinite) @ P, 3 * product, -product, product + product):
        assert declared.symmetric
        check_operator(declared)


@pytest.mark.parametrize(
    "x",
    [
        np.arange(6.0).reshape(3, 2)[:, ::-1],
        np.arange(3),
        np.array([True, False, True]),
        np.arange(3, dtype=">f4"),
        np.arange(3, dtype=np.float16),
        np.arange(3.0)[::-1],
        [1.0, 2.0, 3.0],
        np.arange(3) * 1j,
        np.zeros((3, 0)),
    ],
)
def test_numpy_input_of_any_kind(x):
    got, expected = A @ x, matrix.numpy() @ np.asarray(x)
    assert isinstance(got, np.ndarray)
    np.testing.assert_allclose(got, expected)


def test_a_numpy_matrix_stays_one():
    assert isinstance(A @ np.matrix(np.ones((3, 1))), np.matrix)


def test_the_result_needs_no_gradient():
    assert not (A @ torch.ones(3, dtype=F64, requires_grad=True)).requires_grad


def test_scalars_of_all_kinds():
    v = torch.ones(3, dtype=F64)
    for two in (2, 2.0, np.float64(2), np.int64(2), torch.tensor(2.0), torch.tensor(2.0, dtype=F64)):
        for B in (two * A, A * two, A / (1 / two)):
            torch.testing.assert_close(B @ v, 2 * matrix @ v)


def test_scipy_operators_join_the_algebra():
    S = aslinearoperator(scipy.sparse.csr_array(matrix.numpy()))
    v = torch.ones(3, dtype=F64)
    for B in (A + S, A - S, A.H @ S, as_operator(S) + A, as_operator(S) @ A.H):
        assert isinstance(B, Operator)
        check_operator(B)
    assert isinstance((A + S) @ v, torch.Tensor)
    assert isinstance(as_operator(S), Foreign)


def test_an_operator_of_scipy_can_be_declared_positive():
    S = aslinearoperator(np.diag([1.0, 2.0]))
    assert not as_operator(S).symmetric
    wrapped = as_operator(S, positive=True)
    assert wrapped.symmetric and wrapped.positive and wrapped.H is wrapped
    check_operator(wrapped)
    assert as_operator(wrapped, positive=True) is wrapped
    forward_only = LinearOperator((2, 2), matvec=lambda v: 2 * v, dtype=np.float64)
    np.testing.assert_allclose(as_operator(forward_only, positive=True).rmatvec(np.ones(2)), [2.0, 2.0])
    with pytest.raises(ValueError, match="not declared positive"):
        as_operator(A, positive=True)


def test_repr_reads_as_an_expression():
    assert repr(2 * A + A) == "2 * Dense[2×3] + Dense[2×3]"
    assert repr((A + A).H @ A) == "(Dense[2×3] + Dense[2×3]).H @ Dense[2×3]"
    assert repr(A - A) == "Dense[2×3] - Dense[2×3]"


def test_products_are_counted_by_columns():
    B = Dense(matrix)
    B @ torch.ones(3, dtype=F64)
    B @ torch.ones(3, 4, dtype=F64)
    B.H @ np.ones((2, 2))
    assert B.num_matvecs == 7


@pytest.mark.parametrize(
    "call",
    [
        lambda x: A @ x,
        A.dot,
        A.matvec,
        A.matmat,
        lambda x: A * x,
        lambda x: (A.H @ A) @ x,
        lambda x: A.H.rmatmat(x),
    ],
)
@pytest.mark.parametrize(
    "x", [torch.ones(2, dtype=F64), np.ones(4), torch.ones(2, 3, dtype=F64), np.ones((1, 3, 1)), [1.0, 2.0]]
)
def test_wrong_shapes_say_who_expected_and_got(call, x):
    shape = tuple(np.shape(x))
    with pytest.raises(ValueError, match=r"Dense\[2×3\].*expected shape \(3, ?1?.*got ") as error:
        call(x)
    assert str(shape) in str(error.value)


@pytest.mark.parametrize(
    ("x", "kind", "words"),
    [
        (torch.ones(3), TypeError, ["torch.float64", "torch.float32", ".to("]),
        (torch.ones(3, dtype=torch.int64), TypeError, ["torch.float64", "torch.int64", ".to("]),
        (torch.ones(3, dtype=F64, device="meta"), ValueError, ["cpu", "meta", ".to("]),
        (scipy.sparse.eye(3), TypeError, ["expected numbers", "dense array or an operator"]),
        (np.array([1, None, 2]), TypeError, ["expected numbers", "object"]),
        (None, TypeError, ["expected numbers", "NoneType"]),
    ],
)
def test_wrong_input_says_what_to_do(x, kind, words):
    with pytest.raises(kind) as error:
        A @ x
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: A @ A, ValueError, "spaces do not match"),
        (lambda: A + A.H, ValueError, "spaces do not match"),
        (lambda: A + Dense(matrix.float()), ValueError, r"spaces do not match.*float32"),
        (lambda: A**2, ValueError, "square operator"),
        (lambda: square**0, ValueError, "integer p ≥ 1"),
        (lambda: 1j * A, TypeError, "real factors"),
        (lambda: A @ 2.0, ValueError, r"\*, not @"),
        (lambda: 2.0 @ A, ValueError, r"\*, not @"),
        (lambda: A / A, ValueError, "divided by a number"),
        (lambda: A + 1, TypeError, "unsupported operand"),
        (lambda: as_operator(np.eye(2)), TypeError, r"ndarray; wrap a matrix with pl\.operators\.Dense"),
        (lambda: Dense(matrix, symmetric=True), ValueError, "a symmetric operator is square, got 2×3"),
        (lambda: Operator(Space(2), Space(2, dtype=torch.float32)), ValueError, "differ in dtype or device"),
    ],
)
def test_mistakes_in_expressions_are_refused(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


def test_an_author_is_told_what_is_missing():
    class Half(Operator):
        def _apply(self, V):
            return V

    half = Half(Space(2), Space(2))
    with pytest.raises(NotImplementedError, match="Half does not define _apply_adjoint"):
        half.H @ np.ones(2)
    with pytest.raises(NotImplementedError, match="Operator does not define _apply"):
        Operator(Space(2), Space(2)) @ np.ones(2)


def test_empty_operators():
    for shape in ((0, 3), (3, 0), (0, 0)):
        B = Dense(torch.zeros(shape, dtype=F64))
        assert B.dense().shape == shape
        assert (B @ np.ones(shape[1])).shape == (shape[0],)
        assert isinstance(B, LinearOperator)
