"""Contenders take turns, and a row of the table says how they compare."""

from pathlib import Path

import pytest

from tools.timing import compare, format_row, interleave, time_training
from tools.workloads import Pixels

pytestmark = pytest.mark.heavy
ROOT = Path(__file__).parents[2]


def test_a_row_has_medians_and_the_median_ratio_of_pairs() -> None:
    row = compare("a / b", [0.001, 0.003, 0.002], [0.001, 0.004, 0.001], goal=0.9)
    assert row == {"name": "a / b", "ours": 2.0, "other": 1.0, "ratio": 1.0, "goal": 0.9, "met": False}
    assert "1.00 0.9 missed" in format_row(row)
    assert compare("a / b", [1.0], [1.0], goal=None)["met"]


def test_contenders_take_turns_and_their_first_value_is_dropped() -> None:
    calls: list[str] = []

    def run(name: str) -> list[float]:
        calls.append(name)
        return [0.0, float(len(calls))]

    found = interleave(2, {"a": lambda: run("a"), "b": lambda: run("b")})
    assert calls == ["a", "b", "a", "b"]
    assert found == {"a": [1.0, 3.0], "b": [2.0, 4.0]}


def test_a_contender_trains_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (seconds,) = time_training(["stock"], "almost empty", 64, 3, Pixels(640, size=4)).values()
    assert len(seconds) == 3
    assert min(seconds) > 0
