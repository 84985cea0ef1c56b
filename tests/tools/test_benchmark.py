"""The benchmark compares what it says, and writes what it prints."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import contenders
from scripts.benchmark import compared, interleaved, line, training

ROOT = Path(__file__).parents[2]


def test_a_row_has_medians_and_says_whether_the_goal_is_met() -> None:
    row = compared("a / b", [0.001, 0.003, 0.002], [0.001, 0.004, 0.001], goal=0.9)
    assert row == {"name": "a / b", "ours": 2.0, "other": 1.0, "ratio": 1.0, "goal": 0.9, "met": False}
    assert "1.00  0.9 not met" in line(row)
    assert compared("a / b", [1.0], [1.0], goal=None)["met"]


def test_contenders_take_turns_and_their_first_value_is_left_out() -> None:
    calls: list[str] = []

    def run(name: str) -> list[float]:
        calls.append(name)
        return [0.0, float(len(calls))]

    found = interleaved(2, {"a": lambda: run("a"), "b": lambda: run("b")})
    assert calls == ["a", "b", "a", "b"]
    assert found == {"a": [1.0, 3.0], "b": [2.0, 4.0]}


def test_contenders_of_steps_take_turns_in_processes_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    found = training(["stock", "bare"], "almost empty", 64, 3, contenders.Pixels(640, size=4))
    assert {name: len(seconds) for name, seconds in found.items()} == {"stock": 3, "bare": 3}
    assert min(found["stock"] + found["bare"]) > 0


@pytest.mark.parametrize("name", ["stock", "defaults", "barebones", "bare", "tutorial"])
@pytest.mark.filterwarnings("ignore")  # stock Lightning's advice
def test_each_contender_times_each_epoch(name: str) -> None:
    seconds = getattr(contenders, name)("almost empty", 64, 2, contenders.Pixels(640, size=4))
    assert len(seconds) == 2
    assert min(seconds) > 0


def test_the_table_is_written_as_json(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    command = [sys.executable, "-m", "scripts.benchmark", "augmentation", "--repeats", "1", "--json", str(file)]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    rows = json.loads(file.read_text())
    assert [row["name"] for row in rows] == [text[:44].strip() for text in printed.splitlines()[1:]]
    assert max(len(text) for text in printed.splitlines()) <= 80
