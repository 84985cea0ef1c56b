"""Outputs: what a test predicted of each sample, kept in the run folder for reports and comparisons."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from src import UserError, quote, replace_file
from src.analysis.statistics import Interval, bootstrap_mean, confusions, ends, holm, mcnemar, resampling, wilson

Array = NDArray[Any]
FILE = "test.npz"
KINDS = {"classes": "accuracy", "labels": "f1", "numbers": "mae", "masks": "iou", "embeddings": "recall_at_1"}
DICTS = ("splits", "traits", "pictures")  # fields of several arrays
DRAWS = 500  # of resampled counts per class


@dataclass
class Outputs:
    """Predictions and targets of N test samples, in the order of the test split.

    ``values`` has for each sample: 1 if it is right (classes) or if the nearest other sample has its class (embeddings;
    NaN if none has), its mean absolute error (numbers), or true positives, false positives and false negatives of each
    class (labels, masks), (N, K, 3).
    """

    kind: str  # what a target is
    values: Array
    loss: Array  # how wrong each prediction is, (N,), to find the worst
    preds: Array  # probabilities (N, K), numbers (N, D) or embeddings (N, D); none of masks
    targets: Array  # classes (N,), labels (N, K) or numbers (N, D); none of masks
    test_set: str  # identifies the samples and their targets, so that runs can be compared
    class_names: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # of the image files, or empty
    splits: dict[str, Array] = field(default_factory=dict)  # samples of each class, (K,), or of all, (1,)
    traits: dict[str, Array] = field(default_factory=dict)  # numbers of each image, (N,), such as its brightness
    shown: Array = field(default_factory=lambda: np.zeros(0, dtype=int))  # positions of the worst samples
    pictures: dict[str, Array] = field(default_factory=dict)  # their images (M, C, H, W), uint8, and masks

    def __len__(self) -> int:
        return len(self.values)

    def class_name(self, k: int) -> str:
        return self.class_names[k] if k < len(self.class_names) else str(k)

    @property
    def metric(self) -> str:
        return KINDS[self.kind]

    @property
    def identity(self) -> str:
        """Tells predictions apart, so that what was measured of others is not shown with these."""
        return sha256(self.test_set.encode() + np.ascontiguousarray(self.values).tobytes()).hexdigest()[:16]

    def save(self, file: Path) -> None:
        flat: Any = {key: value for key, value in vars(self).items() if not isinstance(value, dict)}
        flat |= {f"{key}.{name}": each for key in DICTS for name, each in vars(self)[key].items()}
        part = file.with_suffix(".part")
        with part.open("wb") as stream:
            np.savez_compressed(stream, **flat)
        replace_file(part, file)

    @classmethod
    def load(cls, folder: Path) -> "Outputs":
        """Return the outputs of a run folder; a UserError if it has none."""
        try:
            with (folder / FILE).open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                found: Any = {key: stored[key] for key in stored.files}
            for owner in DICTS:
                keys = [key for key in found if key.startswith(f"{owner}.")]
                found[owner] = {key.removeprefix(f"{owner}."): found.pop(key) for key in keys}
            found |= {key: str(found[key]) for key in ("kind", "test_set")}
            return cls(**found | {key: [str(each) for each in found[key]] for key in ("class_names", "names")})
        except FileNotFoundError:
            hint = f"run: python -m src.cli test --run {quote(folder)}"
            how = "whose test_step must return a dict with preds and targets"
            raise UserError(f"{folder} has no predictions of its test split: {hint} ({how})") from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, BadZipFile) as error:
            again = f"delete it, then run: python -m src.cli test --run {quote(folder)}"
            raise UserError(f"cannot read {folder / FILE} ({str(error)[:80]}): {again}") from None


def as_array(x: Any) -> Array:
    """Return a tensor on the CPU, half precision as float32, because NumPy has no bfloat16."""
    x = x.detach().cpu()
    return (x.float() if x.is_floating_point() else x).numpy()


def kind_of(preds: Array, targets: Array) -> str | None:
    """Return what predictions and targets of a test are, by their shapes and types; None if they are something else."""
    whole = targets.dtype.kind in "iub"
    if targets.ndim == 1 and preds.ndim == 2 and whole:
        p = preds.astype(np.float64)
        sums, squares = (np.abs(each.sum(1) - 1).max(initial=0) for each in (p, p**2))
        return "classes" if sums < 0.02 and (p >= 0).all() else "embeddings" if squares < 0.05 else None
    fractions = preds.ndim == 2 and ((preds >= 0) & (preds <= 1)).all() and np.isin(targets, (0, 1)).all()
    if targets.ndim == 2 and preds.shape == targets.shape and (whole or fractions):  # the losses of labels take floats
        return "labels"
    if targets.ndim <= 2 and preds.size == targets.size and targets.dtype.kind == "f":
        return "numbers"
    return "masks" if targets.ndim == 3 and preds.shape == targets.shape and whole else None


def score(kind: str, preds: Array, targets: Array, num_classes: int) -> tuple[Array, Array]:
    """Return ``values`` and ``loss`` of samples, see ``Outputs``."""
    if kind == "classes":
        true = preds[np.arange(len(targets)), targets].astype(np.float64)
        return (preds.argmax(1) == targets).astype(float), -np.log(true.clip(1e-12))
    if kind == "numbers":
        errors = np.abs(preds.reshape(len(targets), -1) - targets.reshape(len(targets), -1)).mean(1)
        return errors, errors
    if kind == "embeddings":
        return nearest_hits(preds, targets)
    if kind == "labels":
        p = preds.astype(np.float64).clip(1e-12, 1 - 1e-7)
        losses = -np.where(targets > 0, np.log(p), np.log(1 - p)).mean(1)
        above, labels = preds > 0.5, targets > 0
        return np.stack([above & labels, above & ~labels, ~above & labels], 2).astype(np.int32), losses
    counts = np.stack([confusions(a, b, num_classes) for a, b in zip(preds, targets, strict=True)])
    return counts, 1 - macro(counts, "masks", per_sample=True)


def nearest_hits(embeddings: Array, targets: Array) -> tuple[Array, Array]:
    """Return 1 if the nearest other sample has the same class, else 0, or NaN of a sample that is alone in its class.

    Also return how far an intruder is nearer than the nearest sample of the class; below 0 if it is farther.
    """
    x = embeddings.astype(np.float64)
    squares, found = (x**2).sum(1), []
    for rows in np.array_split(np.arange(len(x)), max(1, len(x) // 500)):
        d = (squares[rows, None] + squares - 2 * x[rows] @ x.T).clip(0) ** 0.5
        d[np.arange(len(rows)), rows] = np.inf
        same = targets[rows, None] == targets
        found.append([np.where(each, d, np.inf).min(1) for each in (same, ~same)])
    own, other = np.concatenate(found, 1)
    return np.where(np.isinf(own), np.nan, own <= other), np.nan_to_num(own - other, nan=0, posinf=0, neginf=0)


def macro(counts: Array, kind: str, per_sample: bool = False) -> Array:
    """Return the mean over classes of F1 (labels) or IoU (masks) of counts (..., K, 3).

    Of masks, and of single samples, classes do not count that are neither predicted nor true.
    """
    hit, others = counts[..., 0], counts[..., 1] + counts[..., 2]
    top, bottom = (2 * hit, 2 * hit + others) if kind == "labels" else (hit, hit + others)
    each = np.divide(top, bottom, out=np.zeros(np.shape(top)), where=bottom > 0)
    used = bottom > 0 if kind == "masks" or per_sample else np.ones(np.shape(top), dtype=bool)
    return each.sum(-1) / np.maximum(used.sum(-1), 1)


def headline(o: Outputs) -> tuple[float, Interval]:
    """Return the headline metric and its 95 % interval: Wilson's of a proportion, else that of the bootstrap."""
    if o.kind in ("classes", "embeddings"):
        known = o.values[~np.isnan(o.values)]
        value = float(known.mean()) if len(known) else float("nan")  # each sample may be alone in its class
        return value, wilson(float(known.sum()), len(known))
    if o.kind == "numbers":
        return float(o.values.mean()), bootstrap_mean(o.values)
    return float(macro(o.values.sum(0), o.kind)), ends(resampled([o])[0])


