"""Lightning's trainer with our optimizers and monitor."""

import logging
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import precondlab as pl
from precondlab.integrations import Hosted
from precondlab.training import SpectrumMonitor

L = pytest.importorskip("lightning.pytorch", reason="needs the extra 'lightning'")

from precondlab.integrations import lightning  # noqa: E402

X = torch.linspace(-1, 1, 24, dtype=torch.float64)[:, None]


class Sine(lightning.LeastSquares):
    """u′ = 3 cos 3x, u(0) = 0, with reverse-mode derivatives, as people write it."""

    def __init__(self, make=pl.optim.LevenbergMarquardt, width=8, dropout=False, factor=1.0, **options):
        super().__init__()
        torch.manual_seed(0)
        layers = [torch.nn.Linear(1, width), torch.nn.Tanh(), torch.nn.Linear(width, 1)]
        self.net = torch.nn.Sequential(*layers, *[torch.nn.Dropout(0.5)] * dropout).double()
        self.make, self.options, self.factor = make, options, factor
        self.losses = []

    def residual(self, batch):
        (x,) = batch
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)
        return {"equation": slope - 3 * torch.cos(3 * x), "start": self.net(torch.zeros_like(x[:1]))}

    def training_step(self, batch, batch_idx):
        loss = self.factor * super().training_step(batch, batch_idx)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return Hosted(self.parameters(), self.make, **self.options)


class Steps(L.Callback):
    """The counts that Lightning documents."""

    def __init__(self):
        self.batches = self.closures = 0

    def on_train_batch_end(self, *_):
        self.batches += 1

    def on_before_optimizer_step(self, *_):
        self.closures += 1


def trainer(tmp_path, *callbacks, epochs=5, **options):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    options = {"logger": False, "enable_checkpointing": False, **quiet, **options}
    return L.Trainer(max_epochs=epochs, default_root_dir=tmp_path, callbacks=list(callbacks), **options)


