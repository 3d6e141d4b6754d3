"""PINA's own Poisson problem, trained through its unmodified conditions and solver."""

import logging
import warnings

import numpy as np
import pytest
import torch

import precondlab as pl
from precondlab.integrations import Hosted
from precondlab.training import SpectrumMonitor

with warnings.catch_warnings():
    formatwarning = warnings.formatwarning
    pytest.importorskip("pina", reason="needs the extra 'pina'")
    from pina import Trainer
    from pina.callback import SwitchOptimizer
    from pina.model import FeedForward
    from pina.optim import TorchOptimizer
    from pina.problem.zoo import InversePoisson2DSquareProblem, Poisson2DSquareProblem
    from pina.solver import PINN, SelfAdaptivePINN
    from pina.weighting import NeuralTangentKernelWeighting, ScalarWeighting

    warnings.formatwarning = formatwarning  # PINA sets its own

from precondlab.integrations import lightning, pina


@pytest.fixture(autouse=True)
def float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def make(method=pl.optim.LevenbergMarquardt, seed=0, width=6, dropout=False, **options):
    lightning.L.seed_everything(seed, verbose=False)
    problem = Poisson2DSquareProblem()
    problem.discretise_domain(5, "grid", domains="D")
    problem.discretise_domain(3, "grid", domains="boundary")
    torch.manual_seed(seed + 1)
    model = FeedForward(2, 1, inner_size=width, n_layers=1)
    if dropout:
        model = torch.nn.Sequential(model, torch.nn.Dropout(0.5))
    optimizer = TorchOptimizer(Hosted, make=method, **options.pop("method", {}))
    options = {"optimizer": optimizer, "weighting": ScalarWeighting({"boundary": 5.0, "D": 0.1}), **options}
    return PINN(problem, model, **options)


def train(solver, *callbacks, epochs=5, batch_size=None, **options):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, about workers and loggers
        run = Trainer(
            solver,
            max_epochs=epochs,
            batch_size=batch_size,
            accelerator="cpu",
            callbacks=[lightning.Follow(pina.residual), *callbacks],
            **{"logger": False, "enable_checkpointing": False},
            **{"enable_progress_bar": False, "enable_model_summary": False, "shuffle": False},
        )
        run.train(**options)
    return run


class Losses(lightning.L.Callback):
    def __init__(self):
        self.values, self.closures, self.norms = [], 0, []

    def on_train_batch_start(self, trainer, solver, batch, batch_idx):
        self.norms.append(pina.residual(solver, batch).value.square().sum().item())

    def on_train_batch_end(self, trainer, solver, outputs, batch, batch_idx):
        self.values.append(outputs["loss"].item())

    def on_before_optimizer_step(self, *_):
        self.closures += 1


class Batch(lightning.L.Callback):
    """Keeps the last batch."""

    def on_train_batch_start(self, trainer, solver, batch, batch_idx):
        self.batch = batch


def parameters(solver):
    return torch.cat([p.detach().reshape(-1) for p in solver.parameters()])


def test_residual_is_the_solvers_loss_and_its_jacobian_agrees_with_finite_differences():
    solver, losses, kept = make(), Losses(), Batch()
    train(solver, losses, kept)
    np.testing.assert_allclose(losses.norms, losses.values, rtol=1e-12)
    r = pina.residual(solver, kept.batch)
    assert set(r.codomain.slices) == {"D", "boundary"}
    theta, v, h = r.domain.ravel(r.params).detach(), r.domain.random(), 1e-5
    difference = (r(theta + h * v) - r(theta - h * v)) / (2 * h)
    assert (pl.Jacobian(r) @ v - difference).norm() <= 1e-8 * difference.norm()


def test_the_loss_decreases_once_per_epoch_by_the_optimizers_own_steps():
    solver, losses, kept = make(), Losses(), Batch()
    run = train(solver, losses, kept, epochs=20)
    assert run.global_step == losses.closures == len(losses.values) == 20
    assert losses.values[-1] < 1e-2 * losses.values[0]
    twin = make()
    alone = pl.optim.LevenbergMarquardt(pina.residual(twin, kept.batch))
    for _ in range(20):
        alone.step()
    assert torch.equal(parameters(solver), parameters(twin))


def test_minibatches_are_followed():
    solver, losses = make(), Losses()
    run = train(solver, losses, epochs=2, batch_size=6)
    assert run.global_step == len(losses.values) > 2
    np.testing.assert_allclose(losses.norms, losses.values, rtol=1e-12)


def test_one_can_switch_from_adam():
    solver, losses = make(optimizer=TorchOptimizer(torch.optim.Adam, lr=1e-3)), Losses()
    second = TorchOptimizer(Hosted, make=pl.optim.LevenbergMarquardt)
    train(solver, losses, SwitchOptimizer(second, epoch_switch=4), epochs=12)
    assert losses.values[3] > 0.5 * losses.values[0]
    assert losses.values[-1] < 0.5 * losses.values[3]


@pytest.mark.parametrize("method", [pl.optim.LevenbergMarquardt, pl.optim.GradientDescent])
def test_a_checkpoint_continues_bit_for_bit(tmp_path, method):
    solver = make(method)
    train(solver, epochs=6)
    half = train(make(method), epochs=3)
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed = make(method)
    train(resumed, epochs=6, ckpt_path=str(tmp_path / "half.ckpt"), weights_only=True)
    assert torch.equal(parameters(solver), parameters(resumed))


def test_the_callback_measures_when_due_and_leaves_the_training_alone():
    watch = SpectrumMonitor(pina.residual, every=3, budget=float("inf"), num_matvecs=100)
    solver, kept = make(), Batch()
    run = train(solver, kept, lightning.Monitor(watch), epochs=7)
    twin = make()
    J = pl.Jacobian(pina.residual(twin, kept.batch)).dense().numpy()
    assert watch.history[0]["lambda_max"] == pytest.approx(np.linalg.norm(J, 2) ** 2, rel=1e-10)
    assert [record["step"] for record in watch.history] == [0, 3, 6]
    assert run.callback_metrics["drift"] == pytest.approx(watch.history[-1]["drift"], rel=1e-6)
    train(twin, epochs=7)
    assert torch.equal(parameters(solver), parameters(twin))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": torch.nn.L1Loss()}, r"expected torch\.nn\.MSELoss"),
        ({"weighting": NeuralTangentKernelWeighting()}, "expected fixed weights"),
        ({"dropout": True}, "training mode"),
    ],
    ids=["loss", "weights", "dropout"],
)
def test_what_is_not_a_sum_of_squares_changes_nothing(options, message):
    solver = make(**options)
    before = parameters(solver)
    with pytest.raises(ValueError, match=message):
        train(solver)
    assert torch.equal(parameters(solver), before)


def test_other_solvers_and_inverse_problems_are_refused():
    solver, kept = make(), Batch()
    train(solver, kept, epochs=1)
    several = SelfAdaptivePINN(solver.problem, FeedForward(2, 1))
    with pytest.raises(ValueError, match="single model"):
        pina.residual(several, kept.batch)
    solver._pina_problem = InversePoisson2DSquareProblem.__new__(InversePoisson2DSquareProblem)
    with pytest.raises(ValueError, match="inverse problem"):
        pina.residual(solver, kept.batch)


def test_another_solvers_state_is_refused():
    solver, other = make(), make(width=9)
    run = train(solver, epochs=1)
    before = parameters(solver)
    foreign = train(other, epochs=1)
    with pytest.raises(ValueError, match="its shapes is"):
        run.optimizers[0].load_state_dict(foreign.optimizers[0].state_dict())
    assert torch.equal(parameters(solver), before)
