"""Learning curves: what metrics.csv holds, and sentences on it, each with the rule and the figures it comes from."""

import csv
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from math import isfinite
from pathlib import Path

import numpy as np

Curve = tuple[list[int], list[float]]  # epochs, counted from 1, or steps, and the value of each
OTHERS = ("epoch", "step", "train/loss_step", None)  # columns that are no curves; None if a line is too long
ENOUGH = 6  # epochs below which no sentence is said


def read_curves(file: Path) -> dict[str, Curve]:
    """Return the curve over epochs of each metric of metrics.csv, in the order of its columns; of lr-*, over steps."""
    found: dict[str, Curve] = {}
    if not file.is_file():
        return found
    with file.open(newline="", encoding="utf-8", errors="replace") as stream:
        for row in csv.DictReader(stream):
            for name in [each for each in row if each not in OTHERS]:
                with suppress(ValueError, TypeError, KeyError):  # no value, or a line that is being written
                    place, value = int(float(row["step" if name.startswith("lr-") else "epoch"])) + 1, float(row[name])
                    places, values = found.setdefault(name, ([], []))
                    if places[-1:] != [place]:
                        places.append(place)
                        values.append(0.0)
                    values[-1] = value  # the last one of an epoch
    return found


def noise(values: Sequence[float]) -> float:
    """Return the standard deviation of values around their trend, from the differences of neighbors."""
    steps = np.diff(np.asarray(values, dtype=float))
    return float(np.sqrt(np.mean((steps - steps.mean()) ** 2) / 2)) if len(steps) > 1 else 0.0


def sentences(curves: dict[str, Curve]) -> list[tuple[str, str]]:
    """Return what the losses of a run show, with the rule behind each sentence; nothing where no rule holds."""
    epochs, val = finite(curves.get("val/loss"))
    train_epochs, train = finite(curves.get("train/loss"))
    if lost := diverges(curves):
        return lost
    found = [*jumps(train_epochs, train), *hardly_learns(train)]
    if len(val) >= ENOUGH and len(train) >= ENOUGH:
        both = dict(zip(train_epochs, train, strict=True))  # there may be a validation every few epochs only
        found += overfits(epochs, val, [both.get(epoch, np.nan) for epoch in epochs]) or still_falls(val)
    return found


def diverges(curves: dict[str, Curve]) -> list[tuple[str, str]]:
    """Tell from which epoch on a loss is not finite until the end."""
    for name in ("train/loss", "val/loss"):
        epochs, values = curves.get(name, ([], []))
        lost = max((i + 1 for i, value in enumerate(values) if isfinite(value)), default=0)
        if lost < len(values):
            text = f"Diverges: from epoch {epochs[lost]} on, {name} is not finite."
            return [(text, "It is NaN or infinite to the end.")]
    return []


def finite(curve: Curve | None) -> Curve:
    pairs = [(x, y) for x, y in zip(*curve, strict=True) if isfinite(y)] if curve else []
    return [x for x, _ in pairs], [y for _, y in pairs]


def overfits(epochs: list[int], val: list[float], train: list[float]) -> list[tuple[str, str]]:
    """Tell whether the validation loss rises while the training loss falls."""
    best, n = int(np.argmin(val)), max(3, len(val) // 5)
    last, lowest = val[-n:], min(np.convolve(val, np.ones(n) / n, "valid"))
    rise, spread = np.mean(last) - lowest, noise(val[best:]) * (2 / n) ** 0.5
    if best >= len(val) - n or rise <= max(0.1 * abs(lowest), 4 * spread) or not train[-1] < train[best]:  # may be NaN
        return []
    text = (
        f"Overfits from epoch {epochs[best]} on: there val/loss was lowest, {val[best]:.4g}; over the last {len(last)}"
        f" epochs it is {np.mean(last):.4g}, while train/loss fell from {train[best]:.4g} to {train[-1]:.4g}."
    )
    rule = f"The mean of the last {n} epochs is above the lowest of any {n} by over 10 % and 4 times its noise."
    return [(text, rule)]


def still_falls(val: list[float]) -> list[tuple[str, str]]:
    """Tell whether the validation loss still falls at the end."""
    n = max(2, len(val) // 5)
    before, last = float(np.mean(val[-2 * n : -n])), float(np.mean(val[-n:]))
    spread = noise(val[-2 * n :]) * (2 / n) ** 0.5
    if before - last <= max(0.05 * abs(before), 3 * spread):
        return []
    text = f"Still falling: val/loss is {last:.4g} over the last {n} epochs, {before:.4g} over the {n} before them."
    rule = f"The mean fell by more than 5 % and 3 times its noise ({spread:.2g}) from one fifth to the next."
    return [(f"{text} More epochs may help.", rule)]


def jumps(epochs: list[int], train: list[float]) -> list[tuple[str, str]]:
    """Tell whether the training loss ever rose far above what it had reached."""
    for epoch, lowest, now in zip(epochs[1:], accumulate(train, min), train[1:], strict=False):
        if now - lowest > max(lowest, 0.1 * train[0]) and lowest > 0:
            text = f"The learning rate may be too high: train/loss rose from {lowest:.4g} to {now:.4g}"
            rule = "It more than doubled, by more than a tenth of the loss of the first epoch."
            return [(f"{text} in epoch {epoch}.", rule)]
    return []


def hardly_learns(train: list[float]) -> list[tuple[str, str]]:
    """Tell whether the training loss hardly fell."""
    if len(train) < ENOUGH or min(train) <= 0.9 * train[0] or train[0] <= 0:
        return []
    text = f"Hardly learns: train/loss was {train[0]:.4g} in the first epoch and never below {min(train):.4g}."
    return [(text, "The lowest loss is above 90 % of that of the first epoch.")]
