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
    """Means over an epoch: what each step adds is kept, on its device, and summed every 64 steps.

    A ``self.log``, a metric, or even sums in each step would cost a small net's step. A batch whose loss is not finite
    is left out, as its step is.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums = torch.zeros(())  # of each name, and the number of samples, (K + 1,); float32
        self.recent: list[tuple[Any, ...]] = []  # the same of each step that is not in the sums yet

    def add(self, samples: int, loss: Tensor, **others: Tensor) -> None:
        names = ["loss", *others]
        if self.names not in ([], names):
            raise ValueError(f"score must return the same names in each step: {self.names[1:]}, got {list(others)}")
        self.names = names
        values = [value.detach().clone() for value in (loss, *others.values())]  # which may change in place
        self.recent.append((*values, samples))
        if len(self.recent) == 64:
            self.add_up()

    def rows(self) -> Tensor:
        """Return what is recent, (K + 1, n)."""
        if not self.recent:
            return self.sums.new_zeros(len(self.names) + 1, 0)
        *values, samples = zip(*self.recent, strict=True)
        device = values[0][-1].device  # those of a checkpoint are on the CPU
        counts = torch.tensor(samples, dtype=torch.float32).to(device, non_blocking=True)  # does not wait for a GPU
        means = [torch.stack([v.to(device).float().mean() for v in each]) for each in values]
        return torch.stack([*means, counts])

    def add_up(self) -> None:
        rows = self.rows()
        rows[:-1] *= rows[-1]
        self.sums = self.sums.to(rows.device) + rows.where(rows[0].isfinite(), 0).sum(1)
        self.recent = []

    def of_all(self, gather: Callable[..., Any]) -> dict[str, Tensor]:
        """Return the sum and the recent values of each name in each process, (P, 1 + n)."""
        if not self.names:
            return {}
        rows = self.rows()
        kept = torch.cat([self.sums.to(rows.device).expand(len(rows))[:, None], rows], 1)
        return dict(zip([*self.names, "samples"], gather(kept).view(-1, *kept.shape).unbind(1), strict=True))

    def take_over(self, found: dict[str, Tensor], rank: int) -> None:
        """Go on with what ``of_all`` returned."""
        self.names = [name for name in found if name != "samples"]
        mine = [(each[rank] if rank < len(each) else torch.zeros_like(each[0])).view(-1) for each in found.values()]
        self.sums, *recent = torch.stack(mine).T if mine else [torch.zeros(())]
        self.recent = [tuple(step) for step in recent]

    def take(self, prefix: str, reduce: Callable[[Tensor], Any]) -> dict[str, Tensor]:
        """Return the means under prefixed names, and begin anew; ``reduce`` averages the sums of all processes."""
        if not self.names:
            return {}
        self.add_up()
        *totals, samples = reduce(self.sums)
        means = {f"{prefix}{name}": total / samples for name, total in zip(self.names, totals, strict=True)}
        self.names, self.sums = [], torch.zeros(())
        return means


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
