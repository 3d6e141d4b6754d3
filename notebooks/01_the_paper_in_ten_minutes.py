# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Operator preconditioning in ten minutes
#
# A physics-informed model minimizes $L(\theta) = \tfrac12\|r(\theta)\|^2$, where $r$ stacks the residual of the PDE
# and of the boundary conditions. Near a point gradient descent is the iteration
#
# $$\theta_{k+1} = (I - \eta A)\,\theta_k + \text{const}, \qquad A = J^\mathsf{T} J,$$
#
# so it takes about $\kappa(A) = \lambda_{\max}/\lambda_{\min}$ steps. De Ryck, Bonnet, Mishra and de Bézenac
# ([ICLR 2024](https://arxiv.org/abs/2310.05801)) showed that $A$ discretizes $\mathcal D^*\mathcal D$ composed with the
# tangent kernel of the model: the condition number of the *differential operator* is what one trains against. This
# notebook measures that, and removes it.

# %%
import math

import matplotlib.pyplot as plt
import torch

import precondlab as pl
from precondlab.report import draw_curves, draw_scaling, draw_spectra, style

torch.set_num_threads(1)

# %% [markdown]
# ## Poisson's equation on a Fourier basis
#
# For $-u'' = f$ on $(-\pi, \pi)$ and the basis $1, \cos kx, \sin kx$ the matrix is
# $A = \mathrm{diag}(k^4) + \lambda v v^\mathsf{T}$. `Jacobian` and `Gram` are SciPy `LinearOperator`s backed by torch
# products; nothing is formed until we ask for it.

# %%
problem = pl.problems.poisson(dim=1)


def gram(frequencies, weight):
    model = pl.models.fourier(frequencies)
    r = problem.residual(model, interior=4 * frequencies + 8, weights={"boundary": weight})
    return pl.Gram(pl.Jacobian(r))


A = gram(16, weight=1.0)
print(A)
print(pl.condition(A))

# %% [markdown]
# Choosing the boundary weight well helps by a constant factor, not more: the best one gives
# $\kappa \to 3.11358\,K^4$.

# %%
sizes = [5, 10, 20, 40]
best = {K: pl.preconditioners.balance(gram(K, 1.0), "boundary", bounds=(0.1, 1e6)) for K in sizes}
for K, found in best.items():
    print(f"K = {K:2d}: best λ = {2 * found.weight:8.1f}, κ / K⁴ = {found.condition.estimate / K**4:.4f}")

# %% [markdown]
# ## The preconditioner of the PDE
#
# The symbol of $-\partial^2$ is $k^2$, so $P = \mathrm{diag}(\gamma; 1/k^2)$ undoes the operator. With
# $\lambda = 2\pi/\gamma^2$ the condition number of $P^\mathsf{T} A P$ does not depend on $K$ at all.

# %%
gamma = 20.0


def preconditioned(frequencies):
    M = pl.preconditioners.symbol(problem, pl.models.fourier(frequencies), kernel=gamma)
    return pl.condition(gram(frequencies, math.pi / gamma**2), preconditioner=M).estimate


kappas = {
    "A, best λ": [best[K].condition.estimate for K in sizes],
    "PᵀAP": [preconditioned(K) for K in sizes],
}
with style():
    figure, axes = plt.subplots()
    draw_scaling(axes, sizes, kappas, slope=4, xlabel="frequencies K")
    axes.set_title("Poisson: κ ~ K⁴, and constant with P")

# %% [markdown]
# The whole spectrum, before and after:

# %%
A = gram(16, math.pi / gamma**2)
P = pl.preconditioners.symbol(problem, pl.models.fourier(16), kernel=gamma).sqrt
PAP = P.H @ A @ P
print(PAP)
with style():
    figure, axes = plt.subplots()
    draw_spectra(axes, {"A": torch.linalg.eigvalsh(A.dense()), "PᵀAP": torch.linalg.eigvalsh(PAP.dense())})
    axes.set_title("Spectra for K = 16")

# %% [markdown]
# ## Advection, and what happens off resonance
#
# For $u_t + \beta u_x = 0$ the condition number grows like $\beta^2$. The basis is $e^{ikx} e^{2\pi i m t}$, in real
# form.

