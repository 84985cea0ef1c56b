"""What a command prints is aligned, complete and at most 80 columns wide."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch.utils.data import DataLoader

from src import UserError
from src.runs.summary import (
    merge_dataloaders,
    metrics_table,
    next_commands,
    per_class_table,
    print_rows,
    run_stats_table,
    save_figure,
    start_notes,
)
from tests.conftest import ROOT

SCORES = ("precision", "recall", "f1", "auroc")
CLASSES = ("T-shirt/top", "Trouser", "a rather long name of a class, 38 long")
MEANS = {
    f"{stage}/{name}": 0.25 for stage in ("test", "val") for name in ("loss", "accuracy", "top5_accuracy", *SCORES)
}
PER_CLASS = {f"test/{score}/{name}": 0.5 for score in SCORES for name in CLASSES}

ALONE = {"callbacks": [], "world_size": 1, "accumulate_grad_batches": 1}


def printed(capsys: pytest.CaptureFixture[str], rows: list[tuple[str, str]]) -> list[str]:
    print_rows(rows)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("table", [metrics_table, per_class_table])
def test_columns_are_aligned_and_fit_80_columns(capsys: pytest.CaptureFixture[str], table: Any) -> None:
    lines = printed(capsys, table(MEANS | PER_CLASS))
    assert len({len(line) for line in lines}) == 1
    assert len(lines[0]) <= 80


def test_validation_and_test_have_a_column_each() -> None:
    head, *rows = metrics_table({"val/loss": 1.5, "val/accuracy": 0.5, "test/accuracy": 0.75, "test/f1/cat": 0.1})
    assert head[1].split() == ["val", "test"]
    assert [(name, values.split()) for name, values in rows] == [
        ("loss", ["1.5000", "-"]),
        ("accuracy", ["0.5000", "0.7500"]),
    ]


def test_the_epoch_of_the_best_checkpoint_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    best = SimpleNamespace(epoch=7, score=0.5, monitor="val/accuracy")
    lines = printed(capsys, metrics_table({"val/accuracy": 0.5, "test/accuracy": 0.75}, best))
    assert lines == ["metric             val      test", "accuracy        0.5000    0.7500", "best epoch           7"]
    for unknown in (None, SimpleNamespace(score=None, monitor=""), SimpleNamespace(epoch=0, score=None, monitor="")):
        assert [name for name, _ in metrics_table({"val/loss": 0.5}, unknown)] == ["metric", "loss"]


def test_a_stage_without_values_has_no_column() -> None:
    assert [values.split() for _, values in metrics_table({"test/loss": 2.0})] == [["test"], ["2.0000"]]


def test_each_class_has_a_row_and_each_score_a_column() -> None:
    metrics = {"test/recall/cat": 0.1, "test/recall/a/b": 0.2, "test/f1/cat": 0.3, "test/loss": 9.0}
    head, *rows = per_class_table(metrics)
    assert (head[0], head[1].split()) == ("class", ["recall", "f1"])
    assert [(name, values.split()) for name, values in rows] == [
        ("cat", ["0.1000", "0.3000"]),
        ("a/b", ["0.2000", "-"]),
    ]


def test_without_values_per_class_there_is_no_table() -> None:
    assert per_class_table(MEANS) == []


def test_a_row_without_name_and_value_is_blank(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, [("", ""), ("time", "1 s"), ("samples", "9")]) == ["", "time     1 s", "samples  9"]
    assert printed(capsys, []) == []


def test_metrics_of_other_names_are_shown_with_their_values() -> None:
    assert ("val_acc", "    0.5000") in metrics_table({"val_acc": 0.5})


def test_metrics_of_several_dataloaders_are_numbered() -> None:
    results = [{"test/accuracy/dataloader_idx_0": 0.5}, {"test/accuracy/dataloader_idx_1": 0.75, "test/loss": 1.0}]
    assert merge_dataloaders(results) == {"test/accuracy[0]": 0.5, "test/accuracy[1]": 0.75, "test/loss": 1.0}


def test_speed_and_memory_are_compared_with_the_previous_run() -> None:
    stats = {"parameters": 12345, "samples_per_second": 3000, "peak_memory_mib": 100}
    table = dict(run_stats_table(stats, {"samples_per_second": 2000, "peak_memory_mib": None}, "version_0"))
    assert table == {
        "parameters": "12,345",
        "samples per second": "3,000   1.50 x version_0",
        "peak memory MiB": "100",
    }


def test_next_commands_name_run_and_limit() -> None:
    rows = dict(next_commands(Path("runs/x"), "--run runs/x --trust", "max_steps"))
    assert rows["extend"] == "python -m src.cli fit --run runs/x --trust --trainer.max_steps=N"
    assert rows["test"] == "python -m src.cli test --run runs/x --trust"


class Resumable:
    """A loader with a state."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


