"""Charts of what a net predicts: functions of arrays that return a matplotlib Figure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.analysis.statistics import calibration, wilson

Array = NDArray[Any]
MANY = 30  # classes from which a matrix has no numbers, and bars only show the worst
BLUE = "#2f6bb0"


def figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure  # slow to import

    return Figure(figsize=(width, height), layout="constrained", dpi=100)


def short(name: Any, length: int = 14) -> str:
    """Return a name in one line of limited length, of which a figure draws every character as it is."""
    text = " ".join(str(name).replace("$", r"\$").encode("utf-8", "backslashreplace").decode().split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def draw_confusion(counts: Array, names: Sequence[str]) -> Any:
    """Draw a confusion matrix colored by share of the true class, with counts or, of many classes, the worst pairs."""
    k = len(counts)
    height = 8 if k > MANY else 3 + 0.45 * max(k, 5)
    drawn = figure(height * (1.4 if k > MANY else 1), height)
    axes, *others = drawn.subplots(1, 2, width_ratios=(5, 2)) if k > MANY else [drawn.subplots()]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    title = f"accuracy {np.trace(counts) / max(counts.sum(), 1):.1%} of {counts.sum():,}"
    axes.set(xlabel="predicted", ylabel="true", title=title)
    side = "left" if k > MANY else "right"
    drawn.colorbar(picture, ax=axes, shrink=0.6, label="share of the true class", location=side)
    if k > MANY:
        wrong = counts * (1 - np.eye(k, dtype=int))
        pairs = [divmod(int(i), k) for i in np.argsort(-wrong, axis=None, kind="stable")[:25]]
        lines = [f"{counts[i, j]:>4}  {short(names[i])} → {short(names[j])}" for i, j in pairs if wrong[i, j]]
        text = "\n".join(["most frequent errors", "true → predicted", "", *lines])
        others[0].text(0, 1, text, va="top", fontsize="small")
        others[0].set_axis_off()
        return drawn
    axes.set_xticks(range(k), [short(name) for name in names], rotation=90 if k > 10 or max(map(len, names)) > 4 else 0)
    axes.set_yticks(range(k), [short(name) for name in names])
    for i, j in np.argwhere(counts):
        color = "white" if shares[i, j] > 0.6 else "black"
        axes.text(j, i, f"{counts[i, j]}", ha="center", va="center", color=color, fontsize="small")
    return drawn


def draw_classes(values: Array, names: Sequence[str], metric: str) -> Any:
    """Draw a bar for each class, the worst first: values (K,), or with the ends of intervals (K, 3)."""
    values = values[:, None].repeat(3, 1) if values.ndim == 1 else values
    order = [i for i in np.argsort(values[:, 0], kind="stable") if not np.isnan(values[i, 0])]
    shown = order[:MANY]
    v, low, high = values[shown].T
    drawn = figure(6.5, 1.2 + 0.26 * len(shown))
    axes = drawn.subplots()
    errors = np.nan_to_num(np.maximum([v - low, high - v], 0))
    axes.barh(range(len(shown)), v, color=BLUE, xerr=errors if errors.any() else None, ecolor="black", capsize=2)
    axes.set_yticks(range(len(shown)), [short(names[i], 20) for i in shown])
    title = f"{MANY} worst of {len(order)} classes" if len(order) > MANY else f"{metric} per class"
    axes.set(xlim=(0, 1), xlabel=f"{metric}, with 95 % intervals" if errors.any() else metric, title=title)
    axes.invert_yaxis()
    return drawn


def draw_recall(counts: Array, names: Sequence[str]) -> Any:
    """Draw the recall of each class with Wilson's interval."""
    pairs = [(int(counts[i, i]), int(counts[i].sum())) for i in range(len(counts))]
    values = [(right / n, *wilson(right, n)) if n else (np.nan,) * 3 for right, n in pairs]
    return draw_classes(np.array(values), names, "recall")


def draw_calibration(confidence: Array, right: Array) -> Any:
    """Draw accuracy against confidence in bins, and how many samples have which confidence."""
    error, bins = calibration(confidence, right)
    drawn = figure(5, 5.5)
    axes, below = drawn.subplots(2, height_ratios=(3, 1), sharex=True)
    axes.plot([0, 1], [0, 1], color="gray", linestyle="--", label="perfectly calibrated")
    axes.plot(bins[:, 0], bins[:, 1], marker="o", color=BLUE, label="this net")
    title = f"calibration error {error:.2%} of {len(confidence):,} samples"
    axes.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy", title=title)
    axes.legend(loc="lower right")
    below.bar(bins[:, 0], bins[:, 2], width=0.04, color=BLUE)
    below.set(yscale="log", xlabel="confidence", ylabel="samples")
    below.minorticks_off()
    return drawn


def draw_embedding(vectors: Array, targets: Array, names: Sequence[str] | None = None) -> Any:
    """Draw vectors (N, D) on their two principal axes, colored by class, or by number if there are no ``names``."""
    left, sizes, _ = np.linalg.svd(vectors.astype(float) - vectors.mean(0), full_matrices=False)
    points, shares = left[:, :2] * sizes[:2], sizes**2 / max(float((sizes**2).sum()), 1e-30)
    drawn = figure(7, 5.5)
    axes = drawn.subplots()
    k = len(names or ())
    colors, most = ("tab10", 9) if k <= 10 else ("tab20", 19) if k <= 20 else ("turbo", k - 1)
    scale = {"cmap": colors, "vmin": 0, "vmax": most} if k else {}
    scatter = axes.scatter(*points.T, c=targets, s=9, **scale)
    axes.set(xlabel=f"first axis, {shares[0]:.0%} of the variance", ylabel=f"second axis, {shares[1]:.0%}")
    axes.set_title(f"features of {len(points):,} samples (PCA)")
    if names and k <= 20:
        handles = [axes.scatter([], [], color=scatter.to_rgba(i), label=short(name)) for i, name in enumerate(names)]
        drawn.legend(handles=handles, loc="outside right upper")
    else:
        drawn.colorbar(scatter, ax=axes, label="class" if names else "target")
    return drawn


def draw_residuals(predicted: Array, true: Array) -> Any:
    """Draw predicted against true numbers (N,) or (N, D), of the first four, and how the errors are distributed."""
    predicted, true = (each.reshape(len(each), -1)[:, :4] for each in (predicted, true))
    d = predicted.shape[1]
    drawn = figure(9, 4 * d)
    for i, (left, right) in enumerate(drawn.subplots(d, 2, squeeze=False)):
        error = predicted[:, i] - true[:, i]
        ends = [float(true[:, i].min()), float(true[:, i].max())]
        left.plot(ends, ends, color="gray", linestyle="--")
        left.scatter(true[:, i], predicted[:, i], s=9, color=BLUE, alpha=0.5)
        left.set(xlabel="true", ylabel="predicted", title=f"target {i}" if d > 1 else f"{len(true):,} samples")
        right.hist(error, bins=40, color=BLUE)
        right.axvline(0, color="gray", linestyle="--")
        title = f"mean {error.mean():.3g}, mean absolute {np.abs(error).mean():.3g}"
        right.set(xlabel="predicted - true", ylabel="samples", title=title)
    return drawn
