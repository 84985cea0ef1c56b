"""Monitor measures what a hand-written step computes, changes nothing, and reports planted faults only."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from src import UserError
from src.callbacks import EMA, GradientCheckpointing, MicroBatches, Monitor
from src.cli import main
from src.tasks import Task
from tests.callbacks.conftest import QUIET
from tests.conftest import SMALL, rows, same, weights

pytestmark = pytest.mark.filterwarnings("ignore:.*logging interval")
RUN = Path("runs/digits/version_0")


class Recorder(Logger):
    """Keep what is logged in each step."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}

    name, version = "recorder", 0

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.rows.setdefault(step, {}).update(metrics)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


class BasicBlock(nn.Sequential):
    """A block that GradientCheckpointing recomputes."""


class Net(LightningModule):
    def __init__(self, net: nn.Module | None = None, lr: float = 0.1, manual: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        block = BasicBlock(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.net = net or nn.Sequential(block, nn.Dropout(0.2), nn.Flatten(), nn.Linear(144, 3), nn.Tanh())
        self.lr, self.automatic_optimization = lr, not manual

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        loss = cross_entropy(self.net(batch[0]), batch[1])
        if not self.automatic_optimization:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def loss_weight(self, batch: tuple[Tensor, Tensor]) -> int:
        return len(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def data(count: int = 96) -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    images, targets = torch.randn(count, 1, 8, 8, generator=generator), torch.arange(count) % 3
    return DataLoader([*zip(images, targets, strict=True)], batch_size=24)


def fit(model: LightningModule, *callbacks: Callback, epochs: int = 2, **settings: Any) -> dict[int, dict[str, float]]:
    recorder = Recorder()
    torch.manual_seed(2)
    quiet = QUIET | {"logger": recorder, "log_every_n_steps": 1} | settings
    Trainer(max_epochs=epochs, callbacks=[*callbacks], **quiet).fit(model, data())
    return recorder.rows


def test_statistics_are_those_of_a_step_written_by_hand() -> None:
    block = BasicBlock(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    model = Net(nn.Sequential(block, nn.Flatten(), nn.Linear(144, 3), nn.Tanh()))
    plain, before = copy.deepcopy(model.net), copy.deepcopy(dict(model.named_parameters()))
    row = fit(model, Monitor(every_n_steps=1), max_steps=1)[0]
    images, targets = next(iter(data()))
    conv, norm, _ = plain[0]
    convolved = conv(images)
    normed = norm(convolved)
    logits = plain[2](normed.relu().flatten(1))
    cross_entropy(logits.tanh(), targets).backward()
    expected: dict[str, float] = {}
    outputs = {"0.0": convolved, "0.1": normed, "0.2": normed.relu(), "2": logits, "3": logits.tanh()}
    for name, each in outputs.items():
        expected[f"activation_mean/net.{name}"] = each[:16].mean().item()
        expected[f"activation_std/net.{name}"] = each[:16].std(correction=0).item()
    expected["activation_zeros/net.0.2"] = (normed[:16] <= 0).float().mean().item()
    expected["activation_saturation/net.3"] = (logits[:16].tanh().abs() >= 0.97).float().mean().item()
    expected["activation_zeros/net.3"] = 0.0
    for name, layer in (("0.0", conv), ("0.1", norm), ("2", plain[2])):
        gradient = torch.cat([p.grad.flatten() for p in layer.parameters()])
        old = torch.cat([before[f"net.{name}.{each}"].flatten() for each in ("weight", "bias")])
        new = torch.cat([dict(model.named_parameters())[f"net.{name}.{each}"].flatten() for each in ("weight", "bias")])
        expected[f"gradient_norm/net.{name}"] = gradient.norm().item()
        expected[f"weight_norm/net.{name}"] = old.norm().item()
        expected[f"update_ratio/net.{name}"] = ((new - old).norm() / old.norm()).item()
    assert {name: value for name, value in row.items() if "/" in name} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert row["memory_mib"] > 10


VARIANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (list, {}),
    "bf16": (list, {"precision": "bf16-mixed"}),
    "accumulate": (list, {"accumulate_grad_batches": 3}),
    "micro_batches": (lambda: [MicroBatches(3)], {}),
    "ema": (lambda: [EMA(0.9)], {}),
    "checkpointing": (lambda: [GradientCheckpointing()], {}),
    "clip": (list, {"gradient_clip_val": 0.1}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_are_the_same_bit_for_bit(name: str) -> None:
    others, settings = VARIANTS[name]
    plain, watched = Net(), Net()
    fit(plain, *others(), **settings)
    found = fit(watched, Monitor(every_n_steps=2, histograms=1), *others(), **settings)
    assert same(dict(plain.state_dict()), dict(watched.state_dict()))
    steps = 4 if name == "accumulate" else 8
    measured = [step for step, row in found.items() if "gradient_norm/net.3" in row and "activation_std/net.0.2" in row]
    assert measured == [*range(0, steps, 2)]
    assert not any(each._forward_hooks for each in watched.modules())


def test_manual_optimization_and_channels_last_are_measured() -> None:
    plain, watched = (Net(manual=True).to(memory_format=torch.channels_last) for _ in range(2))
    fit(plain)
    found = fit(watched, Monitor(every_n_steps=1))
    assert same(dict(plain.state_dict()), dict(watched.state_dict()))
    assert all(found[step]["update_ratio/net.3"] > 0 for step in range(8))


def test_gradients_of_accumulated_and_split_batches_are_those_of_the_whole() -> None:
    net = linear()
    whole = fit(Net(copy.deepcopy(net)), Monitor(1), max_steps=1)
    split = fit(Net(copy.deepcopy(net)), Monitor(1), MicroBatches(3), max_steps=1)
    assert split[0]["gradient_norm/net.1"] == pytest.approx(whole[0]["gradient_norm/net.1"], rel=1e-5)


class CountHooks(Callback):
    def __init__(self) -> None:
        self.counts: list[int] = []

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:  # noqa: ARG002
        self.counts.append(sum(len(each._forward_hooks) for each in pl_module.modules()))


def test_no_step_between_two_measurements_has_a_hook() -> None:
    counter = CountHooks()
    fit(Net(), Monitor(every_n_steps=4), counter)
    assert [bool(count) for count in counter.counts] == [True, False, False, False] * 2


@pytest.mark.heavy
def test_a_compiled_model_is_named_and_its_gradients_are_watched() -> None:
    model = Net(linear())
    model.net.compile(backend="eager")
    torch._dynamo.reset()
    fit(model, max_steps=1)
    with pytest.warns(UserWarning, match="Monitor saw no output of a layer, as in a compiled model"):
        found = fit(model, Monitor(every_n_steps=2))
    assert found[2]["update_ratio/net.1"] > 0
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def deep(activation: type[nn.Module], layers: int) -> nn.Sequential:
    hidden = [each for _ in range(layers) for each in (nn.Linear(64, 64), activation())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, 3))


def linear() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def dead() -> LightningModule:
    net = deep(nn.ReLU, 2)
    nn.init.constant_(net[3].bias, -100.0)
    return Net(net)


def saturated() -> LightningModule:
    net = deep(nn.Tanh, 2)
    nn.init.normal_(net[1].weight, std=4)
    return Net(net, lr=1e-3)


class Disturbed(Net):
    """Multiply the loss from step 5 on."""

    factor = 1.0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) * (self.factor if self.global_step >= 5 else 1)


class Diverging(Net):
    """Minimize a square by steps that are too long, so that the weights grow by a factor in each."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        return self.net(batch[0]).square().mean()


def disturbed(factor: float) -> LightningModule:
    model = Disturbed(lr=1e-9 if factor > 1 else 1e-3)
    model.factor = factor
    return model


PLANTED: dict[str, tuple[Any, str]] = {
    "dead": (dead, r"epoch 1, step 2: net\.4: dead units: 64 of 64 units were 0"),
    "saturated": (saturated, r"epoch 1, step 2: net\.2: saturated: 9\d% of its outputs are at a limit"),
    "deep": (lambda: Net(deep(nn.Sigmoid, 9)), r"epoch 1, step 2: net\.1: vanishing gradient: gradient \d\.\de-\d+ of"),
    "vanishing": (lambda: disturbed(1e-6), r"epoch 2, step 7: net\.0\.0: vanishing gradient: gradient norm \d\.\de-0"),
    "exploding": (lambda: disturbed(1e6), r"epoch 2, step 5: net\.0\.0: exploding gradient: gradient norm \d\.\de\+0"),
    "slow": (lambda: Net(lr=1e-12), r"epoch 1, step 2: net\.0\.0: hardly changes: update at most "),
    "fast": (lambda: Diverging(linear(), lr=10.0), r"epoch 1, step 2: net\.1: changes too fast: update \d\.\de\S+ of"),
}


@pytest.mark.filterwarnings("ignore:epoch")
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_reported_once_with_layer_and_epoch(name: str) -> None:
    build, text = PLANTED[name]
    model = build()
    with pytest.warns(UserWarning, match="epoch") as caught:
        fit(model, Monitor(every_n_steps=1))
    lines = [str(each.message) for each in caught]
    kind = text.split(": ")[2].split(":")[0]
    assert [bool(re.match(text, line)) for line in lines if kind in line] == [True], lines


def test_a_resumed_run_measures_as_if_uninterrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    args = ["fit", *SMALL, "--trainer.max_epochs=2", "--last.every_n_steps=5", "--test=false"]
    args += ["--trainer.callbacks+=src.callbacks.Monitor", "--trainer.callbacks.every_n_steps=4"]
    main(args)

    def interrupt(self: Task, *_: object) -> None:
        if self.global_step == 27:
            raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(Task, "on_before_zero_grad", interrupt)
        with pytest.raises(InterruptedError):
            main(args)
    main(["fit", "--run=runs/digits/version_1"])
    runs = [RUN.with_name(f"version_{i}") for i in range(2)]
    assert same(weights(runs[0]), weights(runs[1]))
    states = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["callbacks"]["Monitor"] for run in runs]
    assert same(*states)
    once, twice = ([row for row in rows(run) if row["update_ratio/net.1"]] for run in runs)
    assert once == twice
    assert [int(row["step"]) for row in once] == [*range(0, 42, 4)]
    assert not (RUN / "monitor.json").exists()  # no fault is found


def test_faults_are_kept_in_the_run_folder() -> None:
    args = [
        "--trainer.callbacks+=src.callbacks.Monitor",
        "--trainer.callbacks.every_n_steps=4",
        "--trainer.max_epochs=1",
    ]
    with pytest.warns(UserWarning, match="hardly changes"):
        main(["fit", *SMALL, *args, "--model.optimizer.lr=1e-12", "--test=false"])
    found = json.loads((RUN / "monitor.json").read_text(encoding="utf-8"))
    assert {"epoch": 1, "step": 8, "layer": "net.1", "kind": "slow"}.items() <= found[0].items()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"every_n_steps": 0}, "every_n_steps must be at least 1, got 0"),
        ({"histograms": -1}, "histograms must be at least 0, got -1"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, int], text: str) -> None:
    with pytest.raises(UserError, match=text):
        Monitor(**settings)
