"""Residual maps of models built with other packages; each module needs the extra of its name."""
