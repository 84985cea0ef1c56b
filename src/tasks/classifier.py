"""Classifier: one class for each input."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from src import UserError
from src.tasks.base import Task

SCORES = {
    "precision": MulticlassPrecision,
    "recall": MulticlassRecall,
    "f1": MulticlassF1Score,
    "auroc": MulticlassAUROC,
}


class Classifier(Task):
    """One class for each input. Precision, recall, F1 and AUROC are means over classes, in tests also for each class.

    Args:
        net: called with num_classes K; maps inputs to logits (N, K).
        num_classes: number of classes K, at least 2.
        loss: function of logits (N, K) and targets (N,), or a module that is called with them.
        kwargs: see ``src.tasks.Task``: optimizer, schedule, warmup_steps.
    """

    def __init__(
        self,
        net: Callable[[int], nn.Module],
        num_classes: int,
        loss: nn.Module | Callable[[Tensor, Tensor], Tensor] = cross_entropy,
        **kwargs: Any,
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        val: dict[str, Metric | MetricCollection] = {"accuracy": MulticlassAccuracy(num_classes, average="micro")}
        if num_classes > 5:
            val["top5_accuracy"] = MulticlassAccuracy(num_classes, average="micro", top_k=5)
        val |= {name: score(num_classes) for name, score in SCORES.items()}
        test = val | {f"{name}_each": score(num_classes, average="none") for name, score in SCORES.items()}
        super().__init__(net(num_classes), collection(val), collection(test), **kwargs)
        self.loss, self.num_classes = loss, num_classes

    def evaluate(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        inputs, targets = batch
        logits = self(inputs)
        return self.loss(logits, targets), logits.detach().softmax(1), targets

    def score(self, preds: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"accuracy": (preds.argmax(1) == targets).float().mean()}

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return the probability of each class, (N, K)."""
        return self(batch).softmax(1)

    def setup(self, stage: str) -> None:  # noqa: ARG002
        names = getattr(self.trainer.datamodule, "class_names", None)
        if names is not None and len(names) != self.num_classes:
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            raise UserError(
                f"num_classes must be {len(names)}, the classes of the data ({shown}), got {self.num_classes}"
            )


def collection(metrics: dict[str, Metric | MetricCollection]) -> MetricCollection:
    """Join metrics that count the same; left to itself, torchmetrics also joins those that agree on the first batch."""
    kinds: dict[str, list[str]] = {}
    for name in metrics:
        kind = name if "accuracy" in name else "auroc" if "auroc" in name else "counts of each class"
        kinds.setdefault(kind, []).append(name)
    return MetricCollection(metrics, compute_groups=list(kinds.values()))
