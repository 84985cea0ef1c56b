"""Metrics: cheap running means in training, thorough classification metrics in validation and test."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torchmetrics.classification as tm
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.utilities import dim_zero_cat

from src import require


class EpochMeans:
    """Running means over an epoch, kept on the device and summed every 64 steps.

    Logging every step, or even summing every step, costs as much as a small net's step. A batch whose loss is not
    finite is left out, because its optimizer step is skipped too.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums = torch.zeros(())  # of each value, the samples and the loss weights, (names + 2,), float32
        self.steps: list[tuple[Tensor, Any]] | None = None  # losses to log and their weights, for LossWeighting
        self.pending: list[tuple[Any, ...]] = []  # values, samples and loss weight of the steps not yet in the sums

    def add(self, samples: int, weight: Any, /, loss: Tensor, **others: Tensor) -> None:
        """Add the values of one step: a loss divided by ``weight``; others are means over samples or one per sample."""
        names = ["loss", *others]
        if self.names not in ([], names):
            raise ValueError(f"step_metrics must return the same names in each step: {self.names[1:]}, got {[*others]}")
        self.names = names
        values = [value.detach().clone() for value in (loss, *others.values())]  # they may change in place
        self.pending.append((*values, samples, weight))
        if len(self.pending) == 64:
            self.sum_pending()

    def snapshot(self) -> tuple[Any, ...]:
        """Return the state, so that ``restore`` can undo a failed step."""
        return self.names, self.sums, [*self.pending]

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        self.names, self.sums, pending = snapshot
        self.pending = [*pending]

    def pending_values(self) -> Tensor:
        """Return the pending means, numbers of samples and loss weights, (names + 2, steps)."""
        if not self.pending:
            return self.sums.new_zeros(len(self.names) + 2, 0)
        device = self.pending[-1][0].device  # values from a checkpoint are on the CPU
        return torch.stack([stack_means(values, device) for values in zip(*self.pending, strict=True)])

    def sum_pending(self) -> None:
        values = self.pending_values()
        values[0] *= values[-1]
        values[1:-2] *= values[-2]
        self.sums = self.sums.to(values.device) + values.where(values[0].isfinite(), 0).sum(1)
        self.pending = []

    def gather_state(self, all_gather: Callable[..., Any]) -> dict[str, Tensor]:
        """Gather the running sum and pending values of every process, (processes, 1 + steps) under each name."""
        if not self.names:
            return {}
        values = self.pending_values()
        state = torch.cat([self.sums.to(values.device).expand(len(values))[:, None], values], 1)
        gathered = all_gather(state).view(-1, *state.shape).unbind(1)
        return dict(zip([*self.names, "samples", "loss_weight"], gathered, strict=True))

    def load_state(self, state: dict[str, Tensor], rank: int) -> None:
        """Restore this process's values from the result of ``gather_state``."""
        if state and "loss_weight" not in state:  # of an older version, whose losses divided by the samples
            state["loss_weight"] = state["samples"]
        self.names = [name for name in state if name not in ("samples", "loss_weight")]
        mine = [(each[rank] if rank < len(each) else torch.zeros_like(each[0])).view(-1) for each in state.values()]
        self.sums, *pending = torch.stack(mine).T if mine else [torch.zeros(())]
        self.pending = [tuple(step) for step in pending]

    def compute(self, prefix: str, reduce: Callable[[Tensor], Any]) -> dict[str, Tensor]:
        """Return the means under prefixed names and reset; ``reduce`` averages the sums over processes."""
        if not self.names:
            return {}
        self.sum_pending()
        loss, *totals, samples, weight = reduce(self.sums)
        means = [loss / weight, *(total / samples for total in totals)]
        named = {f"{prefix}{name}": mean for name, mean in zip(self.names, means, strict=True)}
        self.names, self.sums = [], torch.zeros(())
        return named


def stack_means(values: tuple[Any, ...], device: torch.device) -> Tensor:
    """Return the mean of each tensor, and numbers as they are, (steps,), without synchronizing a GPU."""
    if not any(isinstance(value, Tensor) for value in values):
        return torch.tensor(values, dtype=torch.float32).to(device, non_blocking=True)
    return torch.stack([torch.as_tensor(value).to(device).float().mean() for value in values])


class PresentAUROC(tm.MulticlassAUROC):
    """Area under the ROC curve of each class, or its mean over classes; NaN for classes without samples."""

    def __init__(self, num_classes: int, average: str = "macro") -> None:
        super().__init__(num_classes, average="none", validate_args=False)
        self.macro = average == "macro"

    def compute(self) -> Tensor:  # type: ignore[override]
        per_class = super().compute()
        present = dim_zero_cat(self.target).bincount(minlength=self.num_classes) > 0  # type: ignore[arg-type]
        per_class = per_class.where(present, torch.nan)
        return per_class.nanmean() if self.macro else per_class


class AcceptsEmpty:
    """Base of metrics that get the empty batch of a process without samples, which torchmetrics cannot reshape."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        if len(target):
            super().update(preds, target)  # type: ignore[misc]


class Accuracy(AcceptsEmpty, tm.MulticlassAccuracy):
    """Fraction of samples whose class is predicted."""


class Precision(AcceptsEmpty, tm.MulticlassPrecision):
    """Fraction of samples predicted as a class that belong to it."""


class Recall(AcceptsEmpty, tm.MulticlassRecall):
    """Fraction of samples of a class that are predicted as it."""


class F1(AcceptsEmpty, tm.MulticlassF1Score):
    """Harmonic mean of precision and recall."""


COUNTS = {"precision": Precision, "recall": Recall, "f1": F1}
RANKS = {"auroc": PresentAUROC}


def classification_metrics(num_classes: int, per_class: bool) -> MetricCollection:
    """Return accuracy, top-5 accuracy (above five classes) and macro-averaged precision, recall, F1 and AUROC.

    With ``per_class`` also the last four of each class, named ``recall_each`` and so on.
    """
    require(num_classes >= 2, f"num_classes must be at least 2, got {num_classes}")
    accuracy = partial(Accuracy, num_classes, average="micro")
    families: list[dict[str, Any]] = [{"accuracy": accuracy()}]
    if num_classes > 5:
        families.append({"top5_accuracy": accuracy(top_k=5)})
    for kinds in (COUNTS, RANKS):
        families.append({name: metric(num_classes) for name, metric in kinds.items()})
        if per_class:
            families[-1] |= {f"{name}_each": metric(num_classes, average="none") for name, metric in kinds.items()}
    metrics = {name: metric for family in families for name, metric in family.items()}
    # explicit groups, because torchmetrics merges metrics that happen to agree on the first batch
    return MetricCollection(metrics, compute_groups=[[*family] for family in families])


def flatten_per_class(metrics: dict[str, Tensor], names: Sequence[str] | None) -> dict[str, Tensor]:
    """Flatten metrics with one value per class: ``recall_each`` becomes ``recall/<class>`` for each class."""
    flat: dict[str, Tensor] = {}
    for name, value in metrics.items():
        labels = zip(names or range(len(value)), value, strict=True) if value.ndim else ()
        flat |= {f"{name.removesuffix('_each')}/{label}": number for label, number in labels} or {name: value}
    return flat
