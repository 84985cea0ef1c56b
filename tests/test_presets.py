"""Each feature of the Trainer that a preset or a setting turns on does what it says."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.accelerators import CPUAccelerator
from torch import Tensor, nn

from src.cli import main
from src.tasks import Task

FIT = [
    "fit",
    "--config=configs/digits.yaml",
    "--model.net.width=4",
    "--trainer.max_epochs=2",
    "--test=false",
]


def preset(name: str, *typed: str) -> Any:
    return main([FIT[0], FIT[1], f"--config=configs/presets/{name}.yaml", *FIT[2:], *typed])


def train_losses(version: int) -> list[float]:
    rows = csv.DictReader(Path(f"runs/digits/version_{version}/metrics.csv").read_text().splitlines())
    return [float(row["train/loss"]) for row in rows if row["train/loss"]]


@pytest.fixture
def convolved(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The outputs of all convolutions."""
    outputs: list[Tensor] = []
    forward = nn.Conv2d.forward

    def watched(self: nn.Conv2d, images: Tensor) -> Tensor:
        outputs.append(forward(self, images))
        return outputs[-1]

    monkeypatch.setattr(nn.Conv2d, "forward", watched)
    return outputs


def test_the_machine_is_found_by_itself() -> None:
    cli = main([*FIT, "--trainer.max_epochs=1"])
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert isinstance(cli.trainer.accelerator, CPUAccelerator)
    assert cli.trainer.world_size >= 1


def test_bf16_reaches_convolutions_but_not_weights(convolved: list[Tensor]) -> None:
    cli = preset("bf16", "--config=configs/presets/channels_last.yaml")
    assert {output.dtype for output in convolved if output.requires_grad} == {torch.bfloat16}
    assert all(output.is_contiguous(memory_format=torch.channels_last) for output in convolved)
    assert {p.dtype for p in cli.model.parameters()} == {torch.float32}
    losses = train_losses(0)
    assert losses[1] < losses[0]


