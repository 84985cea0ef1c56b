"""Each preset does what its comment says; those that are not here are tested with the code they configure."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn

from src.cli import main
from src.tasks import Task
from tests.conftest import FIT, SMALL, rows, weights

RUNS = Path("runs/digits")
STEPS = 21  # per epoch


def fit(preset: str, *args: str) -> Any:
    return main([*FIT, f"--config=configs/presets/{preset}.yaml", *args])


def train_losses(version: int) -> list[float]:
    return [float(row["train/loss"]) for row in rows(RUNS / f"version_{version}") if row["train/loss"]]


def assert_it_learns() -> None:
    first, *_, last = train_losses(0)
    assert last < first


@pytest.fixture
def convolved(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return the outputs of all convolutions."""
    outputs: list[Tensor] = []
    forward = nn.Conv2d.forward

    def watched(self: nn.Conv2d, images: Tensor) -> Tensor:
        outputs.append(forward(self, images))
        return outputs[-1]

    monkeypatch.setattr(nn.Conv2d, "forward", watched)
    return outputs


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return all training batches."""
    seen: list[Any] = []
    step = Task.training_step

    def watched(self: Task, batch: Any, batch_idx: int) -> Tensor:
        seen.append(batch)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Task, "training_step", watched)
    return seen


def test_without_a_preset_lightning_selects_the_device() -> None:
    trainer = main([*FIT, "--trainer.max_epochs=1"]).trainer
    if not torch.backends.mps.is_available():
        assert isinstance(trainer.accelerator, CPUAccelerator)
    assert trainer.world_size >= 1


@pytest.mark.heavy
def test_without_a_preset_the_learning_rate_is_logged() -> None:
    main([*FIT, "--trainer.log_every_n_steps=1", "--model.warmup_steps=10"])
    rates = [float(row["lr-AdamW/pg1"]) for row in rows(RUNS / "version_0") if row["lr-AdamW/pg1"]]
    assert len(rates) == 2 * STEPS
    assert rates[:3] == pytest.approx([4e-3 / 11, 2 * 4e-3 / 11, 3 * 4e-3 / 11], rel=0.15)
    assert max(rates) == pytest.approx(4e-3)
    assert rates[-1] < 1e-4


def test_accumulate_takes_one_step_for_four_batches() -> None:
    assert fit("accumulate").trainer.global_step == 2 * math.ceil(STEPS / 4)


def test_balanced_samples_all_classes_equally_often(batches: list[Any]) -> None:
    fit("balanced", "--trainer.max_epochs=1")
    assert len(batches) == STEPS
    for _, targets in batches:
        counts = targets.bincount(minlength=10)
        assert counts.max() - counts.min() <= 2


@pytest.mark.heavy
def test_batch_size_finds_the_largest_that_it_tries() -> None:
    data = fit("batch_size").data
    assert data.batch_size > 64
    config = yaml.safe_load((RUNS / "version_0/config.yaml").read_text(encoding="utf-8"))
    assert config["data"]["init_args"]["batch_size"] == min(data.batch_size, 1293)  # all training samples
    main(["fit", f"--run={RUNS}/version_0", "--trainer.max_epochs=3", "--test=false"])


def test_bf16_applies_to_convolutions_but_not_to_weights(convolved: list[Tensor]) -> None:
    task = fit("bf16", "--config=configs/presets/channels_last.yaml").task
    assert {output.dtype for output in convolved if output.requires_grad} == {torch.bfloat16}
    assert all(output.is_contiguous(memory_format=torch.channels_last) for output in convolved)
    assert {p.dtype for p in task.parameters()} == {torch.float32}
    assert_it_learns()


def test_channels_last_applies_to_convolutions(convolved: list[Tensor]) -> None:
    fit("channels_last", "--trainer.max_epochs=1")
    assert all(output.is_contiguous(memory_format=torch.channels_last) for output in convolved)
    assert not all(output.is_contiguous() for output in convolved)


def test_checkpointing_recomputes_blocks_and_changes_no_number(convolved: list[Tensor]) -> None:
    main([*FIT, "--trainer.max_epochs=1"])
    once = len(convolved)
    fit("checkpointing", "--trainer.max_epochs=1")
    assert len(convolved) - once == once + 6 * STEPS  # the net has six convolutions
    assert train_losses(0) == train_losses(1)


def test_clip_bounds_the_norm_of_the_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: dict[str, list[float]] = {"before": [], "after": []}

    def measure(optimizer: torch.optim.Optimizer) -> float:
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        return float(torch.nn.utils.get_total_norm(grads))

    clip = Task.configure_gradient_clipping

    def watched(self: Task, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> None:
        norms["before"].append(measure(optimizer))
        clip(self, optimizer, *args, **kwargs)
        norms["after"].append(measure(optimizer))

    monkeypatch.setattr(Task, "configure_gradient_clipping", watched)
    fit("clip", "--trainer.max_epochs=1")
    assert max(norms["before"]) > 1
    assert len(norms["after"]) == STEPS
    assert max(norms["after"]) <= 1 + 1e-5


def test_compile_compiles_the_model_and_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.utils import counters

    # without generated C++, which takes 20 s to compile
    monkeypatch.setattr(Task, "compile", lambda task: nn.Module.compile(task, backend="aot_eager"))
    short = ["--trainer.limit_train_batches=2", "--trainer.max_epochs=1", "--model.net.dropout=0", "--test=false"]
    main(["fit", *SMALL, *short])
    counters.clear()
    main(["fit", *SMALL, "--config=configs/presets/compile.yaml", *short])
    assert counters["stats"]["unique_graphs"] >= 1
    assert train_losses(1) == pytest.approx(train_losses(0), rel=1e-3)


def test_debug_runs_two_batches_of_each_split_and_saves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("debug", "--test=true").trainer.global_step == 2
    assert "test" in capsys.readouterr().out
    assert not Path("runs").exists()


def test_deterministic_enables_torchs_mode_and_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    enabled: list[bool] = []
    hook = "on_train_epoch_start"
    monkeypatch.setattr(Task, hook, lambda _: enabled.append(torch.are_deterministic_algorithms_enabled()))
    try:
        for _ in range(2):
            fit("deterministic")
    finally:
        torch.use_deterministic_algorithms(False)
    assert enabled == [True] * 4
    assert train_losses(0) == train_losses(1)


def test_early_stopping_stops_when_the_loss_no_longer_improves() -> None:
    trainer = fit("early_stopping", "--trainer.max_epochs=1").trainer
    stopper = next(callback for callback in trainer.callbacks if isinstance(callback, EarlyStopping))
    assert (stopper.monitor, stopper.patience) == ("val/loss", 10)
    impatient = ["--trainer.callbacks.patience=1", "--trainer.callbacks.min_delta=100"]
    assert fit("early_stopping", *impatient, "--trainer.max_epochs=9").trainer.current_epoch == 2


def test_fp16_falls_back_to_bf16_on_a_cpu_with_a_warning(convolved: list[Tensor]) -> None:
    with pytest.warns(UserWarning, match="fp16 is not supported on CPU. Using `precision='bf16-mixed'`"):
        fit("fp16", "--trainer.max_epochs=1")
    assert {output.dtype for output in convolved if output.requires_grad} == {torch.bfloat16}


@pytest.mark.usefixtures("gpu")
def test_fp16_applies_to_convolutions_but_not_to_weights(convolved: list[Tensor]) -> None:
    task = fit("fp16").task
    assert {output.dtype for output in convolved if output.requires_grad} == {torch.float16}
    assert {p.dtype for p in task.parameters()} == {torch.float32}
    assert_it_learns()


@pytest.mark.usefixtures("gpu")
def test_gpu_keeps_images_on_the_gpu_and_trains_there() -> None:
    experiment = fit("gpu")
    assert experiment.trainer.strategy.root_device.type == "cuda"
    assert experiment.data.splits["train"].images.device.type == "cuda"


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:out of memory")
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_micro_batches_train_a_batch_that_does_not_fit(where: str) -> None:
    net = ["--model.net=tests.spoilers.Greedy", "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"]
    small = [f"--model.net.where={where}", "--model.net.max_images=20"]
    args = [each for each in FIT if "width" not in each] + net + ["--data.augment=[]", "--last.every_n_steps=5"]
    main(args)
    trainer = main([*args, "--config=configs/presets/micro_batches.yaml", *small]).trainer
    assert trainer.global_step == 2 * STEPS
    torch.testing.assert_close(weights(RUNS / "version_1"), weights(RUNS / "version_0"), rtol=1e-4, atol=1e-5)
    assert train_losses(1) == pytest.approx(train_losses(0), rel=1e-4)
    main(["fit", f"--run={RUNS}/version_1", "--trainer.max_epochs=3"])
    state = torch.load(RUNS / "version_1/checkpoints/last.ckpt")["callbacks"]["MicroBatches"]
    assert state["count"] == 4


@pytest.mark.heavy
@pytest.mark.parametrize("preset", ["mixup", "cutmix"])
def test_mixing_gives_soft_targets_and_learns(preset: str, batches: list[Any]) -> None:
    trainer = fit(preset).trainer
    targets = torch.cat([targets for _, targets in batches])
    assert targets.sum(1).allclose(torch.ones(len(targets)))
    assert (targets.amax(1) > 0.01).all()
    assert (targets.amax(1) < 0.99).float().mean() > 0.3
    assert trainer.callback_metrics["val/accuracy"] > 0.3
    assert_it_learns()


def test_muon_leaves_no_decay_params_and_the_last_layer_to_sgd() -> None:
    experiment = fit("muon")
    params = dict(experiment.task.net.named_parameters())
    names = {id(p): name for name, p in params.items()}
    groups = experiment.trainer.optimizers[0].param_groups
    muon = {names[id(p)] for group in groups if group["muon"] for p in group["params"]}
    assert muon == {name for name, p in params.items() if p.ndim > 1 and not name.startswith("head")}
    assert_it_learns()


def test_overfit_repeats_ten_batches_of_all_classes(batches: list[Any]) -> None:
    fit("overfit", "--trainer.max_epochs=2")
    sums = [float(images.sum()) for images, _ in batches]
    assert len(sums) == 2 * 10
    assert sums[:10] == sums[10:]
    assert len(set(sums)) == 10
    assert len(torch.cat([targets for _, targets in batches]).unique()) == 10  # not the first of a sorted set


def test_profile_writes_a_table() -> None:
    fit("profile")
    assert "run_training_batch" in (RUNS / "version_0/fit-profile.txt").read_text(encoding="utf-8")
