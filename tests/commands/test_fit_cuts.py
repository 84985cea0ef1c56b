"""A run resumes exactly from any cut, and nothing that it wrote is lost or changed by a start that is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from src import load_run
from src.cli import main
from src.tasks import Task
from tests.conftest import SMALL, PlainModule, refused, rows, same, weights

FIT = ["fit", *SMALL, "--test=false", "--model.schedule=null", "--model.warmup_steps=0"]
RUN = Path("runs/digits/version_0")
PLAIN = ["fit", "--data=src.data.Digits", "--test=false", "--trainer.accelerator=cpu", "--name=plain"]
PLAIN_RUN = Path("runs/plain/version_0")


class PowerCutError(Exception):
    """The power fails."""


class WithBackbone(PlainModule):
    """A net in two parts, of which the first is frozen for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
        self.net = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(self.backbone(images))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=self.lr, momentum=0.9)


class Scaled(Callback):
    """Set a factor of the loss at the start of each epoch."""

    factor = 100.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.factor = 1.0 / (1 + trainer.current_epoch)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:  # noqa: ARG002
        for p in pl_module.parameters():
            if p.grad is not None:
                p.grad *= self.factor


def cut(args: list[str], step: int, monkeypatch: pytest.MonkeyPatch, owner: type = Task) -> None:
    """Fail in a step of a run."""

    def interrupt(self: LightningModule, *_: object) -> None:
        if self.global_step == step:
            raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(owner, "on_before_zero_grad", interrupt)
        with pytest.raises(PowerCutError):
            main(args)


def assert_same_training(first: Path, second: Path) -> None:
    once, twice = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (first, second))
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert same(once[key], twice[key]), key


def logged(run: Path) -> list[tuple[str, str]]:
    return [(row["step"], row["train/loss"]) for row in rows(run) if row["train/loss"]]


@pytest.mark.parametrize("steps", [10, *(pytest.param(steps, marks=pytest.mark.heavy) for steps in (21, 30))])
def test_a_run_that_max_steps_ended_within_an_epoch_finishes_the_epoch(steps: int) -> None:
    main([*FIT, f"--trainer.max_steps={steps}"])
    assert torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["global_step"] == steps
    main(["fit", f"--run={RUN}", "--trainer.max_steps=-1"])
    main(FIT)
    assert_same_training(RUN, RUN.with_name("version_1"))
    assert [row for row in logged(RUN) if row[0] != str(steps - 1) or steps == 21] == logged(RUN.with_name("version_1"))


def test_the_throughput_of_a_cut_epoch_counts_only_its_own_samples() -> None:
    x = main([*FIT, "--trainer.max_steps=10"])
    assert x.progress.samples == pytest.approx(1293 * 10 / 21)


@pytest.mark.heavy
def test_training_in_float64_resumes_without_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    double = [*FIT, "--trainer.precision=64-true", "--trainer.max_epochs=2", "--last.every_n_steps=5"]
    main(double)
    cut(double, 26, monkeypatch)
    main(["fit", f"--run={RUN.with_name('version_1')}"])
    assert_same_training(RUN, RUN.with_name("version_1"))
    assert same(dict(load_run(RUN, "last")[0].state_dict()), dict(weights(RUN)))


@pytest.mark.heavy
def test_a_callback_that_unfreezes_a_backbone_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = "tests.commands.test_fit_cuts.WithBackbone"
    args = [*PLAIN, f"--model={kind}", "--trainer.max_epochs=4"]
    args += ["--trainer.callbacks=lightning.pytorch.callbacks.BackboneFinetuning"]
    args += ["--trainer.callbacks.unfreeze_backbone_at_epoch=1", "--trainer.callbacks.verbose=false"]
    main(args)
    cut(args, 36, monkeypatch, PlainModule)
    x = main(["fit", f"--run={PLAIN_RUN.with_name('version_1')}"])
    assert_same_training(PLAIN_RUN, PLAIN_RUN.with_name("version_1"))
    (group, added) = x.trainer.optimizers[0].param_groups
    assert (len(group["params"]), len(added["params"])) == (2, 2)


@pytest.mark.heavy
def test_a_backbone_is_unfrozen_during_a_schedule_and_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    args = [*FIT, "--trainer.max_epochs=4", "--model.net=src.nets.MLP", "--model.net.image_shape=[1,8,8]"]
    args += ["--model.net.hidden_sizes=[16]", "--trainer.callbacks=lightning.pytorch.callbacks.BackboneFinetuning"]
    args += ["--trainer.callbacks.unfreeze_backbone_at_epoch=1", "--model.schedule=src.optim.Linear"]
    main(args)
    cut(args, 70, monkeypatch)
    x = main(["fit", f"--run={RUN.with_name('version_1')}"])
    assert_same_training(RUN, RUN.with_name("version_1"))
    groups = x.trainer.optimizers[0].param_groups
    assert [sum(p.numel() for p in group["params"]) for group in groups] == [16 * 10, 10, 64 * 16 + 16]
    assert [group["lr"] for group in groups] == [0, 0, 0.001]  # which the callback has aligned in the last epoch


