"""The line of each epoch, the progress bar of a terminal, and what TensorBoard gets."""

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import RichProgressBar
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from src.cli import main
from src.engine import progress_bar
from src.engine.progress import EpochLine
from src.engine.progress_bar import ProgressBar
from tests.conftest import FIT, rows

RUN = "runs/digits/version_0"


def epoch_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]


def test_the_bar_is_refreshed_twice_a_second_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    refreshed: list[int] = []
    now = iter(range(100))
    monkeypatch.setattr(progress_bar, "time", SimpleNamespace(monotonic=lambda: 10 + next(now) / 10))
    monkeypatch.setattr(RichProgressBar, "on_train_batch_end", lambda _, *args: refreshed.append(args[-1]))
    monkeypatch.setattr(ProgressBar, "total_train_batches", 15)
    bar: Any = ProgressBar()
    for batch_idx in range(15):
        bar.on_train_batch_end(None, None, None, None, batch_idx)
    assert refreshed == [0, 6, 12, 14]


def test_each_epoch_prints_one_line_with_its_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    main(FIT)
    names = ("train/loss", "val/loss", "val/accuracy")
    logged = {name: [float(row[name]) for row in rows(RUN) if row[name]] for name in names}
    lines = epoch_lines(capsys)
    assert len(lines) == 2
    for epoch, line in enumerate(lines):
        metrics = "  ".join(f"{name} {logged[name][epoch]:.4f}" for name in names)
        assert re.fullmatch(rf"epoch {epoch + 1}/2  {metrics}  lr \d\.\de[+-]\d\d  \d+\.\d s  [\d,]+ samples/s", line)


def test_an_epoch_without_validation_shows_no_old_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    main([*FIT, "--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=2"])
    lines = epoch_lines(capsys)
    assert ["val/" in line for line in lines] == [False, True, False]
    assert all("train/loss" in line for line in lines)


def test_a_module_of_other_metrics_shows_what_it_logs(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--model=tests.spoilers.OwnModule", "--data=tests.spoilers.OwnData", "--trainer.max_epochs=1"])
    (line,) = epoch_lines(capsys)
    assert re.match(r"epoch 1/1  val/accuracy -?\d\.\d{4}  lr 1\.0e-02  ", line)


def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], metric: str, columns: int) -> str:
    """Return the line of an epoch in a terminal of some width."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_, **__: os.terminal_size((columns, 24)))
    trainer: Any = SimpleNamespace(is_global_zero=True, current_epoch=3, max_epochs=9, callbacks=[])
    trainer.progress_bar_metrics = {}
    trainer.optimizers = [torch.optim.SGD([torch.zeros(1)], lr=0.5)]
    trainer.callback_metrics = {"train/loss": 1.0, "val/loss": 2.0, "val/accuracy": 0.5, "val/mae": 0.25}
    line = EpochLine(metric)
    line.pending, line.paused = (2.0, 1500.0), 0.5
    line.print(trainer)
    return capsys.readouterr().out.removesuffix("\n")


@pytest.mark.parametrize(
    ("metric", "shown"), [("val/accuracy", "val/accuracy 0.5000"), ("val/mae", "val/mae 0.2500"), ("val/f1", "")]
)
def test_the_chosen_metric_is_shown_if_it_is_logged(monkeypatch, capsys, metric: str, shown: str) -> None:
    fields = ["epoch 3/9", "train/loss 1.0000", "val/loss 2.0000", shown, "lr 5.0e-01", "2.0 s", "1,500 samples/s"]
    assert printed(monkeypatch, capsys, metric, 200) == "  ".join(filter(None, fields))


@pytest.mark.parametrize("columns", [30, 60, 80, 90])
def test_a_narrow_terminal_shows_the_fields_that_fit(monkeypatch, capsys, columns: int) -> None:
    wide = printed(monkeypatch, capsys, "val/mae", 200)
    narrow = printed(monkeypatch, capsys, "val/mae", columns)
    dropped = wide.removeprefix(narrow)
    assert wide.startswith(narrow)
    assert len(narrow) <= columns < len(narrow) + 2 + len(dropped.strip().partition("  ")[0])


def test_the_bar_counts_epochs_from_one() -> None:
    bar: Any = ProgressBar()
    for epochs, shown in ((20, "epoch 1/20"), (-1, "epoch 1")):
        bar._trainer = SimpleNamespace(max_epochs=epochs)
        assert bar._get_train_description(0).rstrip() == shown


@pytest.mark.parametrize(("batches", "logged"), [(2, [1, 3, 5]), (7, [6, 13, 20])])
def test_a_short_run_logs_a_learning_rate_once_an_epoch(batches: int, logged: list[int]) -> None:
    x = main([*FIT, "--trainer.max_epochs=3", f"--trainer.limit_train_batches={batches}"])
    assert [int(row["step"]) for row in rows(RUN) if row.get("lr-AdamW/pg1")] == logged
    assert x.config.trainer.log_every_n_steps is None


def test_a_run_of_many_steps_logs_a_learning_rate_every_50_steps() -> None:
    main([*FIT, "--trainer.max_epochs=5"])  # of 21 steps
    assert [int(row["step"]) for row in rows(RUN) if row.get("lr-AdamW/pg1")] == [49, 99]


def test_tensorboard_gets_all_metrics_and_the_settings_with_the_results() -> None:
    main([*FIT, "--trainer.max_epochs=1"])
    main(["fit", f"--run={RUN}", "--trainer.max_epochs=2"])
    events = EventAccumulator(RUN)
    events.Reload()
    logged = {(name, e.step): e.value for name in events.Tags()["scalars"] for e in events.Scalars(name)}
    expected = {(k, int(row["step"])): float(v) for row in rows(RUN) for k, v in row.items() if v and k != "step"}
    assert logged == pytest.approx(expected, rel=1e-6)
    (file,) = Path(RUN, "hparams").iterdir()  # the resumed run has replaced the first one's
    results = EventAccumulator(str(file))
    results.Reload()
    stored = json.loads(Path(RUN, "results.json").read_text(encoding="utf-8"))
    assert {name: results.Scalars(name)[0].value for name in ("val/loss", "val/accuracy")} == pytest.approx(
        {name: stored[name] for name in ("val/loss", "val/accuracy")}
    )
    content = results.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = HParamsPluginData.FromString(content).session_start_info.hparams
    assert settings["model.optimizer.lr"].number_value == 4e-3
    assert settings["model.net"].string_value == "src.nets.SmallCNN"
    assert settings["trainer.max_epochs"].number_value == 2
