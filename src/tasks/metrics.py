"""What is measured of predictions, cheaply while training and thoroughly in validation and test."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)
from torchmetrics.utilities import dim_zero_cat

from src import UserError

COUNTS = {"precision": MulticlassPrecision, "recall": MulticlassRecall, "f1": MulticlassF1Score}


class PresentAUROC(MulticlassAUROC):
    """Area under the ROC curve of each class that has samples, or its mean over them; nan where a class has none."""

    def __init__(self, num_classes: int, average: str = "macro") -> None:
        super().__init__(num_classes, average="none", validate_args=False)
        self.mean = average == "macro"

    def compute(self) -> Tensor:  # type: ignore[override]
        each = super().compute()
        present = dim_zero_cat(self.target).bincount(minlength=self.num_classes) > 0  # type: ignore[arg-type]
        each = each.where(present, torch.nan)
        return each.nanmean() if self.mean else each


RANKS = {"auroc": PresentAUROC}


class Means:
    """Means over an epoch, kept as sums on the device: a ``self.log`` or a metric a step costs a small net's step.

    A batch whose loss is not finite is left out, as its step is.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums: Tensor | None = None  # of each name, and the number of samples; float32

    def add(self, samples: int, loss: Tensor, **others: Tensor) -> None:
        self.names = ["loss", *others]
        means = torch.stack([loss.float(), *(mean.float() for mean in others.values()), torch.ones_like(loss).float()])
        kept = torch.where(loss.abs() < torch.inf, means, 0)  # isfinite is four operations
        self.sums = kept * samples if self.sums is None else torch.add(self.sums, kept, alpha=samples)

    def of_all(self, gather: Callable[..., Any]) -> dict[str, Tensor]:
        """Return the sums of each process, (P,)."""
        if self.sums is None:
            return {}
        return {name: gather(value).view(-1) for name, value in zip([*self.names, "samples"], self.sums, strict=True)}

    def take_over(self, sums: dict[str, Tensor], rank: int) -> None:
        """Go on with what ``of_all`` returned."""
        self.names = [name for name in sums if name != "samples"]
        found = [sums[name][rank] for name in (*self.names, "samples") if rank < len(sums.get(name, ()))]
        self.sums = torch.stack([value.float() for value in found]) if found else None

    def take(self, prefix: str, reduce: Callable[[Tensor], Any]) -> dict[str, Tensor]:
        """Return the means under prefixed names, and begin anew; ``reduce`` averages the sums of all processes."""
        sums, self.sums = self.sums, None
        if sums is None:
            return {}
        *totals, samples = reduce(sums)
        return {f"{prefix}{name}": total / samples for name, total in zip(self.names, totals, strict=True)}


def classification_metrics(num_classes: int, each_class: bool) -> MetricCollection:
    """Return accuracy, top-5 accuracy above five classes, and precision, recall, F1 and AUROC as means over classes.

    Args:
        num_classes: number of classes K.
        each_class: add the last four for each class, named recall_each and so on.
    """
    if num_classes < 2:
        raise UserError(f"num_classes must be at least 2, got {num_classes}")
    metrics: dict[str, Metric | MetricCollection] = {"accuracy": MulticlassAccuracy(num_classes, average="micro")}
    groups = [["accuracy"]]
    if num_classes > 5:
        metrics["top5_accuracy"] = MulticlassAccuracy(num_classes, average="micro", top_k=5)
        groups.append(["top5_accuracy"])
    for family in (COUNTS, RANKS):
        metrics |= {name: kind(num_classes) for name, kind in family.items()}
        each = (
            {f"{name}_each": kind(num_classes, average="none") for name, kind in family.items()} if each_class else {}
        )
        metrics |= each
        groups.append([*family, *each])
    # named, because torchmetrics by itself joins metrics that happen to agree on the first batch
    return MetricCollection(metrics, compute_groups=groups)


def by_class(metrics: dict[str, Tensor], names: Sequence[str] | None) -> dict[str, Tensor]:
    """Return metrics as numbers: one that has a value for each class, recall_each, becomes recall/<class> for each."""
    flat: dict[str, Tensor] = {}
    for name, value in metrics.items():
        each = zip(names or range(len(value)), value, strict=True) if value.ndim else ()
        flat |= {f"{name.removesuffix('_each')}/{label}": number for label, number in each} or {name: value}
    return flat
