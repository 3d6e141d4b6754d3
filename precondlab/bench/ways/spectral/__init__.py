"""Spectral computations in several libraries: one file per library."""
