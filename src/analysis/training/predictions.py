"""Which charts and sheets show a set of predictions, by what they are."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from src.analysis.outputs import kind_of, score
from src.analysis.statistics import confusion, confusions
from src.analysis.training import pictures
from src.analysis.training.pictures import Array, short
from src.analysis.training.sheets import Sample, draw_samples

COLUMNS = 8  # samples in a row
Figures = Iterator[tuple[str, Callable[[], Any]]]  # names, and functions that draw
Rows = dict[str, list[Sample]]  # of a sheet


@dataclass
class Predictions:
    """Predictions and targets of N samples, as a task's ``evaluate`` returns them, and some of their images.

    Predictions are probabilities (N, K) of classes (N,) or of labels (N, K) of 0 and 1; embeddings (N, D) of classes;
    numbers (N,) or (N, D); or masks (N, H, W).
    """

    predicted: Array
    targets: Array
    images: dict[int, Array]  # (H, W) or (H, W, 3), uint8, by sample
    features: Array | None = None  # before the last layer, (N, F)
    names: list[str] | None = None  # of classes

    def figures(self) -> Figures:
        """Yield the names of figures and functions that draw them."""
        if kind := kind_of(self.predicted, self.targets):
            yield from getattr(self, f"of_{kind}")()

    def of_embeddings(self) -> Figures:
        yield from self.embedding(self.predicted, self.class_names(int(self.targets.max()) + 1))
        yield from self.sheet("neighbors", self.neighbors)

    def of_numbers(self) -> Figures:
        yield "residuals", partial(pictures.draw_residuals, self.predicted.reshape(self.targets.shape), self.targets)
        yield from self.sheet("samples", self.numbers)
        yield from self.embedding(self.features)

    def sheet(self, name: str, rows: Callable[[], Rows]) -> Figures:
        if self.images:
            yield name, lambda: draw_samples(rows())

    def embedding(self, vectors: Array | None, names: list[str] | None = None) -> Figures:
        if vectors is not None and min(vectors.shape) > 1:
            targets = self.targets.reshape(len(vectors), -1)[:, 0]
            yield "embedding", partial(pictures.draw_embedding, vectors, targets, names)

    def class_names(self, count: int) -> list[str]:
        names = self.names or []
        return [*names, *map(str, range(len(names), count))][:count]

    def of_classes(self) -> Figures:
        p, t = self.predicted, self.targets
        names = self.class_names(p.shape[1])
        counts = confusion(p.argmax(1), t, len(names))
        yield "confusion", partial(pictures.draw_confusion, counts, names)
        yield "classes", partial(pictures.draw_recall, counts, names)
        yield "calibration", partial(pictures.draw_calibration, p.max(1), p.argmax(1) == t)
        yield from self.sheet("samples", self.guesses)
        yield from self.embedding(self.features, names)

    def of_masks(self) -> Figures:
        k = int(max(self.predicted.max(), self.targets.max())) + 1
        counts = confusions(self.predicted.astype(int), self.targets, k)
        with np.errstate(invalid="ignore"):
            iou = counts[:, 0] / counts.sum(1)
        yield "classes", partial(pictures.draw_classes, iou, self.class_names(k), "intersection over union")
        yield from self.sheet("overlays", self.overlays)

    def of_labels(self) -> Figures:
        from sklearn.metrics import average_precision_score  # slow to import

        p, t = self.predicted, self.targets
        each = [average_precision_score(t[:, i], p[:, i]) if t[:, i].any() else np.nan for i in range(t.shape[1])]
        names = self.class_names(len(each))
        yield "classes", partial(pictures.draw_classes, np.array(each), names, "average precision")
        yield "calibration", partial(pictures.draw_calibration, p.ravel(), t.ravel())
        yield from self.sheet("samples", self.labels)

    def choose(self, loss: Array, count: int = COLUMNS) -> dict[str, Array]:
        """Return the samples with an image of the highest loss (N,), and the ones nearest to the median."""
        known = np.array([*self.images])
        order = {"worst": -loss[known], "typical": np.abs(loss[known] - np.median(loss[known]))}
        return {name: known[np.argsort(each, kind="stable")[:count]] for name, each in order.items()}

    def draw(self, rows: dict[str, Array], caption: Callable[[int], tuple[str, bool | None]]) -> Rows:
        return {name: [Sample(self.images[i], *caption(i)) for i in index] for name, index in rows.items()}

    def guesses(self) -> Rows:
        p, t = self.predicted, self.targets
        names, own, known = self.class_names(p.shape[1]), p[np.arange(len(t)), t], np.array([*self.images])

        def caption(i: int) -> tuple[str, bool]:
            top = np.argsort(-p[i], kind="stable")[:2]
            lines = [f"is {short(names[t[i]], 11)}", *(f"{short(names[j], 11)} {p[i, j]:.2f}" for j in top)]
            return "\n".join(lines), bool(top[0] == t[i])

        def median(k: int) -> int:
            own_class = known[t[known] == k]
            return int(own_class[np.argsort(own[own_class], kind="stable")[len(own_class) // 2]])

        classes = np.unique(t[known])
        shown = classes[np.linspace(0, len(classes) - 1, min(COLUMNS, len(classes))).astype(int)]
        rows = {"worst": self.choose(1 - own)["worst"], "typical": np.array([median(k) for k in shown])}
        return self.draw(rows, caption)

    def numbers(self) -> Rows:
        p, t = (each.reshape(len(each), -1) for each in (self.predicted, self.targets))
        rows = self.choose((np.abs(p - t) / np.maximum(t.std(0), 1e-30)).mean(1))
        return self.draw(rows, lambda i: (f"is {t[i, 0]:.4g}\n{p[i, 0]:.4g}", None))

    def labels(self) -> Rows:
        p, t = self.predicted, self.targets
        names = self.class_names(t.shape[1])

        def caption(i: int) -> tuple[str, bool]:
            wrong = np.flatnonzero((p[i] > 0.5) != t[i])
            text = [f"{'misses' if t[i, j] else 'adds'} {short(names[j], 9)} {p[i, j]:.2f}" for j in wrong]
            return "\n".join(text[:3]) or "all right", not len(wrong)

        return self.draw(self.choose(score("labels", p, t, 0)[1]), caption)

    def overlays(self) -> Rows:
        p, t, known = self.predicted.astype(int), self.targets, [*self.images]
        loss = np.zeros(len(t))
        loss[known] = score("masks", p[known], t[known], int(max(p.max(), t.max())) + 1)[1]
        index = [(name, i) for name, own in self.choose(loss, COLUMNS // 2).items() for i in own.tolist()]
        rows = {"image": [Sample(self.images[i], f"{name}\nIoU {1 - loss[i]:.2f}") for name, i in index]}
        for name, masks in (("true", t), ("predicted", p)):
            rows[name] = [Sample(self.images[i], mask=masks[i]) for _, i in index]
        return rows

    def neighbors(self) -> Rows:
        p, t, known = self.predicted, self.targets, np.array([*self.images])
        names, rows = self.class_names(int(t.max()) + 1), {}
        for i in known[:: max(1, len(known) // 6)][:6]:
            similar = p[known] @ p[i]
            similar[known == i] = -np.inf
            order = np.argsort(-similar, kind="stable")[: min(COLUMNS - 1, len(known) - 1)]
            rows[f"sample {i}"] = [Sample(self.images[i], f"is {short(names[t[i]], 11)}")]
            for j, similarity in zip(known[order], similar[order], strict=True):
                caption = f"{short(names[t[j]], 11)} {similarity:.3f}"
                rows[f"sample {i}"].append(Sample(self.images[j], caption, bool(t[j] == t[i])))
        return rows
