"""Sections of a run's page: classes, numbers and the worst samples."""

from typing import Any

import numpy as np

from src.analysis.outputs import Array, Outputs, macro
from src.analysis.page import chart, picture, shades
from src.analysis.statistics import bootstrap_mean, calibration, f1, f1_intervals, wilson

MATRIX = 30  # classes up to which the confusion matrix is shown; beyond, its largest errors
LARGEST = 15  # errors in that list
ROWS = 100  # classes up to which the table has all of them; beyond, those of lowest F1


def name_of(o: Outputs, k: int) -> str:
    return o.class_names[k] if k < len(o.class_names) else str(k)


def share(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def confusion(o: Outputs) -> Array:
    """Return the counts (K, K) of true classes, in rows, and predicted ones."""
    k = o.preds.shape[1]
    return np.bincount(o.targets.astype(np.int64) * k + o.preds.argmax(1), minlength=k * k).reshape(k, k)


def confused(o: Outputs, count: int) -> list[tuple[Any, ...]]:
    """Return the most frequent errors: true class, predicted class, their number, and the samples of the class."""
    pairs = np.stack([o.targets, o.preds.argmax(1)], 1)[o.values == 0]  # no matrix, which may not fit into memory
    pairs, counts = np.unique(pairs, axis=0, return_counts=True)
    order, totals = np.argsort(-counts, kind="stable")[:count], np.bincount(o.targets)
    return [(*(name_of(o, k) for k in pairs[i]), int(counts[i]), int(totals[pairs[i, 0]])) for i in order]


def class_counts(o: Outputs) -> Array:
    """Return true positives, false negatives and false positives of each class, (K, 3)."""
    k, right = o.preds.shape[1], o.values > 0
    errors = (o.targets[right], o.targets[~right], o.preds.argmax(1)[~right])
    return np.stack([np.bincount(each, minlength=k) for each in errors], 1)


def classes_section(o: Outputs) -> dict[str, Any]:
    """Return confusion matrix or list, metrics per class with intervals, and calibration."""
    counts, rows = class_counts(o), []
    k = len(counts)
    shown = np.arange(k) if k <= ROWS else np.argsort(f1(counts), kind="stable")[:ROWS]
    found = f1_intervals(counts[shown], len(o))
    for i, (hit, missed, wrong), (score, low, high) in zip(shown, counts[shown], found, strict=True):
        cells = [name_of(o, i), str(hit + missed)]
        for total in (hit + missed, hit + wrong):
            cells += [value(hit / total), share(*wilson(hit, total))] if total else ["", ""]
        rows.append([*cells, value(score), share(low, high) if high > low else ""])  # no error: nothing to resample
    confidence, right = o.preds.max(1), o.values > 0
    error, bins = calibration(confidence, right)
    curve = chart(
        "accuracy of predictions by their confidence",
        [("perfect", [0, 1], [0, 1]), ("this run", bins[:, 0].tolist(), bins[:, 1].tolist())],
        y_range=(0, 1),
        sizes=[None, (1.5 + 6 * np.sqrt(bins[:, 2] / len(o))).round(1).tolist()],
    )
    return {
        "figures": [
            ("errors", f"{int((~right).sum()):,}", f"of {len(o):,} samples"),
            ("calibration error", f"{error:.4f}", f"mean confidence {100 * confidence.mean():.1f} %"),
        ],
        "matrix": matrix(o) if k <= MATRIX else None,
        "confused": [[a, b, str(n), f"{100 * n / total:.1f} %"] for a, b, n, total in confused(o, LARGEST)],
        "rows": rows,
        "note": "" if k <= ROWS else f" Shown are the {ROWS} of the {k:,} classes with the lowest F1.",
        "calibration": curve,
    }


def matrix(o: Outputs) -> dict[str, Any]:
    counts = confusion(o)
    return {"counts": counts.tolist(), "shades": shades(counts), "names": [name_of(o, k) for k in range(len(counts))]}


def value(number: float) -> str:
    return "" if np.isnan(number) else f"{100 * number:.1f} %"


def per_class_section(o: Outputs) -> dict[str, Any]:
    """Return F1 or IoU of each class, with what it is made of."""
    sums = o.values.sum(0)
    each = [float(macro(sums[k : k + 1], o.kind)) for k in range(len(sums))]
    rows = [[name_of(o, k), value(each[k]), *(f"{count:,}" for count in sums[k].tolist())] for k in range(len(sums))]
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
        low, high = bootstrap_mean(np.abs(residual))
        bias = bootstrap_mean(residual)
        cells = [np.abs(residual).mean(), residual.mean(), np.sqrt((residual**2).mean()), np.abs(residual).max()]
        texts = [f"{each:.4g}" for each in cells]
        rows.append(
            [str(d + 1), texts[0], f"{low:.4g} to {high:.4g}", texts[1], f"{bias[0]:.4g} to {bias[1]:.4g}", *texts[2:]]
        )
        groups = [g for g in np.array_split(np.argsort(targets[:, d], kind="stable"), 10) if len(g)]
        x = [float(targets[g, d].mean()) for g in groups]
        lines = [("mean error", x, [float(residual[g].mean()) for g in groups])]
        lines.append(("mean |error|", x, [float(np.abs(residual[g]).mean()) for g in groups]))
        name = f" of target {d + 1}" if targets.shape[1] > 1 else ""
        charts.append(chart(f"errors{name} by true value, in tenths of the samples", lines, dots=True))
    head = [
        "target",
        "mean |error|",
        "95 % interval",
        "mean error",
        "95 % interval",
        "root mean square",
        "largest |error|",
    ]
    return {"head": head, "rows": rows, "charts": [c for c in charts[:6] if c]}


def worst_section(o: Outputs) -> list[dict[str, Any]] | None:
    """Return pictures and captions of the worst samples."""
    if "image" not in o.pictures or o.pictures["image"].shape[1] not in (1, 3):
        return None
    items = []
    for row, position in enumerate(o.shown.tolist()):
        name = o.names[position] if o.names else f"test/{position}"
        layers = ["image", *(each for each in ("true", "mask") if each in o.pictures)]
        alts = {"image": f"test sample {name}", "true": "true mask", "mask": "predicted mask"}
        images = [picture(o.pictures[layer][row], alts[layer]) for layer in layers]
        items.append({"images": images, "lines": [*caption(o, position), name]})
    return items


def caption(o: Outputs, position: int) -> list[str]:
    """Return what was true and what was predicted of a sample."""
    if o.kind == "classes":
        p, true = o.preds[position], int(o.targets[position])
        k = int(p.argmax())
        if k == true:
            return [f"{name_of(o, true)}, right with {100 * p[k]:.0f} %"]
        return [f"{name_of(o, true)} read as {name_of(o, k)}", f"{100 * p[k]:.1f} %, true class {100 * p[true]:.1f} %"]
    if o.kind == "numbers":
        return [
            f"{name} {np.ravel(each[position])[0]:.4g}" for name, each in (("predicted", o.preds), ("true", o.targets))
        ]
    if o.kind == "labels":
        wrong = np.flatnonzero(o.values[position][:, 1:].any(1)).tolist()
        texts = [f"{'missed' if o.targets[position][k] else 'wrongly'} {name_of(o, k)}" for k in wrong]
        return [", ".join(texts) or "right, but close to a threshold"]
    if o.kind == "masks":
        found = [np.flatnonzero(o.values[position][:, columns].any(1)).tolist() for columns in ([0, 2], [0, 1])]
        texts = [", ".join(name_of(o, k) for k in each) for each in found]
        return [f"IoU {100 * (1 - o.loss[position]):.1f} %", f"true: {texts[0]}", f"predicted: {texts[1]}"]
    return [
        f"{name_of(o, int(o.targets[position]))}: nearest is {'its own' if o.values[position] else 'another'} class"
    ]
