"""DeepXDE's own Poisson example, analyzed and trained through its unmodified ``data.pde``."""

import numpy as np
import pytest
import torch

import precondlab as pl

dde = pytest.importorskip("deepxde", reason="needs the extra 'deepxde'")
if dde.backend.backend_name != "pytorch":
    pytest.skip("DeepXDE runs on another backend; set DDE_BACKEND=pytorch", allow_module_level=True)

from precondlab.integrations import deepxde  # noqa: E402
from precondlab.training import SpectrumMonitor  # noqa: E402

WEIGHTS = [1.0, 7.0]


@pytest.fixture
def float64():
    before = dde.config.real(np).__name__
    dde.config.set_default_float("float64")
    yield
    dde.config.set_default_float(before)


@pytest.fixture
def poisson(float64):
    return make()


def make(seed=0, width=10):
    """-u″ = π² sin πx on (-1, 1), as in DeepXDE's documentation."""
    dde.config.set_random_seed(seed)

    def pde(x, y):
        dy_xx = dde.grad.hessian(y, x)
        return -dy_xx - np.pi**2 * torch.sin(np.pi * x)

    geometry = dde.geometry.Interval(-1, 1)
    condition = dde.icbc.DirichletBC(geometry, lambda x: np.sin(np.pi * x), lambda _, on_boundary: on_boundary)
    data = dde.data.PDE(geometry, pde, condition, 16, 2, num_test=100)
    net = dde.nn.FNN([1] + [width] * 2 + [1], "tanh", "Glorot uniform")
    model = dde.Model(data, net)
    model.compile("adam", lr=1e-3, loss_weights=WEIGHTS, verbose=0)
    return model


def compiled(method=pl.optim.LevenbergMarquardt, seed=0, **options):
    model = make(seed)
    model.compile(deepxde.optimizer(model, method, **options), loss_weights=WEIGHTS, verbose=0)
    return model


def train(model, iterations, **options):
    model.train(iterations=iterations, verbose=0, display_every=1000, **options)


def parameters(model):
    return torch.cat([p.detach().reshape(-1) for p in model.net.parameters()])


def host_losses(model):
    X, y, aux = model.data.train_next_batch()
    _, losses = model.outputs_losses_train(X, y, aux)
    return losses.detach()


def test_residual_is_the_hosts_loss(poisson):
    r = deepxde.residual(poisson)
    assert list(r.codomain.slices) == ["interior", "DirichletBC"]
    blocks = [r.value[rows].square().sum().item() for rows in r.codomain.slices.values()]
    np.testing.assert_allclose(blocks, host_losses(poisson), rtol=1e-12)


def test_jacobian_agrees_with_finite_differences(poisson):
    r = deepxde.residual(poisson)
    J = pl.Jacobian(r)
    theta = r.domain.ravel(r.params).detach()
    v = r.domain.random(generator=torch.Generator().manual_seed(1))
    h = 1e-5
    difference = (r(theta + h * v) - r(theta - h * v)) / (2 * h)
    assert (J @ v - difference).norm() <= 1e-8 * difference.norm()


def test_gradient_is_the_hosts_gradient(poisson):
    r = deepxde.residual(poisson)
    J = pl.Jacobian(r)
    ours = 2 * (J.H @ r.value)
    X, y, aux = poisson.data.train_next_batch()
    _, losses = poisson.outputs_losses_train(X, y, aux)
    theirs = torch.autograd.grad(losses.sum(), list(poisson.net.parameters()), allow_unused=True)
    flat = torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).reshape(-1)
            for p, g in zip(poisson.net.parameters(), theirs, strict=True)
        ]
    )
    assert (ours - flat).norm() <= 1e-12 * flat.norm()


def test_condition_reports_a_singular_operator_with_its_rank(poisson):
    result = pl.condition(pl.Gram(pl.Jacobian(deepxde.residual(poisson))))
    rows = deepxde.residual(poisson).codomain.size
    assert not result.status.ok
    assert result.upper == float("inf")
    assert 1 <= result.rank <= rows < result.size


def test_training_continues_and_moves_the_map(poisson):
    r = deepxde.residual(poisson)
    before = r.value
    poisson.train(iterations=3, verbose=0, display_every=10)
    assert not torch.equal(r.value, before)
    np.testing.assert_allclose(r.value.square().sum().item(), host_losses(poisson).sum().item(), rtol=1e-12)


def test_external_variables_are_refused(poisson):
    poisson.external_trainable_variables = [dde.Variable(1.0)]
    with pytest.raises(ValueError, match="register them"):
        deepxde.residual(poisson)


@pytest.mark.parametrize(
    ("method", "options", "factor"),
    [(pl.optim.LevenbergMarquardt, {}, 0.1), (pl.optim.GradientDescent, {"lr": 1e-5}, 1)],
)
def test_the_loss_decreases_by_the_optimizers_own_steps(float64, method, options, factor):
    model = compiled(method, **options)
    before = host_losses(model).sum().item()
    counted = []
    model.opt.register_step_post_hook(lambda *_: counted.append(1))
    train(model, 15)
    assert len(counted) == model.train_state.step == 15
    assert host_losses(model).sum().item() < factor * before
    twin = make()
    alone = method(deepxde.residual(twin), **options)
    for _ in range(15):
        alone.step()
    assert torch.equal(parameters(model), parameters(twin))


