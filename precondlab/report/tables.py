"""Tables of measured numbers beside the values they should have."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

__all__ = ["Row", "Table"]


@dataclass(frozen=True)
class Row:
    """One measured number beside its theoretical value, given as the digits that are known.

    Digits mean: within one unit of the last one. ``"≤ 10"`` is an upper bound, ``"≈ 3e6"`` is known to a
    tenth, ``"84 ± 3"`` is an interval, and an empty text makes the row informative only.

    >>> Row("κ", "1.158463", 1.1584631).agrees, Row("κ", "1.158463", 1.158465).agrees
    (True, False)
    >>> Row("steps", "≤ 10", 9).agrees, Row("percent", "84 ± 3", 88).agrees
    (True, False)
    """

    quantity: str
    theory: str
    measured: float

    @property
    def agrees(self) -> bool:
        """Whether the measured number is the theoretical one to the digits given."""
        if not self.theory:
            return True
        measured = float(self.measured)
        if self.theory.startswith("≤ "):
            return measured <= float(self.theory[2:])
        if self.theory.startswith("≈ "):
            return abs(measured / float(self.theory[2:]) - 1) <= 0.1
        if " ± " in self.theory:
            middle, radius = map(float, self.theory.split(" ± "))
            return abs(measured - middle) <= radius
        value = Decimal(self.theory)
        last_digit = Decimal(1).scaleb(int(value.as_tuple().exponent))
        return abs(Decimal(measured) - value) <= last_digit

    def to_dict(self) -> dict[str, object]:
        return {
            "quantity": self.quantity,
            "theory": self.theory,
            "measured": float(self.measured),
            "agrees": self.agrees,
        }


@dataclass
class Table:
    """Rows under a title.

    >>> Table("sums", [Row("1 + 1", "2", 2.0)]).agrees
    True
    """

    title: str
    rows: list[Row] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether every row agrees with its theoretical value."""
        return all(row.agrees for row in self.rows)

    def to_dict(self) -> dict[str, object]:
        return {"title": self.title, "agrees": self.agrees, "rows": [row.to_dict() for row in self.rows]}
