"""Classifier: one class for each input."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from src.tasks.base import Task
from src.tasks.checks import check_data
from src.tasks.metrics import classification_metrics


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
        val, test = (classification_metrics(num_classes, each_class) for each_class in (False, True))
        super().__init__(net(num_classes), val, test, **kwargs)
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
        check_data(self.net, self.num_classes, self.trainer.datamodule)  # type: ignore[attr-defined]
