"""Charts of a study: value by trial and by key, and parallel coordinates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import fsum, nan
from typing import Any

import numpy as np

from src.analysis.page import Series, chart, clipped, ticks
from src.analysis.study.axes import Axis

GAP, LENGTH, LEFT, TOP = 136, 260, 56, 36  # parallel coordinates: between axes, length of axes, space around them
TONES, SMALL, LARGE = 6, 2.5, 5.0  # colors of the lines, radii of points
WINNER, TIED = "winner", "not distinguishable"
Ends = tuple[float, float]


@dataclass
class Trial:
    """What the page shows of a trial."""

    number: int
    state: str
    settings: dict[str, Any]
    values: dict[str, float]  # of each run
    confirmed: dict[str, float]  # of each run with a new seed
    seconds: float
    error: str
    note: str  # WINNER, TIED with it, or nothing

    @property
    def value(self) -> float:
        return fsum(self.values.values()) / len(self.values) if self.values else nan


def value_range(trials: Sequence[Trial], mode: str) -> Ends:
    """Return the axis of values, without those far worse than most: they would hide how the others differ."""
    values = [each.value for each in trials]
    q1, q3 = map(float, np.quantile(values, [0.25, 0.75]))
    low, high = min(values), max(values)
    if low == high:
        return low - abs(low) / 10, high + abs(high) / 10
    fence = 3 * (q3 - q1) or high - low  # Tukey's outer fences
    return (max(low, q1 - fence), high) if mode == "max" else (low, min(high, q3 + fence))


def points(trials: Sequence[Trial], place: Callable[[Trial], float], *lines: Series, **options: Any) -> Any:
    """Return a chart with a point for each trial; that of the winner is larger."""
    groups = {state: [each for each in trials if each.state == state] for state in ("complete", "pruned", "running")}
    groups = {state: own for state, own in groups.items() if own}
    several = bool(lines) or len(groups) > 1
    found = [(state * several, [*map(place, own)], [each.value for each in own]) for state, own in groups.items()]
    sizes = [[LARGE if each.note == WINNER else SMALL for each in own] for own in groups.values()]
    return chart(series=[*found, *lines], sizes=sizes, **options)


def history(trials: Sequence[Trial], mode: str, ends: Ends) -> Any:
    """Return the chart of each trial's value by its number, and of the best so far."""
    done = sorted((each for each in trials if each.state == "complete"), key=lambda each: each.number)
    best = [*accumulate((each.value for each in done), max if mode == "max" else min)]
    stairs = [(done[i].number, best[max(0, i - before)]) for i in range(len(done)) for before in (1, 0)]
    stairs += [(max(each.number for each in trials), best[-1])] if done else []
    line = ("best so far", [x for x, _ in stairs], [y for _, y in stairs])
    return points(trials, lambda each: each.number, line, title="Value by number of the trial", y_range=ends)


def slice_chart(axis: Axis, trials: Sequence[Trial], ends: Ends) -> Any:
    """Return the chart of value against a key; trials with one choice are next to each other."""
    places = {each.number: place for each in trials if (place := axis.place(each.settings)) is not None}
    width = 0.5 / len(axis.choices) if axis.choices else 0.0
    return points(
        [each for each in trials if each.number in places],
        lambda each: places[each.number] + width * ((0.618034 * each.number) % 1 - 0.5),
        title=f"{axis.name} (logarithmic)" if axis.log else axis.name,
        y_range=ends,
        x_marks=axis.ticks(5, 30 // min(5, len(axis.choices) or 5)),
    )


def parallel(axes: Sequence[Axis], done: Sequence[Trial], monitor: str, mode: str, ends: Ends) -> dict[str, Any]:
    """Return what the page draws of parallel coordinates, for complete trials, the winner first.

    A line is interrupted where a key does not apply. Its color tells how good the value is.
    """
    marks = ticks(*ends)
    value = Axis("", monitor, {"from": marks[0], "to": max(marks[-1], marks[0] + 1e-9)})

    def height(place: float) -> float:
        return round(TOP + LENGTH * (1 - place), 1)

    def path(trial: Trial) -> str:
        places = [axis.place(trial.settings) for axis in axes] + [value.share(trial.value)]
        known = [(i, place) for i, place in enumerate(places) if place is not None]
        starts = ["M{} {}h0" if i == 0 or places[i - 1] is None else "L{} {}" for i, _ in known]  # h0: a point is seen
        return "".join(s.format(LEFT + i * GAP, height(place)) for s, (i, place) in zip(starts, known, strict=True))

    tones: list[list[str]] = [[] for _ in range(TONES)]
    for trial in done[1:]:
        good = value.share(trial.value) if mode == "max" else 1 - value.share(trial.value)
        tones[min(TONES - 1, int(good * TONES))].append(path(trial))
    labels = [(axis.name, axis.ticks(7)) for axis in axes]
    labels += [(monitor, [(value.share(x), f"{x:g}") for x in marks])]
    return {
        "width": 2 * LEFT + GAP * len(axes), "height": TOP + LENGTH + 12, "top": TOP, "bottom": TOP + LENGTH,
        "axes": [
            (LEFT + i * GAP, clipped(name, 18), [(height(place), text) for place, text in own])
            for i, (name, own) in enumerate(labels)
        ],
        "tones": [(round(100 * i / (TONES - 1)), paths) for i, paths in enumerate(tones) if paths],
        "best": path(done[0]), "alt": f"Settings and {monitor} of {len(done)} trials",
    }  # fmt: skip
