"""A run that a fault changed is told apart from one that it did not change."""

from pathlib import Path

import pytest
import torch

from tools.comparison import differences, same

pytestmark = pytest.mark.heavy


def write_run(folder: Path, weight: float, loss: str, trace: str) -> Path:
    run = folder / "runs/digits/version_0"
    (run / "checkpoints").mkdir(parents=True)
    for kind in ("best", "last"):
        torch.save({"state_dict": {"w": torch.tensor(weight)}, "epoch": 3}, run / f"checkpoints/{kind}.ckpt")
    (run / "metrics.csv").write_text(f"loss\n{loss}\n", encoding="utf-8")
    (folder / "trace.txt").write_text(trace, encoding="utf-8")
    return run


def test_equal_runs_have_no_differences_though_steps_were_repeated(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 1.0, "0x1p0", "0.0 abc 0x1p0\n0.1 abc 0x1p0\n0.1 abc 0x1p0\n0.2 ab")
    write_run(tmp_path / "b", 1.0, "0x1p0", "0.0 abc 0x1p0\n0.1 abc 0x1p0\n")
    assert differences(tmp_path / "a", tmp_path / "b") == []


def test_each_difference_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", 1.0, "0x1p0", "0.0 abc 0x1p0\n0.1 abc 0x1p0\n0.3 abc 0x1p0\n")
    write_run(tmp_path / "b", 0.0, "0x1p1", "0.0 abc 0x1p0\n0.1 abc 0x1p1\n0.2 abc 0x1p1\n")
    (run / "checkpoints/last.next").touch()
    assert differences(tmp_path / "a", tmp_path / "b") == [
        "best.ckpt: state_dict",
        "last.ckpt: state_dict",
        "metrics.csv",
        "step 0.2 was not trained",
        "step 0.1",
        "step 0.3",
        "left over: last.next",
    ]


def test_a_repeated_step_with_another_loss_is_a_difference(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 1.0, "0x1p0", "0.0 abc 0x1p0\n0.0 abc 0x1p1\n")
    write_run(tmp_path / "b", 1.0, "0x1p0", "0.0 abc 0x1p0\n")
    assert differences(tmp_path / "a", tmp_path / "b") == ["step 0.0"]


def test_contents_are_compared_bit_for_bit() -> None:
    assert same({"a": [torch.zeros(2), 1]}, {"a": [torch.zeros(2), 1]})
    assert not same([torch.zeros(2)], [torch.tensor([0.0, 1e-45])])
    assert not same({"a": 1}, {"b": 1})
    assert not same([1], [1, 2])
