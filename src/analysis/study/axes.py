"""The keys of a space: how they, their values and times are written, and where values lie on an axis."""

import json
from collections.abc import Sequence
from math import floor, log10
from typing import Any

from src.analysis.page import clipped, ticks

STATES = ("complete", "running", "pruned", "failed")


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return for each dotted key the fewest of its last words that no other key ends with."""
    ends = {key: [key.split(".", i)[-1] for i in range(key.count("."), -1, -1)] for key in keys}
    return {
        key: next(end for end in ends[key] if sum(other == end or other.endswith(f".{end}") for other in keys) == 1)
        for key in keys
    }


def number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def minutes(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def counts_text(trials: Sequence[Any]) -> str:
    return ", ".join(f"{n} {state}" for state in STATES if (n := sum(each.state == state for each in trials)))


class Axis:
    """A key of the space on an axis from 0 to 1; ``entry`` is {choices} or {from, to, log}."""

    def __init__(self, key: str, name: str, entry: dict[str, Any]) -> None:
        self.key, self.name, self.entry, self.log = key, name, entry, bool(entry.get("log"))
        self.choices = [*map(json.dumps, entry.get("choices", []))]
        self.places = [(i + 0.5) / len(self.choices) for i in range(len(self.choices))]
        self.low, self.high = entry.get("from", 0.0), entry.get("to", 1.0)
        texts = [number(choice) for choice in entry.get("choices", [])]
        short = [text.split(".")[-1] if all(map(str.isidentifier, text.split("."))) else text for text in texts]
        self.labels = short if len({*short}) == len(short) else texts  # of classes, the name without the module

    def place(self, settings: dict[str, Any]) -> float | None:
        """Return where the value of a trial is; None if the key does not apply to it."""
        if self.key not in settings:
            return None
        if self.choices:
            return self.places[self.choices.index(json.dumps(settings[self.key]))]
        return self.share(settings[self.key])

    def share(self, value: float) -> float:
        low, high, x = (log10(each) if self.log else each for each in (self.low, self.high, value))
        return min(max(float(x - low) / (high - low), 0.0), 1.0)

    def ticks(self, count: int, letters: int = 16) -> list[tuple[float, str]]:
        """Return place and label of at most ``count`` values."""
        if self.choices:
            labels = [clipped(label, letters) for label in self.labels]
            return [*zip(self.places, labels, strict=True)][:: -(-len(labels) // count)]
        found: list[float] = []
        if self.log:
            powers = range(floor(log10(self.low)), floor(log10(self.high)) + 1)
            low, high, options = self.low * 0.999, self.high * 1.001, ((1, 2, 5), (1, 3), (1,))
            inside = [[x for e in powers for m in each if low <= (x := m * 10.0**e) <= high] for each in options]
            found = next((each for each in inside if len(each) <= count), inside[-1][:: 1 + len(inside[-1]) // count])
        if len(found) < 2:
            found = [x for x in ticks(self.low, self.high, count - 1) if self.low <= x <= self.high]
        return [(self.share(x), f"{x:.4g}") for x in found]
