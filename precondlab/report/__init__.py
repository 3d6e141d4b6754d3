"""Pictures and tables of results."""

from precondlab.report.densities import draw_cumulative, draw_density, draw_measure
from precondlab.report.plots import draw_curves, draw_modes, draw_prediction, draw_scaling, draw_spectra, style
from precondlab.report.tables import Row, Table

__all__ = [
    "Row",
    "Table",
    "draw_cumulative",
    "draw_curves",
    "draw_density",
    "draw_measure",
    "draw_modes",
    "draw_prediction",
    "draw_scaling",
    "draw_spectra",
    "style",
]
