"""Classifier: one class for each input."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import ClasswiseWrapper, Metric, MetricCollection
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
        loss: a function, or a class whose instances are functions, of logits (N, K) and targets (N,).
        kwargs: see ``src.tasks.Task``: optimizer, schedule, warmup_steps.
    """

    def __init__(
        self,
        net: Callable[[int], nn.Module],
        num_classes: int,
        loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
        **kwargs: Any,
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        metrics: dict[str, Metric] = {"accuracy": MulticlassAccuracy(num_classes, average="micro")}
        if num_classes > 5:
            metrics["top5_accuracy"] = MulticlassAccuracy(num_classes, average="micro", top_k=5)
        metrics |= {name: score(num_classes) for name, score in SCORES.items()}
        each = {
            f"{name}_each": ClasswiseWrapper(score(num_classes, average=None), prefix=f"{name}/")
            for name, score in SCORES.items()
        }
        super().__init__(net(num_classes), MetricCollection(metrics), MetricCollection({**metrics, **each}), **kwargs)
        self.save_hyperparameters()
        self.loss, self.num_classes = loss, num_classes

    def evaluate(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        inputs, targets = batch
        logits = self(inputs)
        return self.loss(logits, targets), logits, targets

    def score(self, preds: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"accuracy": (preds.argmax(1) == targets).float().mean()}

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return the probability of each class, (N, K)."""
        return self(batch).softmax(1)

    def setup(self, stage: str) -> None:  # noqa: ARG002
        names = getattr(self.trainer.datamodule, "class_names", None)
        if names is None:
            return
        if len(names) != self.num_classes:
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            raise UserError(
                f"num_classes must be {len(names)}, the classes of the data ({shown}), got {self.num_classes}"
            )
        for metric in self.test_metrics.values(copy_state=False):
            if isinstance(metric, ClasswiseWrapper):
                metric.labels = names
