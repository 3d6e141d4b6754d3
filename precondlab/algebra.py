"""What operator arithmetic builds: adjoints, scalings, sums and products, evaluated lazily."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NoReturn

import numpy as np
from torch import Tensor

from precondlab.operator import Operator

__all__ = ["Adjoint", "Conjugate", "Product", "Scaled", "Sum"]


def _refuse(verb: str, left: Operator, right: Operator) -> NoReturn:
    raise ValueError(
        f"{left!r} {verb} {right!r}: the spaces do not match "
        f"({left.codomain} ← {left.domain} and {right.codomain} ← {right.domain})"
    )


class Adjoint(Operator):
    """The adjoint ``Aᴴ``."""

    def __init__(self, parent: Operator) -> None:
        super().__init__(parent.codomain, parent.domain)
        self.parent = parent

    def _apply(self, V: Tensor) -> Tensor:
        return self.parent.backward(V)

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        return self.parent.forward(U)

    def _adjoint(self) -> Operator:
        return self.parent

    @cached_property
    def inverse(self) -> Operator | None:
        inverse = self.parent.inverse
        return None if inverse is None else inverse.H

    def dense(self) -> Tensor:
        return self.parent.dense().mH

    def __repr__(self) -> str:
        return f"{_atom(self.parent)}.H"


class Conjugate(Operator):
    """The complex conjugate of an operator, entry by entry."""

    def __init__(self, parent: Operator) -> None:
        super().__init__(parent.domain, parent.codomain, symmetric=parent.symmetric, positive=parent.positive)
        self.parent = parent

    def _apply(self, V: Tensor) -> Tensor:
        return self.parent.forward(V.conj()).conj()

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        return self.parent.backward(U.conj()).conj()

    def __repr__(self) -> str:
        return f"conj({self.parent!r})"


class Scaled(Operator):
    """A number times an operator."""

    def __init__(self, parent: Operator, factor: Any) -> None:
        factor = factor.item() if isinstance(factor, (Tensor, np.generic)) else factor
        if isinstance(factor, complex) and not parent.domain.dtype.is_complex:
            raise TypeError(f"{factor} * {parent!r}: a real operator takes real factors")
        real = not isinstance(factor, complex) or factor.imag == 0
        super().__init__(
            parent.domain,
            parent.codomain,
            symmetric=parent.symmetric and real,
            positive=parent.positive and real and factor.real >= 0,
        )
        self.parent = parent
        self.factor = factor

    def _apply(self, V: Tensor) -> Tensor:
        return self.factor * self.parent.forward(V)

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        return self.factor.conjugate() * self.parent.backward(U)

    @cached_property
    def sqrt(self) -> Operator | None:
        root = self.parent.sqrt if self.positive else None
        return None if root is None else Scaled(root, abs(self.factor) ** 0.5)

    @cached_property
    def inverse(self) -> Operator | None:
        inverse = self.parent.inverse if self.factor != 0 else None
        return None if inverse is None else Scaled(inverse, 1 / self.factor)

    def __repr__(self) -> str:
        return f"-{_atom(self.parent)}" if self.factor == -1 else f"{self.factor:.6g} * {_atom(self.parent)}"


class Sum(Operator):
    """The sum of operators between the same spaces."""

    def __init__(self, *terms: Operator) -> None:
        first = terms[0]
        for term in terms[1:]:
            if not (term.domain.matches(first.domain) and term.codomain.matches(first.codomain)):
                _refuse("+", first, term)
        super().__init__(
            first.domain,
            first.codomain,
            symmetric=all(term.symmetric for term in terms),
            positive=all(term.positive for term in terms),
        )
        self.terms = [part for term in terms for part in (term.terms if isinstance(term, Sum) else [term])]

    def _apply(self, V: Tensor) -> Tensor:
        total = self.terms[0].forward(V)
        for term in self.terms[1:]:
            total = total + term.forward(V)
        return total

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        total = self.terms[0].backward(U)
        for term in self.terms[1:]:
            total = total + term.backward(U)
        return total

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.terms)).replace("+ -", "- ")


class Product(Operator):
    """The composition of operators, applied from the right.

    A product that reads the same backwards, like ``P.H @ A @ P`` or ``J.H @ J``, is declared
    symmetric, and positive if its middle is.
    """

    def __init__(self, *factors: Operator) -> None:
        self.factors = [f for factor in factors for f in (factor.factors if isinstance(factor, Product) else [factor])]
        for left, right in zip(self.factors, self.factors[1:], strict=False):
            if not left.domain.matches(right.codomain):
                _refuse("@", left, right)
        half, odd = divmod(len(self.factors), 2)
        mirrored = all(_are_adjoint(a, b) for a, b in zip(self.factors[:half], self.factors[::-1], strict=False))
        middle = self.factors[half] if odd else None
        super().__init__(
            self.factors[-1].domain,
            self.factors[0].codomain,
            symmetric=mirrored and (middle is None or middle.symmetric),
            positive=mirrored and (middle is None or middle.positive),
        )

    def _apply(self, V: Tensor) -> Tensor:
        for factor in reversed(self.factors):
            V = factor.forward(V)
        return V

    def _apply_adjoint(self, U: Tensor) -> Tensor:
        for factor in self.factors:
            U = factor.backward(U)
        return U

    def _adjoint(self) -> Operator:  # factor by factor, so that (A @ B).H @ (A @ B) is seen to be a palindrome
        return self if self.symmetric else Product(*(factor.H for factor in reversed(self.factors)))

    @cached_property
    def sqrt(self) -> Operator | None:
        if not self.positive:
            return None
        half, odd = divmod(len(self.factors), 2)
        roots = self.factors[:half]
        if odd:
            middle = self.factors[half].sqrt
            if middle is None:
                return None
            roots = [*roots, middle]
        return roots[0] if len(roots) == 1 else Product(*roots)

    @cached_property
    def inverse(self) -> Operator | None:
        found = [inverse for factor in self.factors if (inverse := factor.inverse) is not None]
        return Product(*reversed(found)) if len(found) == len(self.factors) else None

    def dense(self) -> Tensor:
        matrix = self.factors[-1].dense()
        for factor in reversed(self.factors[:-1]):
            matrix = factor.forward(matrix)
        return matrix

    def __repr__(self) -> str:
        return " @ ".join(_atom(factor) for factor in self.factors)


def _are_adjoint(a: Operator, b: Operator) -> bool:
    if a is b:
        return a.symmetric
    return (isinstance(a, Adjoint) and a.parent is b) or (isinstance(b, Adjoint) and b.parent is a)


def _atom(operator: Operator) -> str:
    text = repr(operator)
    return f"({text})" if isinstance(operator, (Sum, Scaled, Product)) else text