@pytest.mark.filterwarnings("default:.*fp16 is not supported on CPU")
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can do it")
def test_fp16_falls_back_to_bf16_on_a_cpu_and_says_so(
    convolved: list[Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    preset("fp16", "--trainer.max_epochs=1")
    assert "fp16 is not supported on CPU. Using `precision='bf16-mixed'`" in capsys.readouterr().err
    assert {output.dtype for output in convolved if output.requires_grad} == {torch.bfloat16}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fp16_reaches_convolutions_but_not_weights(convolved: list[Tensor]) -> None:
    cli = preset("fp16")
    assert {output.dtype for output in convolved if output.requires_grad} == {torch.float16}
    assert {p.dtype for p in cli.model.parameters()} == {torch.float32}
    losses = train_losses(0)
    assert losses[1] < losses[0]


def test_batch_size_finds_the_largest_that_it_tries() -> None:
    cli = preset("batch_size")
    assert cli.datamodule.batch_size > 64
    config = yaml.safe_load(Path("runs/digits/version_0/config.yaml").read_text())
    assert config["data"]["init_args"]["batch_size"] == min(cli.datamodule.batch_size, 1293)  # all training samples
    main(["fit", "--run=runs/digits/version_0", "--trainer.max_epochs=3", "--test=false"])


def test_channels_last_reaches_the_convolutions(convolved: list[Tensor]) -> None:
    preset("channels_last", "--trainer.max_epochs=1")
    assert all(output.is_contiguous(memory_format=torch.channels_last) for output in convolved)
    assert not all(output.is_contiguous() for output in convolved)


def test_checkpointing_changes_no_number_and_computes_blocks_twice(convolved: list[Tensor]) -> None:
    main([*FIT, "--trainer.max_epochs=1"])
    once = len(convolved)
    preset("checkpointing", "--trainer.max_epochs=1")
    assert len(convolved) - once == once + 21 * 6  # of each of 21 steps, the six convolutions again
    assert train_losses(0) == train_losses(1)


def test_balanced_shows_small_classes_as_often_as_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    step = Task.training_step

    def watched(self: Task, batch: Any, batch_idx: int) -> Tensor:
        seen.append(batch[1].bincount(minlength=10))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Task, "training_step", watched)
    preset("balanced", "--trainer.max_epochs=1")
    assert len(seen) == 21
    assert all(counts.max() - counts.min() <= 2 for counts in seen)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixing_gives_soft_targets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    evaluate = Task.training_step

    def watched(self: Task, batch: Any, batch_idx: int) -> Tensor:
        seen.append(batch[1])
        return evaluate(self, batch, batch_idx)

    monkeypatch.setattr(Task, "training_step", watched)
    cli = preset(name)
    targets = torch.cat(seen)
    assert targets.sum(1).allclose(torch.ones(len(targets)))
    assert (targets.amax(1) > 0.01).all()
    assert (targets.amax(1) < 0.99).float().mean() > 0.3
    assert cli.trainer.callback_metrics["val/accuracy"] > 0.3
    losses = train_losses(0)
    assert losses[1] < losses[0]


def test_muon_leaves_vectors_and_the_last_layer_to_sgd() -> None:
    cli = preset("muon")
    names = {id(p): name for name, p in cli.model.net.named_parameters()}
    groups = cli.trainer.optimizers[0].param_groups
    muon = {names[id(p)] for group in groups if group["muon"] for p in group["params"]}
    assert muon == {name for name, p in cli.model.net.named_parameters() if p.ndim > 1 and not name.startswith("head")}
    losses = train_losses(0)
    assert losses[1] < losses[0]


def test_accumulate_makes_one_step_of_four_batches() -> None:
    cli = preset("accumulate")
    assert cli.trainer.global_step == 2 * math.ceil(21 / 4)


def test_clip_bounds_the_norm_of_the_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []

    def measure(_: Task, optimizer: torch.optim.Optimizer) -> None:
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.nn.utils.get_total_norm(grads)))

    monkeypatch.setattr(Task, "on_before_optimizer_step", measure)
    preset("clip", "--trainer.gradient_clip_val=null", "--trainer.max_epochs=1")
    assert max(norms) > 1
    norms.clear()
    clip = Task.configure_gradient_clipping

    def clip_and_measure(self: Task, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> None:
        clip(self, optimizer, *args, **kwargs)
        measure(self, optimizer)

    monkeypatch.setattr(Task, "on_before_optimizer_step", lambda *_: None)
    monkeypatch.setattr(Task, "configure_gradient_clipping", clip_and_measure)
    preset("clip", "--trainer.max_epochs=1")
    assert len(norms) == 21
    assert max(norms) <= 1 + 1e-5


def test_early_stopping_stops_when_the_loss_no_longer_falls() -> None:
    Path("impatient.yaml").write_text(
        "trainer:\n  callbacks+:\n    - class_path: lightning.pytorch.callbacks.EarlyStopping\n"
        "      init_args: {monitor: val/loss, patience: 1, min_delta: 100.0}\n"
    )
    assert main([*FIT[:2], "--config=impatient.yaml", *FIT[2:], "--trainer.max_epochs=9"]).trainer.current_epoch == 2
    stopper = preset("early_stopping", "--trainer.max_epochs=1").trainer.early_stopping_callback
    assert (stopper.monitor, stopper.patience) == ("val/loss", 10)


def test_the_learning_rate_is_logged() -> None:
    main([*FIT, "--trainer.log_every_n_steps=1", "--model.warmup_steps=10"])
    rows = csv.DictReader(Path("runs/digits/version_0/metrics.csv").read_text().splitlines())
    rates = [float(row["lr-AdamW/pg1"]) for row in rows if row["lr-AdamW/pg1"]]
    assert len(rates) == 42
    assert rates[:3] == pytest.approx([4e-3 / 11, 2 * 4e-3 / 11, 3 * 4e-3 / 11], rel=0.15)
    assert max(rates) == pytest.approx(4e-3)
    assert rates[-1] < 1e-4


def test_overfit_sees_the_same_few_batches_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    targets: list[Tensor] = []
    step = Task.training_step

    def watched(self: Task, batch: Any, batch_idx: int) -> Tensor:
        seen.append(float(batch[0].sum()))
        targets.append(batch[1])
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Task, "training_step", watched)
    preset("overfit")
    assert len(seen) == 2 * 10
    assert seen[:10] == seen[10:]
    assert len(set(seen)) == 10
    assert len(torch.cat(targets).unique()) == 10  # of all classes, not the first ones of a sorted set


def test_profile_writes_a_table() -> None:
    preset("profile")
    assert "run_training_batch" in Path("runs/digits/version_0/fit-profile.txt").read_text()


def test_deterministic_asks_torch_for_it_and_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(
        Task, "on_train_epoch_start", lambda _: asked.append(torch.are_deterministic_algorithms_enabled())
    )
    try:
        for _ in range(2):
            preset("deterministic")
    finally:
        torch.use_deterministic_algorithms(False)
    assert asked == [True] * 4
    assert train_losses(0) == train_losses(1)


def test_debug_runs_two_batches_of_everything_and_saves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    cli = preset("debug", "--test=true")
    assert cli.trainer.global_step == 2
    assert "test" in capsys.readouterr().out
    assert not Path("runs").exists()


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning"
)
def test_compile_compiles_the_model_and_changes_no_number() -> None:
    from torch._dynamo.utils import counters

    typed = ["--trainer.limit_train_batches=3", "--trainer.max_epochs=1"]
    main([*FIT, *typed])
    counters.clear()
    preset("compile", *typed)
    assert counters["stats"]["unique_graphs"] >= 1
    assert train_losses(1) == pytest.approx(train_losses(0), rel=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_trains_on_the_gpu() -> None:
    cli = preset("gpu")
    assert cli.trainer.strategy.root_device.type == "cuda"
    assert cli.datamodule.parts["train"].images.device.type == "cuda"
