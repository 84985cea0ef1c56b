"""Charts of a study: the best so far, axes without values far off, and lines of parallel coordinates."""

import re
from typing import Any

import pytest

from src.analysis.study.axes import Axis
from src.analysis.study.charts import (
    GAP,
    LARGE,
    LEFT,
    LENGTH,
    TOP,
    WINNER,
    Trial,
    history,
    parallel,
    slice_chart,
    value_range,
)


def trial(number: int, value: float, state: str = "complete", note: str = "", **settings: Any) -> Trial:
    return Trial(number, state, settings, {"seed_0": value}, {}, 1.0, "", note)


def test_the_best_so_far_changes_where_a_better_trial_is() -> None:
    trials = [trial(3, 0.9, note=WINNER), trial(1, 0.7), trial(0, 0.5), trial(2, 0.6), trial(4, 1.0, "pruned")]
    c = history(trials, "max", (0.5, 1.0))
    assert [line["name"] for line in c["lines"]] == ["complete", "pruned", "best so far"]
    (low, bottom), *_, (high, top) = [(float(text), y) for y, text in c["y_ticks"]]
    (first, left), *_, (last, right) = [(float(text), x) for x, text in c["x_ticks"]]
    found = [tuple(map(float, each.split(","))) for each in c["lines"][2]["points"].split()]
    steps = [(0, 0.5), (0, 0.5), (1, 0.5), (1, 0.7), (2, 0.7), (2, 0.7), (3, 0.7), (3, 0.9), (4, 0.9)]
    xs = [first + (last - first) * (x - left) / (right - left) for x, _ in found]
    ys = [low + (high - low) * (y - bottom) / (top - bottom) for _, y in found]
    assert xs == pytest.approx([x for x, _ in steps], abs=0.01)
    assert ys == pytest.approx([y for _, y in steps], abs=0.001)
    assert [r for _, _, r in c["lines"][0]["dots"]].count(LARGE) == 1
    assert history([trial(0, 2.0), trial(1, 1.0)], "min", (1, 2))["alt"].endswith("best so far: 2 to 1")


def test_a_value_far_off_does_not_stretch_the_axis() -> None:
    losses = [trial(i, 0.1 + i / 100) for i in range(8)] + [trial(8, 1e9)]
    low, high = value_range(losses, "min")
    assert low == 0.1
    assert 0.17 <= high < 1
    assert value_range([trial(i, -each.value) for i, each in enumerate(losses)], "max") == (-high, -low)
    assert value_range([trial(0, 0.5), trial(1, 0.9)], "max") == (0.5, 0.9)
    assert value_range([trial(i, 0.5) for i in range(9)] + [trial(9, 0.1)], "max") == (0.1, 0.5)
    assert value_range([trial(0, -0.5)], "max") == pytest.approx((-0.55, -0.45))


def test_a_line_is_interrupted_where_a_key_does_not_apply() -> None:
    axes = [Axis(key, key, {"from": 0.0, "to": 1.0}) for key in "abc"]
    done = [trial(0, 1.0, a=1.0, b=0.5, c=0.0), trial(1, 0.0, a=0.0, c=1.0), trial(2, 0.5, b=0.0)]
    p = parallel(axes, done, "val/accuracy", "max", (0.0, 1.0))
    x, y = [LEFT + i * GAP for i in range(4)], {place: float(TOP + LENGTH * (1 - place)) for place in (0, 0.5, 1)}
    assert p["best"] == f"M{x[0]} {y[1]}h0L{x[1]} {y[0.5]}L{x[2]} {y[0]}L{x[3]} {y[1]}"
    (worst, (first,)), (_, (second,)) = p["tones"]
    assert worst == 0
    assert first == f"M{x[0]} {y[0]}h0M{x[2]} {y[1]}h0L{x[3]} {y[0]}"
    assert second == f"M{x[1]} {y[0]}h0M{x[3]} {y[0.5]}h0"
    assert re.fullmatch(r"[-\d. MLh]+", "".join((p["best"], first, second)))


def test_a_slice_has_the_trials_to_which_its_key_applies() -> None:
    axis = Axis("lr", "lr", {"from": 0.01, "to": 1.0, "log": True})
    c = slice_chart(axis, [trial(0, 0.5, lr=0.1), trial(1, 0.6), trial(2, 0.7, lr=1.0)], (0.5, 0.7))
    marks = {text: x for x, text in c["x_ticks"]}
    assert [x for x, _, _ in c["lines"][0]["dots"]] == [marks["0.1"], marks["1"]]
    assert slice_chart(axis, [trial(1, 0.6)], (0.5, 0.7)) is None
