"""The Hugging Face Trainer with closures, our optimizers and the monitor; random configurations, no downloads."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import precondlab as pl
from precondlab.integrations import Hosted
from precondlab.training import SpectrumMonitor

transformers = pytest.importorskip("transformers", reason="needs the extra 'huggingface'")

from precondlab.integrations import huggingface  # noqa: E402

X = torch.linspace(-1, 1, 24)[:, None]


class Fit(torch.nn.Module):
    """sin 3x by a network, with its loss, as the Trainer wants models."""

    def __init__(self, width=8, dropout=0.0, factor=1.0):
        super().__init__()
        layers = [torch.nn.Linear(1, width), torch.nn.Tanh(), torch.nn.Linear(width, 1)]
        self.net = torch.nn.Sequential(*layers, *[torch.nn.Dropout(dropout)] * bool(dropout))
        self.factor = factor

    def forward(self, x, labels):
        return {"loss": self.factor * (self.net(x) - labels).square().mean()}


def fit(seed=0, **options):
    torch.manual_seed(seed)
    return Fit(**options)


def rows(model, inputs):
    x, y = inputs["x"], inputs["labels"]
    return pl.Map.of_module(model, lambda: (model.net(x) - y) / y.numel() ** 0.5)


def bert(dropout=0.0):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        **{
            "vocab_size": 20,
            "max_position_embeddings": 8,
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
        **{"intermediate_size": 12, "hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout},
    )
    return transformers.BertForSequenceClassification(config)


def words(count=8):
    ids = torch.randint(0, 20, (count, 5), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": (row.sum() % 2)} for row in ids]


def curve():
    return [{"x": x, "labels": torch.sin(3 * x)} for x in X]


class Record(transformers.TrainerCallback):
    def __init__(self):
        self.steps = 0

    def on_optimizer_step(self, *_, **__):
        self.steps += 1


def trainer(tmp_path, model, data, optimizer=None, *, steps=6, cls=huggingface.Trainer, **options):
    quiet = {"disable_tqdm": True, "report_to": [], "use_cpu": True, "save_strategy": "no", "logging_steps": 1}
    own = {name: options.pop(name) for name in ("residual", "callbacks") if name in options}
    args = transformers.TrainingArguments(
        **{"output_dir": str(tmp_path), "max_steps": steps, "per_device_train_batch_size": len(data)},
        **{"lr_scheduler_type": "constant", **quiet, **options},
    )
    return cls(model=model, args=args, train_dataset=data, optimizers=(optimizer, None), **own)


def hosted(tmp_path, model, method=pl.optim.LevenbergMarquardt, options=None, **more):
    return trainer(
        tmp_path, model, curve(), Hosted(model.parameters(), method, **(options or {})), residual=rows, **more
    )


def parameters(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def losses(run):
    return [entry["loss"] for entry in run.state.log_history if "loss" in entry]


def test_lbfgs_gets_the_closure_it_needs(tmp_path):
    model, twin = fit(), fit()
    run = trainer(
        tmp_path, model, curve(), torch.optim.LBFGS(model.parameters(), lr=0.5), callbacks=[count := Record()]
    )
    run.train()
    assert run.state.global_step == count.steps == len(losses(run)) == 6
    alone = torch.optim.LBFGS(twin.parameters(), lr=0.5)

    def closure():
        alone.zero_grad()
        loss = twin(X, torch.sin(3 * X))["loss"]
        loss.backward()
        return loss

    expected = [alone.step(closure).item() for _ in range(2)]
    np.testing.assert_allclose(losses(run)[:2], expected, rtol=1e-3)  # rounded for the log, rows shuffled
    assert losses(run)[-1] < 0.1 * losses(run)[0]


def test_a_transformer_trains_with_a_closure(tmp_path):
    model = bert()
    run = trainer(tmp_path, model, words(), torch.optim.LBFGS(model.parameters(), lr=0.5))
    run.train()
    assert losses(run)[-1] < 0.5 * losses(run)[0]


@pytest.mark.parametrize(
    ("method", "options", "factor"),
    [(pl.optim.LevenbergMarquardt, {}, 0.1), (pl.optim.GradientDescent, {"lr": 0.02}, 1.0)],
)
def test_the_loss_decreases_by_the_optimizers_own_steps(tmp_path, method, options, factor):
    model, twin = fit(), fit()
    run = hosted(tmp_path, model, method, options, callbacks=[count := Record()], steps=20, dataloader_drop_last=True)
    run.train()
    assert run.state.global_step == count.steps == 20
    assert losses(run)[-1] < factor * losses(run)[0]
    y = torch.sin(3 * X)
    assert losses(run)[0] == pytest.approx(rows(twin, {"x": X, "labels": y}).value.square().sum().item(), rel=1e-3)


def test_residual_jacobian_agrees_with_finite_differences():
    model = fit().double()
    r = rows(model, {"x": X.double(), "labels": torch.sin(3 * X.double())})
    theta, v, h = r.domain.ravel(r.params).detach(), r.domain.random(), 1e-5
    difference = (r(theta + h * v) - r(theta - h * v)) / (2 * h)
    assert (pl.Jacobian(r) @ v - difference).norm() <= 1e-8 * difference.norm()


@pytest.mark.parametrize("method", [pl.optim.LevenbergMarquardt, pl.optim.GradientDescent])
def test_a_checkpoint_continues_bit_for_bit(tmp_path, method):
    def run(model, **options):
        run = hosted(tmp_path, model, method, save_strategy="steps", save_steps=3, **options)
        watch = SpectrumMonitor(lambda model: rows(model, batch), every=2, budget=float("inf"), num_matvecs=5)
        run.add_callback(huggingface.Monitor(watch, run))
        return run, watch

    batch = {"x": X, "labels": torch.sin(3 * X)}
    whole, first = run(model := fit())
    whole.train()
    rest, second = run(twin := fit(seed=5))
    rest.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert torch.equal(parameters(model), parameters(twin))
    for one, other in zip(first.history, second.history, strict=True):
        assert {**one, "overhead": 0} == {**other, "overhead": 0}


def test_the_monitor_logs_the_curvature_of_a_transformer_and_leaves_the_training_alone(tmp_path):
    def loss(logits, batch):
        return cross_entropy(logits, batch["labels"])

    batch = {name: torch.stack([row[name] for row in words()]) for name in words()[0]}
    watch = SpectrumMonitor(lambda model: pl.GGN(model, loss, batch), every=2, budget=float("inf"), num_matvecs=20)
    runs = []
    for watched in (True, False):
        model = bert(dropout=0.1)
        run = trainer(tmp_path, model, words(), cls=transformers.Trainer, steps=5)
        if watched:
            first = pl.GGN(model.eval(), loss, batch)
            expected = torch.linalg.eigvalsh(first.dense())[-1].item()
            run.add_callback(huggingface.Monitor(watch, run))
        run.train()
        runs.append((model, run))
    assert torch.equal(parameters(runs[0][0]), parameters(runs[1][0]))
    assert [record["step"] for record in watch.history] == [0, 2, 4]
    assert watch.history[0]["lambda_max"] == pytest.approx(expected, rel=1e-3)
    logged = [entry for entry in runs[0][1].state.log_history if "lambda_max" in entry]
    assert [entry["step"] for entry in logged] == [0, 2, 4]
    names = ("lambda_max", "lambda_min", "condition_number", "effective_rank", "drift")
    assert all(
        entry[name] == record[name] for entry, record in zip(logged, watch.history, strict=True) for name in names
    )
    assert all(np.isfinite(entry["drift"]) for entry in logged)


def test_the_hessian_of_the_models_own_loss_is_monitored(tmp_path):
    batch = {name: torch.stack([row[name] for row in words()]) for name in words()[0]}
    watch = SpectrumMonitor(
        lambda model: pl.Hessian.of_model(model, lambda outputs, _: outputs.loss, batch), every=1, budget=float("inf")
    )
    model = bert()
    run = trainer(tmp_path, model, words(), steps=2, learning_rate=1e-3)
    run.add_callback(huggingface.Monitor(watch, run))
    run.train()
    assert len(watch.history) == 2 and watch.history[0]["lambda_max"] > 0 and watch.history[1]["drift"] > 0


def test_mistakes_change_nothing(tmp_path):
    with pytest.raises(ValueError, match="gradient_accumulation_steps=1"):
        trainer(tmp_path, fit(), curve(), gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="set the dropout probabilities"):
        trainer(tmp_path, bert(dropout=0.1), words())
    model = fit(factor=2.0)
    run = hosted(tmp_path, model)
    before = []
    run.add_callback(Before(model, before))
    with pytest.raises(ValueError, match="the host's loss is"):
        run.train()
    assert torch.equal(before[-1], parameters(model))
    narrow = hosted(tmp_path, fit(width=5), steps=1)
    narrow.train()
    model = fit()
    before = parameters(model)
    with pytest.raises(ValueError, match="its shapes is"):
        Hosted(model.parameters(), pl.optim.LevenbergMarquardt).load_state_dict(narrow.optimizer.state_dict())
    assert torch.equal(before, parameters(model))


class Before(transformers.TrainerCallback):
    """Keeps the parameters before every step."""

    def __init__(self, model, kept):
        self.model, self.kept = model, kept

    def on_pre_optimizer_step(self, *_, **__):
        self.kept.append(parameters(self.model))
