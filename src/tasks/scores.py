"""Metrics of single tasks: numbers, masks, retrieval, several classes; and the values of samples behind a mean."""

from typing import Any

import torch
import torchmetrics.classification as tm
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, MetricCollection, R2Score
from torchmetrics.utilities import dim_zero_cat

from src import require
from src.tasks.metrics import Accuracy


class R2(R2Score):
    """Coefficient of determination; NaN for fewer than two samples.

    Sums of squares in single precision would lose the variance of targets far from 0.
    """

    def update(self, preds: Tensor, target: Tensor) -> None:
        precise = torch.float32 if target.device.type == "mps" else torch.float64
        super().update(preds.to(precise), target.to(precise))

    def compute(self) -> Tensor:
        return super().compute().float() if self.total > 1 else torch.tensor(torch.nan, device=self.device)


def regression_metrics() -> MetricCollection:
    """Return the mean absolute error, the mean squared error, its root, and R2, each averaged over the D targets."""
    mse = {"mse": MeanSquaredError(), "rmse": MeanSquaredError(squared=False)}
    return MetricCollection({"mae": MeanAbsoluteError(), **mse, "r2": R2()}, compute_groups=[["mae"], [*mse], ["r2"]])


def segmentation_metrics(num_classes: int, per_class: bool) -> MetricCollection:
    """Return the mean intersection over union (IoU) over classes, and the accuracy, over all pixels of a split.

    Classes that are neither predicted nor true anywhere do not count in the mean. With ``per_class`` also
    ``iou_each``.
    """
    require(num_classes >= 2, f"num_classes must be at least 2, got {num_classes}")
    iou = {"iou": tm.MulticlassJaccardIndex(num_classes)}
    iou |= {"iou_each": tm.MulticlassJaccardIndex(num_classes, average="none")} if per_class else {}
    accuracy = tm.MulticlassAccuracy(num_classes, average="micro")
    return MetricCollection({**iou, "accuracy": accuracy}, compute_groups=[[*iou], ["accuracy"]])


class Retrieval(Metric):
    """How well embeddings (N, D) find samples of their own class (N,) by Euclidean distance, among all others.

    ``recall_at_k``: fraction of samples with one of their class among the nearest k. ``map``: mean over samples of the
    average precision of the whole ranking. Samples that are alone in their class do not count.
    """

    full_state_update = False
    embeddings: list[Tensor]
    targets: list[Tensor]

    def __init__(self, ks: tuple[int, ...] = (1, 5)) -> None:
        super().__init__()
        self.ks = ks
        for name in ("embeddings", "targets"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, embeddings: Tensor, targets: Tensor) -> None:
        self.embeddings.append(embeddings)
        self.targets.append(targets)

    def compute(self) -> dict[str, Tensor]:
        embeddings, targets = dim_zero_cat(self.embeddings), dim_zero_cat(self.targets)
        found = []
        for rows in torch.arange(len(targets), device=targets.device).split(500):
            distances = torch.cdist(embeddings[rows], embeddings, compute_mode="donot_use_mm_for_euclid_dist")
            distances[range(len(rows)), rows] = torch.inf  # the sample itself comes last
            order = distances.argsort(dim=1, stable=True)[:, :-1]
            hits = (targets[order] == targets[rows, None]).double()
            precision = hits.cumsum(1) / torch.arange(1, hits.shape[1] + 1, device=hits.device)
            scores = [hits[:, :k].any(1).double() for k in self.ks]
            scores.append((precision * hits).sum(1) / hits.sum(1).clamp(min=1))
            found.append(torch.stack(scores, 1)[hits.any(1)])
        names = [*(f"recall_at_{k}" for k in self.ks), "map"]
        return dict(zip(names, torch.cat(found).mean(0).float(), strict=True))


class BestF1(tm.MultilabelPrecisionRecallCurve):
    """Mean over classes of the highest F1 that any threshold reaches; ``thresholds_found`` are these, (K,).

    Classes without positive samples do not count, and keep the threshold 0.5.
    """

    def compute(self) -> Tensor:  # type: ignore[override]
        curves = zip(*super().compute(), strict=True)  # precision and recall have one value more than thresholds
        each = [((2 * p * r / (p + r).clamp(min=1e-12))[:-1], thresholds) for p, r, thresholds in curves]
        best = torch.stack([f1.max() for f1, _ in each])
        found = torch.stack([thresholds[f1.argmax()] for f1, thresholds in each])
        self.thresholds_found = found.where(best > 0, 0.5)
        return best.where(best > 0, torch.nan).nanmean()


def multi_label_metrics(num_classes: int) -> tuple[MetricCollection, MetricCollection]:
    """Return mean average precision and F1 for validation, with the best thresholds, and for test, also per class."""
    require(num_classes >= 2, f"num_classes must be at least 2, got {num_classes}")
    kinds: dict[str, Any] = {"map": tm.MultilabelAveragePrecision, "f1": tm.MultilabelF1Score}
    means = {name: kind(num_classes) for name, kind in kinds.items()}
    each = {f"{name}_each": kind(num_classes, average="none") for name, kind in kinds.items()}
    val = MetricCollection({**means, "f1": BestF1(num_classes)}, compute_groups=False)
    return val, MetricCollection({**means, **each}, compute_groups=[["map", "map_each"], ["f1", "f1_each"]])


def value_per_sample(metric: Metric, preds: Tensor, targets: Tensor) -> Tensor | None:
    """Return the value of each sample, (N,), if the metric is their mean; None for any other metric."""
    if isinstance(metric, Accuracy) and (metric.average, metric.top_k) == ("micro", 1):
        return (preds.argmax(1) == targets).float()
    if isinstance(metric, MeanAbsoluteError):
        return (preds - targets).abs().unsqueeze(-1).flatten(1).mean(1)
    if isinstance(metric, MeanSquaredError) and metric.squared:
        return (preds - targets).square().unsqueeze(-1).flatten(1).mean(1)
    return None
