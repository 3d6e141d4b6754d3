"""Measure precondlab beside the arithmetic bound and other libraries."""
