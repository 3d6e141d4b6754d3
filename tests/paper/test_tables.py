"""Every number of the theory, to the digits given there, from matrix-free operators."""

import pytest

from precondlab import paper


@pytest.mark.parametrize("name", paper.__all__)
def test_every_row_agrees_with_theory(name):
    table = getattr(paper, name)()
    wrong = [f"{row.quantity}: {row.measured:.9g} instead of {row.theory}" for row in table.rows if not row.agrees]
    assert table.rows
    assert not wrong
