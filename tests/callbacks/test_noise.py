"""Noise on gradients decays, the same in all processes; noise on weights is there only while gradients are computed."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from src.callbacks import GradientNoise, WeightNoise
from src.cli import main
from tests.callbacks.conftest import QUIET
from tests.conftest import SMALL, same

pytestmark = pytest.mark.filterwarnings("ignore:.*returned `None`")
LR = 0.1


class Walk(LightningModule):
    """Takes steps of size 1 along gradients of zero, so that each step is the negative noise."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.idle = nn.Parameter(torch.zeros(100, 100)), nn.Parameter(torch.zeros(3))
        self.steps: list[Tensor] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002
        return (self.weight * 0).sum()

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:  # noqa: ARG002
        self.steps.append(self.weight.detach().clone())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_variance_decays_with_optimizer_steps(accumulate):
    noise = GradientNoise(0.3, 0.8)
    trainer = Trainer(max_steps=20, accumulate_grad_batches=accumulate, callbacks=[noise], **QUIET)
    torch.manual_seed(0)
    model = Walk()
    trainer.fit(model, DataLoader(torch.zeros(40), batch_size=1))
    steps = torch.stack([*model.steps, model.weight.detach()]).diff(dim=0)
    expected = torch.tensor([0.3 / (1 + t) ** 0.8 for t in range(20)]).sqrt()
    torch.testing.assert_close(steps.std((1, 2)), expected, rtol=0.03, atol=0)  # 4 standard deviations
    assert ((steps.mean((1, 2)) / expected).abs() < 0.04).all()
    assert ((steps.abs() < expected[:, None, None]).float().mean((1, 2)) - 0.6827).abs().max() < 0.02
    assert steps.flatten(1).corrcoef().fill_diagonal_(0).abs().max() < 0.05
    assert model.idle.grad is None


def add_noise(callback: GradientNoise, step: int = 3, dtype: torch.dtype = torch.float) -> Tensor:
    """Return the noise of a step."""
    p = nn.Parameter(torch.zeros(50, dtype=dtype))
    p.grad = torch.zeros_like(p)
    module, optimizer = SimpleNamespace(device="cpu"), torch.optim.SGD([p], lr=1)
    callback.on_before_optimizer_step(SimpleNamespace(global_step=step), module, optimizer)
    assert p.grad.dtype == dtype
    return p.grad


def set_up(seed: int, rank_zero_seed: int | None = None) -> GradientNoise:
    """Return the callback of a process, whose generators have a seed, in a run with another seed in process 0."""
    torch.manual_seed(seed)
    strategy = SimpleNamespace(broadcast=lambda own: own if rank_zero_seed is None else rank_zero_seed)
    callback = GradientNoise()
    callback.setup(SimpleNamespace(strategy=strategy), None, "fit")
    return callback


def test_noise_depends_on_the_seed_and_the_step_alone():
    callback = set_up(1)
    noise = add_noise(callback)
    torch.rand(3)
    assert add_noise(callback).equal(noise)
    assert add_noise(set_up(1)).equal(noise)
    assert not add_noise(callback, step=4).isclose(noise).any()
    callback = set_up(2**32 - 1)  # the largest seed that Lightning accepts
    assert not add_noise(callback).isclose(noise).any()
    assert add_noise(callback, dtype=torch.bfloat16).isfinite().all()


def test_a_run_from_a_config_uses_its_seed():
    args = ["--trainer.callbacks+=src.callbacks.GradientNoise", "--trainer.fast_dev_run=1", "--seed_everything=7"]
    callbacks = main(["fit", *SMALL, *args]).trainer.callbacks
    assert [callback.seed for callback in callbacks if isinstance(callback, GradientNoise)] == [7]


def test_every_process_adds_the_noise_of_process_zero():
    assert add_noise(set_up(2, rank_zero_seed=1)).equal(add_noise(set_up(1)))


def test_a_resumed_run_keeps_the_seed_of_its_noise():
    callback = set_up(2)
    callback.load_state_dict(set_up(1).state_dict())
    assert add_noise(callback).equal(add_noise(set_up(1)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eta": -1}, "eta must be at least 0, got -1"),
        ({"gamma": -0.5}, "gamma must be at least 0, got -0.5"),
        ({"gamma": float("nan")}, "gamma must be at least 0, got nan"),
    ],
)
def test_an_invalid_argument_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GradientNoise(**arguments)


class SwitchedOffError(Exception):
    """Stands for a machine that is switched off."""


class Net(LightningModule):
    """Records the weights in each training and validation step."""

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
    """Records the weights before and after each step, and its gradients."""

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
    trainer = Trainer(max_epochs=1, callbacks=list(callbacks), **QUIET | settings)
    torch.manual_seed(1)
    batches = DataLoader(torch.randn(12, 6), batch_size=3)
    trainer.fit(model, batches, batches)
    return trainer


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_use_noisy_weights_and_steps_start_from_the_originals(precision):
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


