"""best.ckpt holds the best epoch and last.ckpt the latest, even if a save fails or the run folder was moved."""

import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from src import UserError
from src.cli import main
from src.engine.checkpoints import BestCheckpoint, LastCheckpoint
from src.runs import checkpoint
from src.tasks import Classifier
from tests.conftest import SMALL, refused, rows

FIT = ["fit", *SMALL, "--test=false"]
FOREIGN = ["fit", "--model=tests.spoilers.OwnModule", "--data=tests.spoilers.OwnData", "--trainer.max_epochs=1"]
RUN = Path("runs/digits/version_0")
FULL = "No space left on device"


class Spoil(Callback):
    """Put a NaN into the weights, after the gradients were checked."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        next(pl_module.parameters()).data.view(-1)[0] = float("nan")


def stored(name: str, run: Path = RUN) -> dict[str, Any]:
    return torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)


def score(name: str, run: Path = RUN) -> float:
    return stored(name, run)["callbacks"]["BestCheckpoint"]["score"]


def files() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (RUN / "checkpoints").iterdir()}


def logged(metric: str) -> list[float]:
    return [float(row[metric]) for row in rows(RUN) if row[metric]]


def test_a_run_keeps_the_best_and_the_last_checkpoint() -> None:
    main(FIT)
    assert sorted(files()) == ["best.ckpt", "last.ckpt"]
    assert stored("last")["epoch"] == 2
    assert stored("best")["callbacks"].keys() == stored("last")["callbacks"].keys()


def test_the_lowest_loss_is_best_by_default() -> None:
    x = main([*FIT, "--trainer.max_epochs=2", "--best.monitor=val/loss"])
    assert x.best.mode == "min"
    assert x.best.score == pytest.approx(min(logged("val/loss")))


@pytest.mark.parametrize(
    ("setting", "validations"), [("--trainer.val_check_interval=0.5", 8), ("--trainer.check_val_every_n_epoch=2", 2)]
)
def test_each_validation_can_be_the_best(setting: str, validations: int) -> None:
    main([*FIT, "--trainer.max_epochs=4", setting])
    values = logged("val/accuracy")
    assert len(values) == validations
    assert score("last") == score("best") == pytest.approx(max(values))


def test_monitor_epoch_keeps_the_latest_epoch() -> None:
    main([*FIT, "--trainer.max_epochs=2", "--best.monitor=epoch"])
    assert stored("best")["epoch"] == stored("last")["epoch"] == 1


def test_a_moved_run_keeps_its_best_score() -> None:
    main([*FIT, "--trainer.max_epochs=1", "--best.monitor=val/accuracy"])
    before, moved = score("best"), Path("moved")
    shutil.move(RUN, moved)
    main(["fit", "--run=moved", "--trainer.max_epochs=2", "--model.optimizer.lr=1e-9"])
    assert score("best", moved) >= before


def test_a_score_of_another_monitor_is_not_restored() -> None:
    best = BestCheckpoint("val/loss")
    best.setup(Trainer(logger=False, enable_checkpointing=False), LightningModule(), "fit")
    best.load_state_dict({"monitor": "val/accuracy", "mode": "max", "score": 0.9})
    assert best.score is None
    best.load_state_dict({"monitor": "val/loss", "mode": "min", "score": 0.9})
    assert best.score == 0.9


class Lower(LightningModule):
    monitor = ("val/mae", "min")


class Unrelated(LightningModule):
    monitor = "val_loss"  # the name means something else here


@pytest.mark.parametrize(
    ("module", "typed", "expected"),
    [
        (Lower, {}, ("val/mae", "min")),
        (Lower, {"mode": "max"}, ("val/mae", "max")),
        (Lower, {"monitor": "val/mae"}, ("val/mae", "min")),
        (Lower, {"monitor": "val/iou"}, ("val/iou", "max")),
        (Lower, {"monitor": "train/loss"}, ("train/loss", "min")),
        (Lower, {"monitor": "val/iou", "mode": "min"}, ("val/iou", "min")),
        (LightningModule, {}, ("", None)),
        (LightningModule, {"monitor": "val/loss"}, ("val/loss", "min")),
        (Unrelated, {}, ("", None)),
    ],
)
def test_a_typed_monitor_wins_over_the_modules_own(module: type, typed: dict[str, Any], expected: tuple) -> None:
    best = BestCheckpoint(**typed)
    best.setup(Trainer(logger=False, enable_checkpointing=False), module(), "fit")
    assert (best.monitor, best.mode) == expected


class LossOnly(Classifier):
    monitor: tuple[str, Literal["max", "min"]] = ("val/loss", "min")


def test_the_tasks_own_monitor_selects_the_best_also_after_a_resume() -> None:
    main([*FIT, "--trainer.max_epochs=1", f"--model={__name__}.LossOnly"])
    assert score("best") == pytest.approx(min(logged("val/loss")))
    x = main(["fit", f"--run={RUN}", "--trainer.max_epochs=2", "--trust"])
    assert (x.best.monitor, x.best.mode) == ("val/loss", "min")
    assert score("last") == pytest.approx(min(logged("val/loss")))


def test_without_a_monitor_of_its_own_a_module_gets_val_accuracy() -> None:
    x = main([*FOREIGN, "--name=digits"])
    assert (x.best.monitor, x.best.mode) == ("val/accuracy", "max")
    assert x.best.score == pytest.approx(max(logged("val/accuracy")))


def test_a_metric_that_is_not_logged_is_refused_before_training(capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, *FIT, "--best.monitor=val/acc")
    assert "best.monitor val/acc is not logged; choose from val/accuracy" in error
    assert not RUN.exists()


def test_a_validation_metric_without_validation_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, *FIT, "--trainer.limit_val_batches=0")
    assert "best.monitor is val/accuracy, but the run has no validation; use train/loss or epoch" in error


def test_a_best_checkpoint_that_was_not_saved_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    save, fails = checkpoint.save_checkpoint, [True, False, False, False]  # best and last of two epochs

    def full(content: dict[str, Any], file: Path) -> str:
        return FULL if fails.pop(0) else save(content, file)

    monkeypatch.setattr(checkpoint, "save_checkpoint", full)
    with pytest.warns(UserWarning, match=rf"best\.ckpt was NOT saved: {FULL}; training continues"):
        main([*FIT, "--trainer.max_epochs=2", "--model.optimizer.lr=0"])
    assert stored("best")["epoch"] == 1  # no better than the first, which does not exist


def test_a_run_fails_if_its_last_checkpoint_was_not_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*FIT, "--trainer.max_epochs=1"])
    before = files()["last.ckpt"]
    monkeypatch.setattr(checkpoint, "save_checkpoint", lambda *_: FULL)
    with pytest.warns(UserWarning, match="NOT saved"), pytest.raises(SystemExit) as stop:
        main(["fit", f"--run={RUN}", "--trainer.max_epochs=2"])
    assert stop.value.code == 2
    error = f"error: training has finished, but its last checkpoint was not saved: {FULL}\n"
    assert capsys.readouterr().err == error
    assert files()["last.ckpt"] == before


def test_non_finite_weights_are_not_saved() -> None:
    main([*FIT, "--trainer.max_epochs=1"])
    before = files()
    spoil = ["--trainer.max_epochs=2", f"--trainer.callbacks={__name__}.Spoil", "--best.monitor=epoch"]
    with pytest.warns(UserWarning, match="NOT saved: weights are not finite") as caught, pytest.raises(SystemExit):
        main(["fit", f"--run={RUN}", *spoil])
    messages = [str(each.message) for each in caught if "NOT saved" in str(each.message)]
    assert [Path(message.split()[0]).name for message in messages] == ["best.ckpt", "last.ckpt"]
    assert files() == before


def test_a_negative_number_of_steps_is_refused() -> None:
    with pytest.raises(UserError, match="every_n_steps must be at least 0, got -1"):
        LastCheckpoint(-1)
