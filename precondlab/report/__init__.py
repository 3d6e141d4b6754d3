"""Pictures and tables of results."""

from precondlab.report.plots import draw_curves, draw_scaling, draw_spectra, style
from precondlab.report.tables import Row, Table

__all__ = ["Row", "Table", "draw_curves", "draw_scaling", "draw_spectra", "style"]
