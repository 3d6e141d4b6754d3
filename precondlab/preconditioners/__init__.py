"""Preconditioners: functions that return an operator approximating the inverse of A."""

from precondlab.preconditioners.symbol import symbol
from precondlab.preconditioners.weights import Balance, balance

__all__ = ["Balance", "balance", "symbol"]
