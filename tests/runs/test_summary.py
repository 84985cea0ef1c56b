"""What is printed is aligned, complete and at most 80 columns wide."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from src.report import class_rows, joined, metric_rows, print_rows, start_rows

SCORES = ("precision", "recall", "f1", "auroc")
CLASSES = ("T-shirt/top", "Trouser", "a rather long name of a class, 38 long")
MEANS = {
    f"{stage}/{name}": 0.25 for stage in ("test", "val") for name in ("loss", "accuracy", "top5_accuracy", *SCORES)
}
EACH = {f"test/{score}/{name}": 0.5 for score in SCORES for name in CLASSES}


def printed(capsys, rows) -> list[str]:
    print_rows(rows)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("table", [metric_rows, class_rows])
def test_columns_are_aligned_and_fit_80_columns(capsys, table):
    lines = printed(capsys, table(MEANS | EACH))
    assert len({len(line) for line in lines}) == 1
    assert len(lines[0]) <= 80


def test_val_and_test_stand_side_by_side():
    head, *rows = metric_rows({"val/loss": 1.5, "val/accuracy": 0.5, "test/accuracy": 0.75, "test/f1/cat": 0.1})
    assert head[1].split() == ["val", "test"]
    assert [(name, values.split()) for name, values in rows] == [
        ("loss", ["1.5000", "-"]),
        ("accuracy", ["0.5000", "0.7500"]),
    ]


def test_a_stage_without_values_has_no_column():
    assert [values.split() for _, values in metric_rows({"test/loss": 2.0})] == [["test"], ["2.0000"]]


def test_each_class_has_a_row_and_each_score_a_column():
    metrics = {"test/recall/cat": 0.1, "test/recall/a/b": 0.2, "test/f1/cat": 0.3, "test/loss": 9.0}
    head, *rows = class_rows(metrics)
    assert (head[0], head[1].split()) == ("class", ["recall", "f1"])
    assert [(name, values.split()) for name, values in rows] == [
        ("cat", ["0.1000", "0.3000"]),
        ("a/b", ["0.2000", "-"]),
    ]


def test_without_values_of_classes_there_is_no_table():
    assert class_rows(MEANS) == []


def test_a_row_without_name_and_value_is_blank(capsys):
    assert printed(capsys, [("", ""), ("time", "1 s"), ("samples", "9")]) == ["", "time     1 s", "samples  9"]


def test_names_of_a_modules_own_are_shown_with_their_values():
    assert ("val_acc", "    0.5000") in metric_rows({"val_acc": 0.5})


def test_several_dataloaders_are_told_apart():
    results = [{"test/accuracy/dataloader_idx_0": 0.5}, {"test/accuracy/dataloader_idx_1": 0.75, "test/loss": 1.0}]
    assert joined(results) == {"test/accuracy[0]": 0.5, "test/accuracy[1]": 0.75, "test/loss": 1.0}


@pytest.mark.parametrize(
    ("settings", "end"),
    [
        ({}, "at an epoch's end exactly"),
        ({"generator": torch.Generator()}, "as at an epoch's end, with generator"),
    ],
)
def test_what_is_not_exact_of_a_loader_of_ones_own_is_said(settings, end):
    trainer = SimpleNamespace(lightning_module=None, estimated_stepping_batches=1, fast_dev_run=False)
    trainer.train_dataloader = DataLoader(range(3), **settings)
    assert start_rows(trainer, None)[1][1].endswith(f"or with other means; {end}")
