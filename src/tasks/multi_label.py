"""MultiLabel: any number of classes for each input."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from src import at_least_float32
from src.losses import BinaryCrossEntropy
from src.tasks.base import Task
from src.tasks.scores import multi_label_metrics
from src.tasks.setup import NetFactory, build_net, check_net
from src.tasks.targets import check_labels


class MultiLabel(Task):
    """Any number of classes for each input, targets (N, K) of 0 and 1. F1 and average precision are means over classes.

    Each class has a threshold, the best for F1 on the validation split; ``val/f1`` is of the same samples.

    Args:
        net: class or function of a net that maps inputs to logits (N, K).
        num_classes: number of classes K, at least 2.
        loss: function or module of logits and targets (N, K); by default ``src.losses.BinaryCrossEntropy``.
        kwargs: see ``src.tasks.Task``: optimizer, schedule, warmup_steps and more.
    """

    monitor, predicts = ("val/map", "max"), "labels"
    thresholds: Tensor  # probability above which each class is predicted, (K,)

    def __init__(
        self,
        net: NetFactory | Callable[[int], nn.Module],
        num_classes: int,
        loss: nn.Module | Callable[[Tensor, Tensor], Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        val, test = multi_label_metrics(num_classes)
        super().__init__(net=build_net(net, num_classes), val_metrics=val, test_metrics=test, **kwargs)
        self.num_classes, self.loss = num_classes, loss or BinaryCrossEntropy()
        self.register_buffer("thresholds", torch.full((num_classes,), 0.5))

    def setup(self, stage: str) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        check_labels(self)
        check_net(self.net, data, self.num_classes)
        super().setup(stage)

    def evaluate(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        inputs, targets = batch
        logits = at_least_float32(self(inputs))
        loss, soft = self.loss(logits, targets), logits.detach().sigmoid()
        return loss, *(self.compare(soft, targets) if self.trainer.testing else (soft, targets.long()))

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if not self.trainer.sanity_checking:
            self.thresholds.copy_(self.val_metrics["f1"].thresholds_found)  # type: ignore[arg-type]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the thresholds as they were found; with averaged weights the state has an average of earlier ones."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"]["thresholds"] = self.thresholds.clone()

    def predict_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the probability of each class, and whether it is above its threshold, (N, K) each."""
        return self.decide(self.soft_predictions(batch))

    def soft_predictions(self, inputs: Tensor) -> Tensor:
        return at_least_float32(self(inputs)).sigmoid()

    def compare(self, soft: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Map [0, t) to [0, 0.5] and [t, 1] to [0.75, 1], in the same order; t is the threshold of a class."""
        t = self.thresholds  # torchmetrics predicts a class above 0.5, not at it
        above = (soft - t) / (1 - t).clamp(min=1e-6)
        return torch.where(soft < t, soft / t / 2, 0.75 + above / 4), targets.long()

    def decide(self, soft: Tensor) -> dict[str, Tensor]:
        return {"probability": soft, "predicted": (soft >= self.thresholds).long()}
