"""Benchmarks: products with JᵀJ beside the arithmetic bound and beside other libraries.

Every way of computing a product runs in a process of its own, with the interpreter it needs; the modules
it needs there (``worker``, ``inputs``, ``memory``, ``ways``) import NumPy and the one library they measure.
"""