def test_each_accumulated_batch_has_its_own_noise():
    model, steps = Net(), Steps()
    start = copied(model)
    fit(model, WeightNoise(0.1), steps, accumulate_grad_batches=2)
    assert len(steps.before) == 2
    assert same(steps.after[0], start)
    assert same(steps.before[0], start)
    noise = [seen["net.0.weight"] - start["net.0.weight"] for seen in model.seen[:2]]
    assert not torch.isclose(*noise).any()


@pytest.mark.parametrize("skipped", [0, 1])
def test_a_batch_without_loss_does_not_disturb_accumulation(monkeypatch, skipped):
    model, steps = Net(), Steps()
    start, step = copied(model), model.training_step
    monkeypatch.setattr(
        model, "training_step", lambda batch, batch_idx: step(batch, batch_idx) if batch_idx % 2 != skipped else None
    )
    fit(model, WeightNoise(0.1), steps, accumulate_grad_batches=2)
    assert same(steps.after[0], start)
    for name, p in steps.after[1].items():
        assert p.equal(start[name].add(steps.gradients[0][name], alpha=-LR))


def test_noise_is_normal_and_relative_to_the_size_of_each_tensor():
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


def test_frozen_weights_get_no_noise():
    model = Net()
    model.net[0].requires_grad_(False)
    start = copied(model)
    fit(model, WeightNoise(0.1))
    assert all(seen["net.0.weight"].equal(start["net.0.weight"]) for seen in model.seen)
    assert not model.seen[0]["net.2.weight"].equal(start["net.2.weight"])


def test_a_std_of_zero_changes_nothing():
    plain, silent = Net(), Net()
    fit(plain)
    fit(silent, WeightNoise(0))
    assert same(copied(plain), copied(silent))


@pytest.mark.parametrize("where", ["training_step", "on_before_zero_grad", "backward"])
def test_an_error_restores_the_weights_before_they_are_saved(monkeypatch, where):
    def fail(*_: Any) -> None:
        raise SwitchedOffError

    model = Net()
    start = copied(model)
    monkeypatch.setattr(model, where, fail)
    with pytest.raises(SwitchedOffError):
        fit(model, SavedOnError(), WeightNoise(0.1), enable_checkpointing=True)
    assert same(copied(model), start)
    saved = torch.load("last.ckpt", weights_only=True)["state_dict"]
    assert same(start, {name: saved[name] for name in start})


def test_a_skipped_step_or_epoch_restores_the_weights(monkeypatch):
    skipped, ended = Net(), Net()
    start = copied(skipped)
    monkeypatch.setattr(skipped, "training_step", lambda *_: None)
    fit(skipped, WeightNoise(0.1))
    assert same(copied(skipped), start)
    monkeypatch.setattr(ended, "on_train_batch_start", lambda *_: -1)
    fit(ended, WeightNoise(0.1))
    assert same(copied(ended), start)


@pytest.mark.parametrize("std", [-0.1, float("nan"), float("inf")])
def test_an_invalid_std_is_refused(std):
    with pytest.raises(ValueError, match=f"std must be at least 0, got {std}"):
        WeightNoise(std)


@pytest.mark.heavy
def test_noisy_runs_repeat_and_resume_bit_for_bit(monkeypatch):
    noise = ["--trainer.callbacks+=src.callbacks.WeightNoise", "--trainer.callbacks.std=0.1"]
    noise += ["--trainer.callbacks+=src.callbacks.GradientNoise"]
    command = ["fit", *SMALL, "--trainer.max_epochs=2", "--last.every_n_steps=5", "--test=false"]
    for _ in range(2):
        main([*command, *noise])

    def interrupt(self: LightningModule, *_: Any) -> None:
        if self.global_step == 28:
            raise SwitchedOffError

    with monkeypatch.context() as patch:
        patch.setattr("src.tasks.Task.on_before_zero_grad", interrupt)
        with pytest.raises(SwitchedOffError):
            main([*command, *noise])
    main(["fit", "--run=runs/digits/version_2", "--test=false"])
    main(command)
    one, two, resumed, without = (
        torch.load(f"runs/digits/version_{i}/checkpoints/last.ckpt", weights_only=True) for i in range(4)
    )
    assert one["global_step"] == 42
    for other in (two, resumed):
        assert same(one["state_dict"], other["state_dict"])
        assert same(one["optimizer_states"][0]["state"], other["optimizer_states"][0]["state"])
    assert not same(one["state_dict"], without["state_dict"])
