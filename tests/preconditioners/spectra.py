"""Positive matrices with a prescribed spectrum, and what a preconditioner makes of it."""

import torch

from precondlab.operators import Dense


def haar(n, seed=0):
    return torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q


def positive(values, seed=0):
    Q, values = haar(len(values), seed), torch.as_tensor(values, dtype=torch.float64)
    matrix = Q @ torch.diag(values) @ Q.T
    return Dense((matrix + matrix.T) / 2, positive=True)


def power(n, exponent):
    return torch.arange(1, n + 1, dtype=torch.float64) ** -exponent


def kappa(M, A):
    """Return κ(MA) by a dense eigenvalue problem that knows nothing of factors."""
    L = torch.linalg.cholesky(A.dense())
    values = torch.linalg.eigvalsh(L.T @ M.dense() @ L)
    return (values[-1] / values[0]).item()