def test_it_follows_resampled_points(float64):
    model = compiled()
    sizes = []
    model.opt.register_step_post_hook(lambda optimizer, *_: sizes.append(optimizer.inner.residual.value))
    train(model, 6, callbacks=[dde.callbacks.PDEPointResampler(period=2)])
    np.testing.assert_allclose(sizes[-1].square().sum().item(), host_losses_of_last_batch(model), rtol=1e-12)
    assert len({tuple(part.tolist()) for part in sizes}) == 6


def host_losses_of_last_batch(model):
    state = model.train_state
    return model.outputs_losses_train(state.X_train, state.y_train, state.train_aux_vars)[1].sum().item()


@pytest.mark.parametrize("method", [pl.optim.LevenbergMarquardt, pl.optim.GradientDescent])
def test_save_and_restore_continue_bit_for_bit(float64, tmp_path, method):
    model = compiled(method)
    train(model, 4)
    path = model.save(str(tmp_path / "model"))
    train(model, 4)
    twin = compiled(method)
    twin.restore(path, verbose=0)
    train(twin, 4)
    assert torch.equal(parameters(model), parameters(twin))


def test_the_callback_measures_when_due_and_leaves_the_training_alone(float64):
    watch = SpectrumMonitor(deepxde.residual, every=3, budget=float("inf"), num_matvecs=100)
    model, twin = compiled(), compiled()
    train(model, 7, callbacks=[deepxde.monitor(watch)])
    train(twin, 7)
    assert torch.equal(parameters(model), parameters(twin))
    assert [record["step"] for record in watch.history] == [0, 3, 6]
    J = pl.Jacobian(deepxde.residual(make())).dense().numpy()
    assert watch.history[0]["lambda_max"] == pytest.approx(np.linalg.norm(J, 2) ** 2, rel=1e-10)
    assert watch.history[-1]["drift"] > 0


def test_deepxdes_own_loss_history_holds_the_records(float64, tmp_path, capsys):
    watch = SpectrumMonitor(deepxde.residual, every=2, budget=float("inf"), num_matvecs=20)
    model = make()
    model.compile("adam", lr=1e-3, metrics=deepxde.metrics(watch), verbose=0)
    history, state = model.train(iterations=6, display_every=2, verbose=1, callbacks=[deepxde.monitor(watch)])
    measured = np.array(history.metrics_test)
    assert history.steps == [0, 2, 4, 6] and measured.shape == (4, 5)
    assert np.isnan(measured[0]).all()
    names = ("lambda_max", "lambda_min", "condition_number", "effective_rank", "drift")
    for row, record in zip(measured[1:], watch.history, strict=True):  # tested after steps 2, 4, 6
        np.testing.assert_array_equal(row, [record[name] for name in names])
    assert f"{watch.history[-1]['lambda_max']:.2e}" in capsys.readouterr().out
    dde.saveplot(history, state, issave=True, isplot=False, output_dir=str(tmp_path))
    saved = np.loadtxt(tmp_path / "loss.dat")
    np.testing.assert_allclose(saved[-1, -1], watch.history[-1]["drift"])


def test_targets_and_auxiliary_variables_reach_the_residual(float64):
    x = np.linspace(0, 1, 9)[:, None]
    data = dde.data.DataSet(X_train=x, y_train=np.sin(x), X_test=x, y_test=np.sin(x))
    model = dde.Model(data, dde.nn.FNN([1, 5, 1], "tanh", "Glorot uniform"))
    model.compile(deepxde.optimizer(model, pl.optim.LevenbergMarquardt), verbose=0)
    train(model, 3)  # each step compares the residual with DeepXDE's loss

    def pde(x, y, source):
        return dde.grad.jacobian(y, x) - torch.as_tensor(source)

    geometry = dde.geometry.Interval(0, 1)
    data = dde.data.PDE(geometry, pde, [], 9, 2, auxiliary_var_function=np.cos, num_test=30)
    model = dde.Model(data, dde.nn.FNN([1, 5, 1], "tanh", "Glorot uniform"))
    model.compile(deepxde.optimizer(model, pl.optim.LevenbergMarquardt), verbose=0)
    train(model, 3)
    model.train(iterations=2, verbose=0, display_every=1)  # tests in between use other auxiliary variables


def test_another_loss_changes_nothing(float64):
    model = make()
    model.compile(deepxde.optimizer(model, pl.optim.LevenbergMarquardt), loss="mean absolute error", verbose=0)
    before = parameters(model)
    with pytest.raises(ValueError, match="the host's loss is"):
        train(model, 1)
    assert torch.equal(parameters(model), before)


def test_another_networks_state_is_refused(float64):
    model = compiled()
    train(model, 1)
    before = parameters(model)
    other = make(width=6)
    with pytest.raises(ValueError, match="its shapes is"):
        model.opt.load_state_dict(deepxde.optimizer(other, pl.optim.LevenbergMarquardt).state_dict())
    assert torch.equal(parameters(model), before)


def test_regularizers_and_dropout_are_refused(float64):
    model = make()
    model.net.regularizer = ["l2", 1e-3]
    with pytest.raises(ValueError, match="build the network without it"):
        deepxde.optimizer(model, pl.optim.LevenbergMarquardt)
    model = make()
    model.net.noise = torch.nn.Dropout(0.1)
    with pytest.raises(ValueError, match="noise"):
        deepxde.optimizer(model, pl.optim.LevenbergMarquardt)