def measured(o: Outputs) -> dict[str, Any]:
    """Return the headline metric for a JSON file."""
    value, interval = headline(o)
    return {"value": value, "interval": list(interval)}


def resampled(runs: list[Outputs]) -> list[Array]:
    """Return the macro metric of each run on the same resampled test sets, (DRAWS,) each."""
    n = len(runs[0])
    weights = resampling(n, DRAWS)
    sums = [weights @ o.values.reshape(n, -1).astype(np.float32) for o in runs]
    return [macro(s.reshape(DRAWS, *o.values.shape[1:]), o.kind) for s, o in zip(sums, runs, strict=True)]


def difference(a: Outputs, b: Outputs) -> tuple[float, Interval, float | None]:
    """Return how much higher the second run's metric is, the paired 95 % interval, and McNemar's p-value, if any."""
    if a.values.ndim > 1:
        first, second = resampled([a, b])
        return headline(b)[0] - headline(a)[0], ends(second - first), None
    known = ~(np.isnan(a.values) | np.isnan(b.values))
    x, y = a.values[known], b.values[known]
    p = None if a.kind == "numbers" else mcnemar(int((x > y).sum()), int((y > x).sum()))
    return float((y - x).mean()), bootstrap_mean(y - x), p


def differences(pairs: Iterable[tuple[Outputs, Outputs]]) -> list[dict[str, Any]]:
    """Return the ``difference`` of each pair for a JSON file, with p-values adjusted for their number."""
    tests = [difference(a, b) for a, b in pairs]
    adjusted = zip(tests, holm([p for *_, p in tests]), strict=True)
    return [{"difference": gap, "difference_interval": list(both), "p": p} for (gap, both, _), p in adjusted]