@pytest.mark.heavy
def test_a_learning_rate_is_searched_once_and_stands_in_config_yaml() -> None:
    kind = "tests.conftest.PlainModule"
    finder = ["--trainer.callbacks=lightning.pytorch.callbacks.LearningRateFinder"]
    x = main(
        [*PLAIN, f"--model={kind}", *finder, "--trainer.callbacks.num_training_steps=50", "--trainer.max_epochs=6"]
    )
    found = x.task.lr
    assert found != 0.1
    assert yaml.safe_load((PLAIN_RUN / "config.yaml").read_text(encoding="utf-8"))["model"]["init_args"]["lr"] == found
    x = main(["fit", f"--run={PLAIN_RUN}", "--trainer.max_epochs=7"])
    assert x.trainer.optimizers[0].param_groups[0]["lr"] == found
    assert x.trainer.global_step == 7 * 11
    steps = [int(row["step"]) for row in rows(PLAIN_RUN) if row["val/accuracy"]]
    assert steps == [11 * epoch - 1 for epoch in range(1, 8)]


@pytest.mark.heavy
@pytest.mark.parametrize("lottery", ["true", "false"])
def test_a_pruned_run_resumes(lottery: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pruning = ["--trainer.callbacks=lightning.pytorch.callbacks.ModelPruning", "--trainer.callbacks.amount=0.1"]
    pruning += [f"--trainer.callbacks.use_lottery_ticket_hypothesis={lottery}"]
    args = [*FIT, *pruning, "--trainer.callbacks.pruning_fn=l1_unstructured"]
    main(args)
    cut(args, 45, monkeypatch)
    main(["fit", f"--run={RUN.with_name('version_1')}"])
    assert_same_training(RUN, RUN.with_name("version_1"))


@pytest.mark.heavy
def test_state_set_at_the_start_of_an_epoch_is_set_again(monkeypatch: pytest.MonkeyPatch) -> None:
    args = [*FIT, "--trainer.callbacks=tests.commands.test_fit_cuts.Scaled", "--last.every_n_steps=5"]
    main(args)
    cut(args, 28, monkeypatch)
    main(["fit", f"--run={RUN.with_name('version_1')}"])
    assert_same_training(RUN, RUN.with_name("version_1"))


def test_a_run_cut_off_before_its_test_is_tested_as_if_it_had_not_been(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: Task) -> None:
        raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(Task, "on_test_start", interrupt)
        with pytest.raises(PowerCutError):
            main(["fit", *SMALL])
    main(["fit", f"--run={RUN}"])
    (tested,) = [row for row in rows(RUN) if row["test/loss"]]
    assert tested["step"] == "63"
    results = json.loads((RUN / "results.json").read_text(encoding="utf-8"))
    assert results["seconds"] > 0
    assert results["samples_per_second"] > 0
    assert 0 < results["milliseconds_per_step"] < 1e4


@pytest.mark.heavy
def test_a_run_whose_time_is_up_says_so_and_keeps_its_results(capsys: pytest.CaptureFixture[str]) -> None:
    main([*FIT, "--trainer.max_epochs=1000", "--trainer.max_time=00:00:00:02"])
    assert f"extend  python -m src.cli fit --run {RUN} --trainer.max_time=N" in capsys.readouterr().out
    before = {file: file.read_bytes() for file in RUN.rglob("*") if file.is_file()}
    for more in ([], ["--trainer.max_epochs=2000"]):
        main(["fit", f"--run={RUN}", *more])
        assert "steps; extend with --trainer.max_time=N" in capsys.readouterr().out
        assert before == {file: file.read_bytes() for file in RUN.rglob("*") if file.is_file()}
    x = main(["fit", f"--run={RUN}", "--trainer.max_time=00:00:00:03", "--trainer.max_epochs=2000"])
    assert x.trained


def test_a_config_that_was_edited_by_hand_is_trained(trained: Path) -> None:
    text = (trained / "config.yaml").read_text(encoding="utf-8")
    (trained / "config.yaml").write_text(text.replace("max_epochs: 1", "max_epochs: 2"), encoding="utf-8")
    x = main(["fit", f"--run={trained}"])
    assert (x.trained, x.trainer.current_epoch) == (True, 2)


def test_a_refused_resume_changes_no_file(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()}
    assert "another kind" in refused(
        capsys, "fit", f"--run={trained}", "--trainer.max_epochs=2", "--model.schedule=null"
    )
    assert before == {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()}


def test_a_refused_start_leaves_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, *FIT, "--model.net.image_shape=[3,8,8]")
    assert not Path("runs").exists()


@pytest.mark.heavy
def test_stochastic_weight_averaging_resumes_within_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    args = [*FIT, "--trainer.callbacks=lightning.pytorch.callbacks.StochasticWeightAveraging"]
    args += ["--trainer.callbacks.swa_lrs=0.01", "--trainer.callbacks.swa_epoch_start=1", "--last.every_n_steps=5"]
    main(args)
    cut(args, 28, monkeypatch)
    main(["fit", f"--run={RUN.with_name('version_1')}"])
    assert_same_training(RUN, RUN.with_name("version_1"))


def test_a_run_resumed_in_an_unvalidated_epoch_is_validated_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    args = [*FIT, "--trainer.check_val_every_n_epoch=2", "--last.every_n_steps=5"]
    main(args)
    cut(args, 50, monkeypatch)
    main(["fit", f"--run={RUN.with_name('version_1')}"])
    once, twice = (
        json.loads((run / "results.json").read_text(encoding="utf-8")) for run in (RUN, RUN.with_name("version_1"))
    )
    assert {name: once[name] for name in once if name.startswith("val/")} == {
        name: twice[name] for name in twice if name.startswith("val/")
    }
    assert "val/accuracy" in twice