def fit(run, module, batch_size=24, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, about workers and short epochs
        run.fit(module, DataLoader(TensorDataset(X), batch_size=batch_size), **options)
    return module


def parameters(module):
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def test_residual_is_the_modules_loss_and_its_jacobian_agrees_with_finite_differences(tmp_path):
    module = fit(trainer(tmp_path, epochs=1), Sine(pl.optim.GradientDescent, lr=1e-30))
    r = lightning.residual(module, (X,))
    np.testing.assert_allclose(r.value.square().sum().item(), module.losses[0], rtol=1e-12)
    theta, v, h = r.domain.ravel(r.params).detach(), r.domain.random(), 1e-5
    difference = (r(theta + h * v) - r(theta - h * v)) / (2 * h)
    assert (pl.Jacobian(r) @ v - difference).norm() <= 1e-8 * difference.norm()


@pytest.mark.parametrize("batch_size", [24, 8])
def test_there_is_one_step_and_one_closure_call_per_batch(tmp_path, batch_size):
    counts = Steps()
    run = trainer(tmp_path, counts, epochs=3)
    module = fit(run, Sine(), batch_size)
    assert run.global_step == counts.batches == counts.closures == len(module.losses) == 3 * 24 // batch_size


def test_the_loss_decreases(tmp_path):
    module = fit(trainer(tmp_path, epochs=25), Sine())
    assert module.losses[-1] < 1e-2 * module.losses[0]
    assert all(after < before for before, after in pairwise(module.losses))


def test_the_steps_are_those_of_the_optimizer_alone(tmp_path):
    module, twin = fit(trainer(tmp_path), Sine()), Sine()
    alone = pl.optim.LevenbergMarquardt(lightning.residual(twin, (X,)))
    for _ in range(5):
        alone.step()
    assert torch.equal(parameters(module), parameters(twin))


@pytest.mark.parametrize("make", [pl.optim.LevenbergMarquardt, pl.optim.GradientDescent])
def test_a_checkpoint_continues_bit_for_bit(tmp_path, make):
    def watch():
        return lightning.Monitor(SpectrumMonitor(lightning.residual, every=2, budget=float("inf")))

    whole = trainer(tmp_path, first := watch(), epochs=6)
    module = fit(whole, Sine(make))
    half = trainer(tmp_path, watch(), epochs=3)
    fit(half, Sine(make))
    half.save_checkpoint(tmp_path / "half.ckpt")
    rest = trainer(tmp_path, second := watch(), epochs=6)
    resumed = fit(rest, Sine(make), ckpt_path=str(tmp_path / "half.ckpt"))
    assert torch.equal(parameters(module), parameters(resumed))
    for one, other in zip(first.monitor.history, second.monitor.history, strict=True):
        assert {**one, "overhead": 0} == {**other, "overhead": 0}


def test_the_monitor_logs_to_the_trainers_logger_and_leaves_the_training_alone(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    watch = SpectrumMonitor(lightning.residual, every=3, budget=float("inf"), num_matvecs=100)
    run = trainer(tmp_path, lightning.Monitor(watch), epochs=7, logger=logger)
    module = fit(run, Sine())
    assert torch.equal(parameters(module), parameters(fit(trainer(tmp_path, epochs=7), Sine())))
    assert [record["step"] for record in watch.history] == [0, 3, 6]
    J = pl.Jacobian(lightning.residual(Sine(), (X,))).dense().numpy()
    assert watch.history[0]["lambda_max"] == pytest.approx(np.linalg.norm(J, 2) ** 2, rel=1e-10)
    names = ("lambda_max", "lambda_min", "condition_number", "effective_rank", "drift")
    assert all(run.callback_metrics[name] == pytest.approx(watch.history[-1][name], rel=1e-6) for name in names)
    logged = np.genfromtxt(f"{logger.log_dir}/metrics.csv", delimiter=",", names=True)
    logged = logged[np.isfinite(logged["lambda_max"])]
    assert logged["step"].tolist() == [0, 3, 6]
    assert logged["drift"].tolist() == pytest.approx([record["drift"] for record in watch.history])


def test_modules_of_any_kind_are_followed_by_a_callback(tmp_path):
    class Plain(L.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.line = torch.nn.Linear(1, 1).double()

        def training_step(self, batch, batch_idx):
            return (self.line(batch[0]) - 2 * batch[0]).square().mean()

        def configure_optimizers(self):
            return Hosted(self.parameters(), pl.optim.LevenbergMarquardt)

    def rows(module, batch):
        x = batch[0]
        return pl.Map.of_module(module, lambda: (module.line(x) - 2 * x) / len(x) ** 0.5)

    module = fit(trainer(tmp_path, lightning.Follow(rows)), Plain())
    torch.testing.assert_close(parameters(module), torch.tensor([2.0, 0.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="no residual yet"):
        fit(trainer(tmp_path), Plain())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dropout": True}, "training mode"), ({"factor": 2.0}, "the host's loss is")],
    ids=["dropout", "another loss"],
)
def test_what_does_not_match_changes_nothing(tmp_path, options, message):
    module = Sine(**options)
    before = parameters(module)
    with pytest.raises(ValueError, match=message):
        fit(trainer(tmp_path), module)
    assert torch.equal(parameters(module), before)


def test_another_modules_checkpoint_is_refused(tmp_path):
    narrow = trainer(tmp_path, epochs=1)
    fit(narrow, Sine(width=5))
    module = Sine()
    before = parameters(module)
    optimizer = module.configure_optimizers()
    with pytest.raises(ValueError, match="its shapes is"):
        optimizer.load_state_dict(narrow.optimizers[0].state_dict())
    assert torch.equal(parameters(module), before)


def test_dropout_is_measured_in_evaluation_mode_and_stays_on_in_training(tmp_path):
    class Noisy(Sine):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    module = Noisy(dropout=True)
    watch = SpectrumMonitor(lightning.residual, every=1, budget=float("inf"))
    fit(trainer(tmp_path, lightning.Monitor(watch), epochs=2), module)
    assert len(watch.history) == 2
    assert module.net.training and module.net[-1].training
