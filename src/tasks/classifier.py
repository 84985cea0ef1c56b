"""Classifier: one class for each input."""

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from src import UserError, at_least_float32
from src.losses.class_weights import balance_classes, set_class_weights
from src.tasks.base import Task
from src.tasks.metrics import classification_metrics
from src.tasks.setup import NetFactory, build_net, can_ignore_a_batch, check_classifier


class Classifier(Task):
    """One class for each input. Precision, recall, F1 and AUROC are macro averages; test also logs them per class.

    Args:
        net: class or function of a net that maps inputs to logits (N, K). It gets the number of classes K as
            num_classes, num_outputs or the like, else as its first argument, if it has any that is required.
        num_classes: number of classes K, at least 2; ``data`` in a config: as many as the data has.
        loss: function or module of logits (N, K) and targets (N,).
        class_weights: weight of each class in the loss, (K,); ``balanced``: inversely proportional to class frequency
            in the training split.
        kwargs: see ``src.tasks.Task``: optimizer, schedule, warmup_steps and more.
    """

    monitor, predicts = ("val/accuracy", "max"), "classes"
    may_ignore = ()  # because the metrics refuse such targets

    def __init__(
        self,
        net: NetFactory | Callable[[int], nn.Module],
        num_classes: int | Literal["data"] = "data",
        loss: nn.Module | Callable[[Tensor, Tensor], Tensor] = cross_entropy,
        class_weights: list[float] | Literal["balanced"] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(num_classes, str):
            raise UserError(f"num_classes must be a number, unless a config also names the data; got {num_classes}")
        val, test = (classification_metrics(num_classes, per_class) for per_class in (False, True))
        super().__init__(net=build_net(net, num_classes), val_metrics=val, test_metrics=test, **kwargs)
        self.loss = nn.CrossEntropyLoss() if loss is cross_entropy else loss  # the module can hold class weights
        self.num_classes, self.class_weights = num_classes, class_weights
        if class_weights is not None:
            set_class_weights(self.loss, num_classes, class_weights)
        self.may_be_nan = can_ignore_a_batch(self.loss)

    def setup(self, stage: str) -> None:
        check_classifier(self)
        super().setup(stage)
        if stage == "fit" and self.class_weights == "balanced":
            balance_classes(self)

    def evaluate(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        inputs, targets = batch
        logits = at_least_float32(self(inputs))
        loss = self.loss(logits, targets)
        if self.may_be_nan and self.loss_weight(batch) == 0:  # all targets are ignored
            loss = 0 * logits.sum()
        return loss, logits.detach() if self.training else logits.softmax(1), targets

    def step_metrics(self, preds: Tensor, targets: Tensor) -> dict[str, Tensor]:
        predicted = preds.argmax(1)
        soft = targets.ndim == 2  # from mixup: the accuracy is the predicted class's weight in the target
        return {"accuracy": targets.gather(1, predicted[:, None]) if soft else predicted == targets}

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return the probability of each class, (N, K)."""
        return self.soft_predictions(batch)

    def soft_predictions(self, inputs: Tensor) -> Tensor:
        return at_least_float32(self(inputs)).softmax(1)

    def compare(self, soft: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return soft, targets

    def decide(self, soft: Tensor) -> Tensor:
        return soft
