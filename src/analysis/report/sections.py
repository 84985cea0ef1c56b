"""Sections of a run's page: classes, numbers and the worst samples."""

from typing import Any

import numpy as np

from src.analysis.outputs import Outputs, macro
from src.analysis.page import chart, interval, picture, shades
from src.analysis.statistics import bootstrap_mean, calibration, confusion, f1, f1_intervals, wilson

MATRIX = 30  # classes up to which the confusion matrix is shown; beyond, its largest errors
LARGEST = 15  # errors in that list
ROWS = 100  # classes up to which the table has all of them; beyond, those of lowest F1


def share(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def confused(o: Outputs, count: int) -> list[tuple[Any, ...]]:
    """Return the most frequent errors: true class, predicted class, their number, and the samples of the class."""
    pairs = np.stack([o.targets, o.preds.argmax(1)], 1)[o.values == 0]  # no matrix, which may not fit into memory
    pairs, counts = np.unique(pairs, axis=0, return_counts=True)
    order, totals = np.argsort(-counts, kind="stable")[:count], np.bincount(o.targets)
    return [(*map(o.class_name, pairs[i]), int(counts[i]), int(totals[pairs[i, 0]])) for i in order]


def classes_section(o: Outputs) -> dict[str, Any]:
    """Return confusion matrix or list, metrics per class with intervals, and calibration."""
    rows, k, right = [], o.preds.shape[1], o.values > 0
    confidence, predicted = o.preds.max(1), o.preds.argmax(1)
    parts = (o.targets[right], o.targets[~right], predicted[~right])  # true positives, false negatives, false positives
    counts = np.stack([np.bincount(each, minlength=k) for each in parts], 1)
    shown = np.arange(k) if k <= ROWS else np.argsort(f1(counts), kind="stable")[:ROWS]
    found = f1_intervals(counts[shown], len(o))
    for i, (hit, missed, wrong), (score, low, high) in zip(shown, counts[shown], found, strict=True):
        cells = [o.class_name(i), str(hit + missed)]
        for total in (hit + missed, hit + wrong):
            cells += [value(hit / total), share(*wilson(hit, total))] if total else ["", ""]
        rows.append([*cells, value(score), share(low, high) if high > low else ""])  # no error: nothing to resample
    error, bins = calibration(confidence, right)
    curve = chart(
        "accuracy of predictions by their confidence",
        [("perfect", [0, 1], [0, 1]), ("this run", bins[:, 0].tolist(), bins[:, 1].tolist())],
        y_range=(0, 1),
        sizes=[None, (1.5 + 6 * np.sqrt(bins[:, 2] / len(o))).round(1).tolist()],
    )
    matrix = confusion(predicted, o.targets, k) if k <= MATRIX else None
    return {
        "figures": [
            ("errors", f"{int((~right).sum()):,}", f"of {len(o):,} samples"),
            ("calibration error", f"{error:.4f}", f"mean confidence {100 * confidence.mean():.1f} %"),
        ],
        "matrix": None if matrix is None else {"counts": matrix.tolist(), "shades": shades(matrix)},
        "names": [o.class_name(i) for i in range(min(k, MATRIX))],
        "confused": [[a, b, str(n), f"{100 * n / total:.1f} %"] for a, b, n, total in confused(o, LARGEST)],
        "rows": rows,
        "note": "" if k <= ROWS else f" Shown are the {ROWS} of the {k:,} classes with the lowest F1.",
        "calibration": curve,
    }


def value(number: float) -> str:
    return "" if np.isnan(number) else f"{100 * number:.1f} %"


def per_class_section(o: Outputs) -> dict[str, Any]:
    """Return F1 or IoU of each class, with what it is made of."""
    rows = []
    for k, counts in enumerate(o.values.sum(0)):
        score = value(float(macro(counts[None], o.kind)))
        rows.append([o.class_name(k), score, *(f"{count:,}" for count in counts.tolist())])
    unit = "pixels" if o.kind == "masks" else "samples"
    head = ["class", {"f1": "F1", "iou": "IoU"}[o.metric]]
    head += [f"{kind} {unit}" for kind in ("true positive", "false positive", "false negative")]
    return {"head": head, "rows": rows}


def numbers_section(o: Outputs) -> dict[str, Any]:
    """Return the errors of each target, and predictions and residuals over the true numbers, in 10 groups of it."""
    preds, targets = (each.reshape(len(o), -1).astype(np.float64) for each in (o.preds, o.targets))
    rows, charts = [], []
    for d in range(targets.shape[1]):
        residual = preds[:, d] - targets[:, d]
        errors = {"mean |error|": np.abs(residual), "mean error": residual}
        groups = [g for g in np.array_split(np.argsort(targets[:, d], kind="stable"), 10) if len(g)]
        x, row = [float(targets[g, d].mean()) for g in groups], [str(d + 1)]
        for each in errors.values():
            row += [f"{each.mean():.4g}", interval(bootstrap_mean(each), o.kind)]
        row += [f"{each:.4g}" for each in ((residual**2).mean() ** 0.5, np.abs(residual).max())]
        rows.append(row)
        lines = [(name, x, [float(errors[name][g].mean()) for g in groups]) for name in ("mean error", "mean |error|")]
        name = f" of target {d + 1}" if targets.shape[1] > 1 else ""
        charts.append(chart(f"errors{name} by true value, in tenths of the samples", lines, dots=True))
    means = ["mean |error|", "95 % interval", "mean error", "95 % interval"]
    head = ["target", *means, "root mean square", "largest |error|"]
    return {"head": head, "rows": rows, "charts": [c for c in charts[:6] if c]}


def worst_section(o: Outputs) -> list[dict[str, Any]] | None:
    """Return pictures and captions of the worst samples."""
    if "image" not in o.pictures or o.pictures["image"].shape[1] not in (1, 3):
        return None
    items = []
    for row, position in enumerate(o.shown.tolist()):
        name = o.names[position] if o.names else f"test/{position}"
        alts = {"image": f"test sample {name}", "true": "true mask", "mask": "predicted mask"}
        images = [picture(o.pictures[layer][row], alt) for layer, alt in alts.items() if layer in o.pictures]
        items.append({"images": images, "lines": [*caption(o, position), name]})
    return items


def caption(o: Outputs, position: int) -> list[str]:
    """Return what was true and what was predicted of a sample."""
    if o.kind == "classes":
        p, true = o.preds[position], int(o.targets[position])
        k, name = int(p.argmax()), o.class_name(true)
        if k == true:
            return [f"{name}, right with {100 * p[k]:.0f} %"]
        return [f"{name} read as {o.class_name(k)}", f"{100 * p[k]:.1f} %, true class {100 * p[true]:.1f} %"]
    if o.kind == "numbers":
        first = [np.ravel(each[position])[0] for each in (o.preds, o.targets)]
        return [f"predicted {first[0]:.4g}", f"true {first[1]:.4g}"]
    if o.kind == "labels":
        wrong = np.flatnonzero(o.values[position][:, 1:].any(1)).tolist()
        texts = [f"{'missed' if o.targets[position][k] else 'wrongly'} {o.class_name(k)}" for k in wrong]
        return [", ".join(texts) or "right, but close to a threshold"]
    if o.kind == "masks":
        found = [np.flatnonzero(o.values[position][:, columns].any(1)).tolist() for columns in ([0, 2], [0, 1])]
        texts = [", ".join(map(o.class_name, each)) for each in found]
        return [f"IoU {100 * (1 - o.loss[position]):.1f} %", f"true: {texts[0]}", f"predicted: {texts[1]}"]
    whose = "its own" if o.values[position] else "another"
    return [f"{o.class_name(int(o.targets[position]))}: nearest is {whose} class"]