# %%
box = ((0.0, 2 * math.pi), (0.0, 1.0))
speeds = [2 * math.pi * j for j in (10, 20, 40, 80)]


def advection(speed, modes):
    transport, waves = pl.problems.advection(beta=speed), pl.models.fourier((5, modes), domain=box)
    A = pl.Gram(pl.Jacobian(transport.residual(waves, interior=(12, 2 * modes + 2), boundary=12)))
    return transport, waves, A


kappas = {"A, best λ": [], "PᵀAP": []}
for speed in speeds:
    transport, waves, A = advection(speed, modes=4)
    kappas["A, best λ"].append(pl.preconditioners.balance(A, "initial", bounds=(1.0, 1e7)).condition.estimate)
    M = pl.preconditioners.symbol(transport, waves)
    kappas["PᵀAP"].append(pl.condition(A, preconditioner=M).estimate)
with style():
    figure, axes = plt.subplots()
    draw_scaling(axes, speeds, kappas, slope=2, xlabel="speed β")
    axes.set_title("Advection: κ ~ β², and constant with P")

# %% [markdown]
# The paper's $P_k = 1/|\sigma(k)|$ needs $\beta$ to be a multiple of $2\pi$: elsewhere some modes are almost, but not
# quite, in the kernel of the operator. The default of `symbol` adds what the initial condition sees of each mode,
# $P_k = (|\sigma(k)|^2 + \lambda\|\varphi_k\|^2)^{-1/2}$, and does not notice:

# %%
for speed in (10.0, 20.0, 40.0, 80.0, 12 * math.pi):
    transport, waves, A = advection(speed, modes=15)
    paper = pl.preconditioners.symbol(transport, waves, kernel=1.0)
    tuned = pl.preconditioners.balance(A, "initial", preconditioner=paper, bounds=(1e-3, 1e3)).condition.estimate
    default = pl.condition(A, preconditioner=pl.preconditioners.symbol(transport, waves)).estimate
    print(f"β = {speed:6.2f}: κ with 1/|σ| and its best λ {tuned:7.3f}, with the default and λ = 1 {default:.3f}")

# %% [markdown]
# ## What training sees
#
# In the linear regime the loss curve of gradient descent is known in advance: a few Lanczos steps started at the
# residual give it. `GradientDescent` is a `torch.optim` optimizer that owns its residual.

# %%
curves = {}
for name, steps in (("without P", 1000), ("with P", 20)):
    model = pl.models.fourier(16)
    with torch.no_grad():
        model.coefficients.normal_(generator=torch.Generator().manual_seed(0))
    r = problem.residual(model, interior=72, weights={"boundary": math.pi / gamma**2})
    M = pl.preconditioners.symbol(problem, model, kernel=gamma) if name == "with P" else None
    optimizer = pl.optim.GradientDescent(r, preconditioner=M)
    J = pl.Jacobian(r) if M is None else pl.Jacobian(r) @ M.sqrt
    rate = optimizer.param_groups[0]["lr"]
    prediction = pl.predict_training(J, r.value, steps=steps, learning_rate=rate)
    curves[f"measured {name}"] = [optimizer.step().item() for _ in range(steps + 1)]
    curves[f"predicted {name}"] = prediction.loss
    print(f"{name}: relative error after {steps + 1} steps {problem.error(model):.1e}")
with style():
    figure, axes = plt.subplots()
    draw_curves(axes, curves, logx=True)
    axes.set_ylim(bottom=1e-19)
    axes.set_title("Gradient descent, predicted and measured")

# %% [markdown]
# ## Networks
#
# For a network $A$ is numerically singular: `condition` says so instead of printing rounding noise, and gives the
# rank and the condition number on the subspace it can resolve.

# %%
network = pl.models.mlp((1, 12, 5, 1), seed=0)
r = problem.residual(network, interior=1000, weights={"boundary": 10.0})
result = pl.condition(pl.Gram(pl.Jacobian(r)))
print(f"rank {result.rank} of {result.size}, κ on the resolved subspace {result.resolved:.1e}")
print(result.status.advice)
