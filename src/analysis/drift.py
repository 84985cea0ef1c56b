"""Drift: whether pictures in use, and what a model answers to them, are distributed like those of its test set."""

from collections.abc import Mapping
from math import erfc, exp, lgamma, log, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 10  # of a histogram, with equally many reference samples in each
DIGITS = 4  # significant ones of a value that count; the others depend on machine and library
LEVEL = 0.001  # of an alarm, divided by the number of traits
FEW = 5  # samples expected in a bin, below which it is joined with the next: Cochran, 1954
COLUMNS = 8  # first numbers of an output that are traits
Values = Mapping[str, ArrayLike]  # name of a trait: a value for each sample, (N,)


def looks(pixels: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Return brightness, contrast and edges of images (N, C, H, W), in pixel values [0, 255].

    Contrast is the standard deviation of the gray values, edges the mean absolute difference between neighbors.
    """
    gray = pixels[:, 0].astype(np.float32) if pixels.shape[1] == 1 else pixels.mean(1, dtype=np.float32)
    steps = [np.abs(np.diff(gray, axis=a)).mean((1, 2)) for a in (1, 2) if gray.shape[a] > 1]
    edges = sum(steps) / len(steps) if steps else np.zeros(len(gray))
    return {"brightness": gray.mean((1, 2)), "contrast": gray.std((1, 2)), "edges": np.asarray(edges)}


def traits(info: Mapping[str, Any], outputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return traits (N,) of what a model returned for N pictures, by the ``kind`` in its ``model.json``.

    Of other kinds than those below, each of the first numbers of a sample is a trait.
    """
    first: NDArray[Any] = next(iter(outputs.values()), np.zeros((0, 1)))
    n = len(first)
    if info["kind"] == "classes":
        p = first.astype(np.float64)
        return {"confidence": p.max(1), "entropy": entropy(p).sum(1), "class": p.argmax(1)}
    if info["kind"] == "labels":
        p, predicted = outputs["probability"].astype(np.float64), outputs["predicted"]
        spread = entropy(p) + entropy(1 - p)
        return {"confidence": np.maximum(p, 1 - p).mean(1), "entropy": spread.mean(1), "labels": predicted.sum(1)}
    if info["kind"] == "masks":
        flat = np.sort(first.reshape(n, -1), axis=1)
        return {"background": (flat == 0).mean(1), "classes": (np.diff(flat, axis=1) > 0).sum(1) + 1}
    if info["kind"] == "images":
        return {f"output {name}": values for name, values in looks(first).items()}
    columns = {name: each.reshape(n, -1) for name, each in outputs.items() if n and each.dtype.kind in "biuf"}
    found = {f"{name} {d}": each[:, d] for name, each in columns.items() for d in range(each.shape[1])[:COLUMNS]}
    return dict([*found.items()][:COLUMNS])


def entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return -p log p of each probability; 0 where it is 0."""
    return np.asarray(-p * np.log(np.clip(p, 1e-30, None)))


def rounded(values: ArrayLike) -> NDArray[np.float64]:
    return np.array([float(f"{x:.{DIGITS}g}") for x in np.ravel(values).tolist()], dtype=np.float64)


def reference(values: Values) -> dict[str, Any]:
    """Return the content of ``reference.json``: a histogram of each trait.

    Its bins end at quantiles, or at each of few values; two more are below and above all values, and get NaN too.
    """
    found, n = {}, 0
    for name, each in values.items():
        x = rounded(each)
        known, n = x[np.isfinite(x)], len(x)
        if not len(known):
            continue
        ends = np.unique(known)
        if len(ends) > BINS:
            ends = np.unique([*np.quantile(known, np.arange(1, BINS) / BINS, method="inverted_cdf"), ends[-1]])
        inner = [np.nextafter(known.min(), -np.inf), *ends]  # a bin holds its upper end
        found[name] = {"edges": inner, "counts": histogram(x, inner).tolist()}
    return {"format": 1, "samples": n, "traits": found}


def histogram(values: ArrayLike, edges: ArrayLike) -> NDArray[np.int64]:
    edges = np.asarray(edges)
    return np.bincount(np.searchsorted(edges, rounded(values)), minlength=len(edges) + 1)


def compare(reference: Mapping[str, Any], values: Values) -> dict[str, float]:
    """Return for each trait the p-value that samples have the distribution of the reference; both may be small."""
    known = {name: each for name, each in reference["traits"].items() if name in values}
    return {name: two_samples(np.array(each["counts"]), histogram(values[name], each["edges"]))
            for name, each in known.items()}  # fmt: skip


def alarms(reference: Mapping[str, Any], p: Mapping[str, float]) -> list[str]:
    """Return the traits whose p-value is below ``LEVEL``, divided by the number of traits (Bonferroni)."""
    return [name for name, each in p.items() if each < LEVEL / len(reference["traits"])]


def two_samples(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Return the p-value of the chi-squared test that two histograms are of one distribution."""
    n, m = float(first.sum()), float(second.sum())
    pairs = joined(first, second, FEW * (n + m) / max(1.0, min(n, m)))
    statistic = sum((a * sqrt(m / n) - b * sqrt(n / m)) ** 2 / (a + b) for a, b in pairs) if len(pairs) > 1 else 0.0
    return chi_squared_tail(statistic, len(pairs) - 1)


def joined(first: NDArray[np.int64], second: NDArray[np.int64], least: float) -> list[tuple[float, float]]:
    """Return the pairs of counts, those of neighbors joined until each has ``least`` samples.

    Which ones are joined depends on the sums of both, which tell nothing of how the two differ.
    """
    pairs = [(0.0, 0.0)]
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        pairs[-1] = (pairs[-1][0] + a, pairs[-1][1] + b)
        if sum(pairs[-1]) >= least:
            pairs.append((0.0, 0.0))
    rest = pairs.pop()
    if pairs:
        pairs[-1] = (pairs[-1][0] + rest[0], pairs[-1][1] + rest[1])
    return pairs


def chi_squared_tail(x: float, df: int) -> float:
    """Return the probability that a chi-squared variable of ``df`` degrees of freedom is above x.

    Abramowitz and Stegun, 1964, 26.4.4 and 26.4.5; the server has no scipy.
    """
    if x <= 0 or df < 1:
        return 1.0
    half, odd = x / 2, df % 2
    terms = (exp(k * log(half) - half - lgamma(k + 1)) for k in np.arange(odd / 2, df / 2))
    return min(1.0, (erfc(sqrt(half)) if odd else 0.0) + sum(terms))


class Drift:
    """Compare each ``window`` samples, one after the other, with a reference."""

    def __init__(self, reference: Mapping[str, Any], window: int = 500) -> None:
        self.reference, self.window = {"traits": {}} | dict(reference), window
        self.parts: list[dict[str, NDArray[Any]]] = []  # of the window that is not full
        self.waiting, self.checked = 0, 0  # samples in it, and in full windows
        self.p: dict[str, float] = {}  # of the last full window

    def add(self, values: Values) -> None:
        """Add samples: looks and traits. That is cheap, because only full windows are compared."""
        part = {name: np.ravel(values[name]) for name in self.reference["traits"] if name in values}
        self.parts += [part] if part else []
        self.waiting += len(next(iter(part.values()), ()))
        while self.waiting >= self.window:
            names = set.intersection(*map(set, self.parts))
            full = {name: np.concatenate([each[name] for each in self.parts]) for name in names}
            self.p = compare(self.reference, {name: x[: self.window] for name, x in full.items()})
            self.parts = [{name: x[self.window :] for name, x in full.items()}]
            self.waiting, self.checked = self.waiting - self.window, self.checked + self.window

    def state(self) -> dict[str, Any]:
        """Return how many samples were compared, and the last window's p-values and the traits that drift."""
        p = self.p
        return {"checked": self.checked, "drifting": alarms(self.reference, p), "p": p}
