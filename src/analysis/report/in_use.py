"""A model in use: its accuracy on pictures with feedback, how they drift, and which ones to label next."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from src.analysis import drift
from src.analysis.outputs import Array, Outputs
from src.analysis.statistics import bootstrap_mean, fisher, welch, wilson

WINDOW = 500  # records that are compared at once with the reference, newest first
NEXT, ALIKE = 24, 4  # pictures to label next, and at most those with the same two most probable classes
NAMES = {"classes": "probabilities", "numbers": "numbers", "embeddings": "embedding"}  # of outputs of exported models
Record = Mapping[str, Any]


def reference_of(o: Outputs) -> dict[str, Any]:
    """Return a reference like that of ``export``, from what the test kept of its samples."""
    names = {"brightness": "brightness", "contrast": "contrast", "sharpness": "edges"}
    values = {names[name]: each for name, each in o.traits.items() if name in names}
    outputs: dict[str, Array] = {}
    if o.kind in NAMES:
        outputs = {NAMES[o.kind]: o.preds.reshape(len(o), -1)}
    found = drift.traits({"kind": o.kind}, outputs) if outputs else {}
    found |= {"labels": (o.preds > 0.5).sum(1)} if o.kind == "labels" else {}  # decisions, not probabilities
    return drift.reference(values | found)


def in_use(own: list[dict[str, Any]], o: Outputs | None, reference: Record, known: str) -> dict[str, Any]:
    """Return facts on the records of a model, for the terminal, the page and other programs.

    Args:
        own: what ``shrunk`` returns of each, oldest first, with feedback as ``label``; see ``src.runs.records``.
        o: what the test returned, to compare with.
        reference: histograms of the traits of the test set, see ``src.analysis.drift``.
        known: what the reference is called.
    """
    facts: dict[str, Any] = {"from": own[0]["time"], "to": own[-1]["time"]}
    return facts | {"feedback": feedback(own, o), "drift": drifting(own, reference, known), "next": to_label(own)}


def shrunk(record: Record) -> dict[str, Any]:
    """Return a record with how much more probable its class is than the second, instead of all probabilities.

    Of labels, it is how far the least sure one is from 0.5, times two.
    """
    kept = {key: value for key, value in record.items() if key not in ("probabilities", "embedding", "values")}
    found = record.get("probabilities") or {}
    ranked = sorted(((p, name) for name, p in found.items() if p is not None), reverse=True)
    if isinstance(kept.get("prediction"), list) and ranked:
        p, name = min(ranked, key=lambda each: abs(each[0] - 0.5))
        return kept | {"margin": 2 * abs(p - 0.5), "close": [name]}
    if len(ranked) > 1:
        return kept | {"margin": ranked[0][0] - ranked[1][0], "close": [name for _, name in ranked[:2]]}
    return kept


def feedback(own: list[dict[str, Any]], o: Outputs | None) -> dict[str, Any] | None:
    """Return accuracy or mean absolute error of the records with feedback, and the p-value against the test set.

    Several labels are right if all are. The tests are Fisher's of proportions and Welch's of means.
    """
    pairs = [(each["prediction"], each["label"]) for each in own if "label" in each and "prediction" in each]
    numbers = any(is_number(a) for a, _ in pairs)
    if numbers:
        pairs = [(a, b) for a, b in pairs if is_number(a) and is_number(b) and np.shape(a) == np.shape(b)]
    else:
        pairs = [(a, b) for a, b in pairs if not isinstance(a, dict)]  # of masks
    if not pairs:
        return None
    if numbers:
        x = np.array([np.abs(np.subtract(a, b)).mean() for a, b in pairs])
        facts = {"metric": "mean absolute error", "value": float(x.mean()), "interval": [*bootstrap_mean(x)]}
    else:
        texts = [[sorted(map(str, each if isinstance(each, list) else [each])) for each in pair] for pair in pairs]
        x = np.array([a == b for a, b in texts], dtype=float)
        facts = {"metric": "accuracy", "value": float(x.mean()), "interval": [*wilson(x.sum(), len(x))]}
    test = values_of_test(o, numbers)
    facts |= {"samples": len(x)}
    if test is not None:
        p = welch(x, test) if numbers else fisher(int(x.sum()), len(x), int(test.sum()), len(test))
        facts |= {"test": float(test.mean()), "test_samples": len(test), "p": p}
    return facts


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number or a list of such numbers."""
    values = value if isinstance(value, list) else [value]
    numbers = bool(values) and all(isinstance(each, int | float) and not isinstance(each, bool) for each in values)
    return numbers and all(abs(each) < 1e300 for each in values)  # which NaN is not


def values_of_test(o: Outputs | None, numbers: bool) -> Array | None:
    """Return 1 for each test sample that is right, 0 for others, or the errors of numbers; None if there are none."""
    if o is None or o.kind not in (("numbers",) if numbers else ("classes", "labels")):
        return None
    return (~o.values[..., 1:].any((1, 2))).astype(float) if o.kind == "labels" else o.values


def drifting(own: list[dict[str, Any]], reference: Record, known: str) -> dict[str, Any] | None:
    """Return the p-value of each trait in the newest window of records, with medians, and the windows with alarms."""
    names = [name for name in reference["traits"] if name in own[-1]["traits"]]
    own = [each for each in own if each["traits"].keys() >= {*names}]  # an earlier version may have other traits
    values = {name: np.array([each["traits"][name] for each in own], dtype=float) for name in names}
    ends = [*range(len(own), WINDOW - 1, -WINDOW)] or [len(own)]
    windows = [{name: x[max(0, end - WINDOW) : end] for name, x in values.items()} for end in ends]
    found = [drift.compare(reference, window) for window in windows]
    alarms = [drift.alarms(reference, p) for p in found]
    rows = []
    for name in names:
        edges, counts = (reference["traits"][name][key] for key in ("edges", "counts"))
        half = int(np.searchsorted(np.cumsum(counts), sum(counts) / 2))
        median = {"reference": edges[min(half, len(edges) - 1)], "median": float(np.median(windows[0][name]))}
        rows.append({"trait": name, "p": found[0][name], "drifts": name in alarms[0], **median})
    facts = {"windows": len(ends), "alarms": sum(map(bool, alarms)), "samples": min(len(own), WINDOW)}
    return facts | {"reference": known, "traits": rows} if rows else None


def to_label(own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the least sure records without feedback; of copies and pictures that look the same, only one."""
    found: list[dict[str, Any]] = []
    seen: set[Any] = {each.get("sha256") or each.get("name") for each in own if "label" in each} - {None}
    pairs: dict[Any, int] = {}
    for each in sorted((r for r in own if "margin" in r and "label" not in r), key=lambda r: r["margin"]):
        looks = tuple(round(each["traits"].get(name, np.nan), 1) for name in ("brightness", "contrast", "edges"))
        marks, pair = {each.get("sha256") or each.get("name") or each["id"], looks}, frozenset(each["close"])
        if marks & seen or pairs.get(pair, 0) == ALIKE:
            continue
        seen |= marks
        pairs[pair] = pairs.get(pair, 0) + 1
        keys = ("id", "name", "sha256", "prediction", "margin", "close")
        found.append({key: each[key] for key in keys if key in each})
        if len(found) == NEXT:
            break
    return found
