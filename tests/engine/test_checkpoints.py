"""best.ckpt is the best epoch's, last.ckpt the last one's, whatever cannot be written or was moved."""

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from src import checkpoint
from src.callbacks import BestCheckpoint
from src.cli import main

SMALL = [
    "--config=configs/digits.yaml",
    "--model.net=src.nets.MLP",
    "--model.net.image_shape=[1,8,8]",
    "--model.net.hidden_sizes=[16]",
    "--test=false",
]
FOLDER = Path("runs/digits/version_0/checkpoints")


class Spoil(Callback):
    """Puts a NaN where no gradient is looked at."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        next(pl_module.parameters()).data.view(-1)[0] = float("nan")


def stored(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    return torch.load(folder / f"{name}.ckpt", weights_only=True)


def score(name: str) -> float:
    return stored(name)["callbacks"]["BestCheckpoint"]["score"]


def logged(metric: str) -> list[float]:
    table = csv.DictReader((FOLDER.parent / "metrics.csv").read_text().splitlines())
    return [float(row[metric]) for row in table if row[metric]]


def test_best_and_last_are_kept() -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=3"])
    assert sorted(file.name for file in FOLDER.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert stored("last")["epoch"] == 2
    assert stored("best")["callbacks"].keys() == stored("last")["callbacks"].keys()


def test_the_least_loss_is_the_best_without_being_told() -> None:
    cli = main(["fit", *SMALL, "--trainer.max_epochs=2", "--best.monitor=val/loss"])
    assert cli.best.mode == "min"
    assert cli.best.score == pytest.approx(min(logged("val/loss")))


@pytest.mark.parametrize("setting", ["--trainer.val_check_interval=0.5", "--trainer.check_val_every_n_epoch=2"])
def test_whenever_it_is_validated_the_best_is_kept(setting: str) -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=4", setting])
    values = logged("val/accuracy")
    assert len(values) == (8 if "interval" in setting else 2)
    assert score("last") == score("best") == pytest.approx(max(values))


def test_by_epoch_the_last_is_the_best() -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=2", "--best.monitor=epoch"])
    assert stored("best")["epoch"] == stored("last")["epoch"] == 1


def test_a_run_whose_folder_was_moved_keeps_its_best() -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=1", "--best.monitor=val/accuracy"])
    before = score("best")
    shutil.move(FOLDER.parent, "moved")
    main(["fit", "--run=moved", "--trainer.max_epochs=2", "--model.optimizer.lr=1e-9"])
    assert stored("best", Path("moved/checkpoints"))["callbacks"]["BestCheckpoint"]["score"] >= before


def test_another_monitor_begins_anew() -> None:
    best = BestCheckpoint("val/loss")
    best.load_state_dict({"monitor": "val/accuracy", "mode": "max", "score": 0.9})
    assert best.score is None
    best.load_state_dict({"monitor": "val/loss", "mode": "min", "score": 0.9})
    assert best.score == 0.9


def test_a_metric_that_nobody_logs_is_refused_before_the_first_step(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *SMALL, "--best.monitor=val/acc"])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert "BestCheckpoint's monitor val/acc is not logged; choose of val/accuracy" in err
    assert not out
    assert not FOLDER.parent.exists()


@pytest.mark.filterwarnings("default")
def test_a_best_that_could_not_be_written_is_not_taken_for_the_best(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, fails = checkpoint.write, [True, False, False, False]  # best and last of two epochs

    def full(content: dict[str, Any], file: Path) -> str:
        return "No space left on device" if fails.pop(0) else write(content, file)

    monkeypatch.setattr(checkpoint, "write", full)
    main(["fit", *SMALL, "--trainer.max_epochs=2", "--model.optimizer.lr=0"])
    assert "best.ckpt NOT saved: No space left on device; training goes on" in capsys.readouterr().err
    assert stored("best")["epoch"] == 1  # as good as the first, which is not there


@pytest.mark.filterwarnings("default")
def test_a_run_whose_last_checkpoint_could_not_be_written_does_not_end_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=1"])
    before = (FOLDER / "last.ckpt").read_bytes()
    monkeypatch.setattr(checkpoint, "write", lambda *_: "No space left on device")
    with pytest.raises(SystemExit) as stop:
        main(["fit", f"--run={FOLDER.parent}", "--trainer.max_epochs=2"])
    assert stop.value.code == 2
    told = "error: training is over, but its last checkpoint was not saved: No space left on device"
    assert told in capsys.readouterr().err
    assert (FOLDER / "last.ckpt").read_bytes() == before


@pytest.mark.filterwarnings("default")
def test_weights_that_are_not_finite_are_not_saved(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *SMALL, "--trainer.max_epochs=1"])
    before = {file.name: file.read_bytes() for file in FOLDER.iterdir()}
    spoil = ["--trainer.max_epochs=2", f"--trainer.callbacks={__name__}.Spoil", "--best.monitor=epoch"]
    with pytest.raises(SystemExit):
        main(["fit", f"--run={FOLDER.parent}", *spoil])
    assert "best.ckpt NOT saved: weights are not finite" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in FOLDER.iterdir()} == before