@pytest.mark.parametrize(
    ("loader", "lacking", "end"),
    [
        ({}, "DataLoader and LightningModule have", "exactly only from the end of an epoch"),
        (
            {"generator": torch.Generator()},
            "DataLoader and LightningModule have",
            "not exactly, because of its generator",
        ),
        (None, "LightningModule has", "exactly only from the end of an epoch"),
    ],
)
def test_what_does_not_resume_exactly_is_noted(loader: dict[str, Any] | None, lacking: str, end: str) -> None:
    trainer = SimpleNamespace(lightning_module=None, estimated_stepping_batches=1, fast_dev_run=False, **ALONE)
    trainer.train_dataloader = Resumable() if loader is None else DataLoader(range(3), **loader)  # type: ignore[arg-type]
    notes = [f"this {lacking} no mid-epoch state:", f"an interrupted run resumes {end}"]
    assert [text for _, text in start_notes(trainer, None)] == notes


@pytest.mark.parametrize(("note", "lines"), [("one\ntwo", [("note", "one"), ("", "two")]), ("", [])])
def test_a_task_prints_what_it_loaded(note: str, lines: list[tuple[str, str]]) -> None:
    task = SimpleNamespace(note=note, weights=None, rename=None, train_means=None)
    trainer = SimpleNamespace(lightning_module=task, estimated_stepping_batches=1, fast_dev_run=False, **ALONE)
    trainer.train_dataloader = Resumable()
    assert start_notes(trainer, None) == lines


@pytest.mark.parametrize("note", ["a tensor of C4", lambda: "", 440.0])
def test_a_module_may_have_a_note_of_its_own(note: Any) -> None:
    task = SimpleNamespace(note=note, train_means=None)
    trainer = SimpleNamespace(lightning_module=task, estimated_stepping_batches=1, fast_dev_run=False, **ALONE)
    trainer.train_dataloader = Resumable()
    assert start_notes(trainer, None) == []


@pytest.mark.parametrize(("steps", "noted"), [(4, True), (5, True), (6, False), (float("inf"), False)])
def test_a_run_that_never_leaves_its_warmup_is_noted(steps: float, noted: bool) -> None:
    task = SimpleNamespace(warmup_steps=5, train_means=None)
    trainer = SimpleNamespace(lightning_module=task, estimated_stepping_batches=steps, fast_dev_run=False, **ALONE)
    trainer.train_dataloader = Resumable()
    rows = [
        ("note", f"warmup_steps (5) >= run length ({steps} steps):"),
        ("", "the learning rate never leaves warm-up"),
    ]
    assert start_notes(trainer, None) == (rows if noted else [])


def test_printing_to_a_closed_pipe_is_no_error() -> None:
    code = "from src.runs.summary import echo\nfor i in range(9999): echo('a line')"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("file", ["missing/figure.png", "figure.text"])
def test_a_figure_that_cannot_be_written_is_refused(file: str) -> None:
    with pytest.raises(UserError, match=f"^cannot write {file}: .*; choose another file with --output$"):
        save_figure(Figure(), Path(file))
