"""Weights are noisy while gradients are computed, true whenever anything else looks at them."""

from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from src.callbacks import WeightNoise
from src.cli import main

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*returned `None`"
)
LR = 0.1


class CutOffError(Exception):
    """Stands for a machine that is switched off."""


class Net(LightningModule):
    """Remembers the weights that it saw, and the gradients that it got at them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
        self.seen: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:  # noqa: ARG002
        self.seen.append(copied(self))
        return self.net(batch).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:  # noqa: ARG002
        self.validated.append(copied(self))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=LR)


class Steps(Callback):
    """Remembers weights before and after each step, and the gradients between."""

    def __init__(self) -> None:
        self.before: list[dict[str, Tensor]] = []
        self.gradients: list[dict[str, Tensor]] = []
        self.after: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:  # noqa: ARG002
        self.before.append(copied(pl_module))
        self.gradients.append({name: p.grad.clone() for name, p in pl_module.named_parameters()})

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:  # noqa: ARG002
        self.after.append(copied(pl_module))


class SavedOnError(Checkpoint):
    def on_exception(self, trainer: Trainer, *args: Any) -> None:  # noqa: ARG002
        trainer.save_checkpoint("last.ckpt")


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def fit(model: Net, *callbacks: Callback, **settings: Any) -> Trainer:
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(accelerator="cpu", max_epochs=1, callbacks=list(callbacks), **off | settings)
    torch.manual_seed(1)
    batches = DataLoader(torch.randn(12, 6), batch_size=3)
    trainer.fit(model, batches, batches)
    return trainer


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_those_at_noisy_weights_and_steps_start_from_the_true_ones(precision):
    model, steps = Net(), Steps()
    start = copied(model)
    fit(model, steps, WeightNoise(0.1), precision=precision)
    for step, before in enumerate([start, *steps.after[:3]]):
        assert same(steps.before[step], before)
        noisy = {name for name, p in model.seen[step].items() if not p.equal(before[name])}
        assert noisy == {"net.0.weight", "net.2.weight"}
        for name, p in steps.after[step].items():
            assert p.equal(before[name].add(steps.gradients[step][name], alpha=-LR))
    assert all(same(weights, steps.after[-1]) for weights in model.validated[2:])  # two are of the sanity check
    net = Net().net
    net.load_state_dict({name.removeprefix("net."): p for name, p in model.seen[0].items()}, strict=False)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision != "32-true"):
        torch.manual_seed(1)
        net(torch.randn(12, 6)[:3]).square().mean().backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, steps.gradients[0][f"net.{name}"])


def test_each_batch_of_an_accumulation_has_noise_of_its_own():
    model, steps = Net(), Steps()
    start = copied(model)
    fit(model, WeightNoise(0.1), steps, accumulate_grad_batches=2)
    assert len(steps.before) == 2
    assert same(steps.after[0], start)
    assert same(steps.before[0], start)
    noise = [seen["net.0.weight"] - start["net.0.weight"] for seen in model.seen[:2]]
    assert not torch.isclose(*noise).any()


@pytest.mark.parametrize("skipped", [0, 1])
def test_a_batch_without_loss_leaves_the_step_to_the_others(monkeypatch, skipped):
    model, steps = Net(), Steps()
    start, step = copied(model), model.training_step
    monkeypatch.setattr(
        model, "training_step", lambda batch, batch_idx: step(batch, batch_idx) if batch_idx % 2 != skipped else None
    )
    fit(model, WeightNoise(0.1), steps, accumulate_grad_batches=2)
    assert same(steps.after[0], start)
    for name, p in steps.after[1].items():
        assert p.equal(start[name].add(steps.gradients[0][name], alpha=-LR))


def test_noise_is_normal_and_relative_to_the_size_of_each_weight():
    model = nn.Sequential(nn.Linear(200, 200), nn.Linear(200, 200)).requires_grad_()
    nn.init.constant_(model[0].weight, 2.0)
    nn.init.normal_(model[1].weight, std=0.01)
    before = copied(model)
    torch.manual_seed(0)
    noise = WeightNoise(0.25)
    noise.on_train_batch_start(None, model)
    for name, size in (("0.weight", 2.0), ("1.weight", 0.01)):
        drawn = (model.get_parameter(name) - before[name]).flatten() / (0.25 * size)
        assert drawn.mean().abs() < 0.02  # 4 standard deviations of the mean
        assert drawn.std().item() == pytest.approx(1, abs=0.02)
        assert (drawn.abs() < 1).float().mean().item() == pytest.approx(0.6827, abs=0.01)
    noise.restore()
    assert same(copied(model), before)


def test_frozen_weights_stay():
    model = Net()
    model.net[0].requires_grad_(False)
    start = copied(model)
    fit(model, WeightNoise(0.1))
    assert all(seen["net.0.weight"].equal(start["net.0.weight"]) for seen in model.seen)
    assert not model.seen[0]["net.2.weight"].equal(start["net.2.weight"])


def test_no_noise_changes_nothing():
    plain, silent = Net(), Net()
    fit(plain)
    fit(silent, WeightNoise(0))
    assert same(copied(plain), copied(silent))


@pytest.mark.parametrize("where", ["training_step", "on_before_zero_grad", "backward"])
def test_after_an_error_the_weights_are_true_and_nothing_noisy_is_saved(monkeypatch, where):
    def fail(*_: Any) -> None:
        raise CutOffError

    model = Net()
    start = copied(model)
    monkeypatch.setattr(model, where, fail)
    with pytest.raises(CutOffError):
        fit(model, SavedOnError(), WeightNoise(0.1), enable_checkpointing=True)
    assert same(copied(model), start)
    saved = torch.load("last.ckpt", weights_only=True)["state_dict"]
    assert same(start, saved)


def test_where_no_step_is_made_the_weights_are_true_again(monkeypatch):
    skipped, ended = Net(), Net()
    start = copied(skipped)
    monkeypatch.setattr(skipped, "training_step", lambda *_: None)
    fit(skipped, WeightNoise(0.1))
    assert same(copied(skipped), start)
    monkeypatch.setattr(ended, "on_train_batch_start", lambda *_: -1)
    fit(ended, WeightNoise(0.1))
    assert same(copied(ended), start)


@pytest.mark.parametrize("std", [-0.1, float("nan"), float("inf")])
def test_invalid_arguments_are_refused(std):
    with pytest.raises(ValueError, match=f"std must be at least 0, got {std}"):
        WeightNoise(std)


def test_noisy_runs_repeat_and_continue_to_the_bit(monkeypatch):
    command = [
        "fit",
        "--config=configs/digits.yaml",
        "--model.net=src.nets.MLP",
        "--model.net.image_shape=[1,8,8]",
        "--model.net.hidden_sizes=[8]",
        "--trainer.max_epochs=2",
        "--trainer.callbacks+=src.callbacks.WeightNoise",
        "--trainer.callbacks.std=0.1",
        "--trainer.callbacks+=src.callbacks.GradientNoise",
        "--last.every_n_steps=5",
        "--test=false",
    ]
    for _ in range(2):
        main(command)

    def cut(self: LightningModule, *_: Any) -> None:
        if self.global_step == 28:
            raise CutOffError

    with monkeypatch.context() as patch:
        patch.setattr("src.tasks.Task.on_before_zero_grad", cut)
        with pytest.raises(CutOffError):
            main(command)
    main(["fit", "--run=runs/digits/version_2", "--test=false"])
    whole, again, continued = (
        torch.load(f"runs/digits/version_{i}/checkpoints/last.ckpt", weights_only=True) for i in range(3)
    )
    assert whole["global_step"] == 42
    for other in (again, continued):
        assert same(whole["state_dict"], other["state_dict"])
        assert whole["optimizer_states"][0]["state"][0]["exp_avg"].equal(
            other["optimizer_states"][0]["state"][0]["exp_avg"]
        )
    main([setting for setting in command if "callbacks" not in setting])
    without = torch.load("runs/digits/version_3/checkpoints/last.ckpt", weights_only=True)
    assert not same(whole["state_dict"], without["state_dict"])
