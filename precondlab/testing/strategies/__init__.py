"""Hypothesis strategies: spectra, operators with their matrices, maps, models and problems.

Structure and sizes are drawn by hypothesis, so that failures shrink to small cases; numbers come
from a torch generator whose seed is drawn.
"""

try:
    import hypothesis  # noqa: F401
except ImportError as error:
    raise ImportError(
        'precondlab.testing.strategies needs hypothesis; run: pip install "precondlab[testing]"'
    ) from error

from precondlab.testing.strategies.expressions import generators, operators, spectra
from precondlab.testing.strategies.residuals import maps, models, problems

__all__ = ["generators", "maps", "models", "operators", "problems", "spectra"]
