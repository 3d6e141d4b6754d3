"""Hypothesis strategies: spectra, operators with their spectra or matrices, faults, maps, models and problems.

Structure and sizes are drawn by hypothesis, so that failures shrink to small cases; numbers come
from a torch generator whose seed is drawn.
"""

try:
    import hypothesis  # noqa: F401
except ImportError as error:
    raise ImportError(
        'precondlab.testing.strategies needs hypothesis; run: pip install "precondlab[testing]"'
    ) from error

from precondlab.testing.strategies.expressions import operators
from precondlab.testing.strategies.residuals import maps, models, problems
from precondlab.testing.strategies.spectra import faults, generators, operators_with_spectrum, spectra, starts

__all__ = [
    "faults",
    "generators",
    "maps",
    "models",
    "operators",
    "operators_with_spectrum",
    "problems",
    "spectra",
    "starts",
]
