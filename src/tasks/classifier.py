"""Classifier: one class for each input."""

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from src.tasks.base import Task
from src.tasks.checks import check_data
from src.tasks.class_weights import balanced, restore, weigh
from src.tasks.metrics import classification_metrics


class Classifier(Task):
    """One class for each input. Precision, recall, F1 and AUROC are means over classes, in tests also for each class.

    Args:
        net: called with num_classes K; maps inputs to logits (N, K).
        num_classes: number of classes K, at least 2.
        loss: function of logits (N, K) and targets (N,), or a module that is called with them.
        class_weights: weight of each class in the loss, (K,); ``balanced``: as the training part has samples of it.
        kwargs: see ``src.tasks.Task``: optimizer, schedule, warmup_steps and more.
    """

    def __init__(
        self,
        net: Callable[[int], nn.Module],
        num_classes: int,
        loss: nn.Module | Callable[[Tensor, Tensor], Tensor] = cross_entropy,
        class_weights: list[float] | Literal["balanced"] | None = None,
        **kwargs: Any,
    ) -> None:
        val, test = (classification_metrics(num_classes, each_class) for each_class in (False, True))
        super().__init__(net(num_classes), val, test, **kwargs)
        self.loss = nn.CrossEntropyLoss() if loss is cross_entropy else loss  # which has room for class weights
        self.num_classes, self.class_weights = num_classes, class_weights
        if class_weights is not None:
            weigh(self.loss, num_classes, [1.0] * num_classes if class_weights == "balanced" else class_weights)

    def evaluate(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        inputs, targets = batch
        logits = self(inputs)
        return self.loss(logits, targets), logits.detach() if self.training else logits.softmax(1), targets

    def score(self, preds: Tensor, targets: Tensor) -> dict[str, Tensor]:
        chosen = preds.argmax(1)
        hits = targets.gather(1, chosen[:, None]) if targets.ndim == 2 else chosen == targets  # soft or not
        return {"accuracy": hits}

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return the probability of each class, (N, K)."""
        return self(batch).softmax(1)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        restore(self, checkpoint)

    def setup(self, stage: str) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        check_data(self.net, self.loss, self.num_classes, data)
        super().setup(stage)
        if stage == "fit" and self.class_weights == "balanced":
            weigh(self.loss, self.num_classes, balanced(self.loss, self.num_classes, data))
