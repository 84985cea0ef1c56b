"""Classifier: one class for each input."""

from collections.abc import Callable
from typing import Any, Literal, Self

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from src import UserError, at_least_float32
from src.losses.class_weights import balanced_weights, restore_class_weights, set_class_weights
from src.metrics import classification_metrics
from src.protocols import ImageData
from src.tasks.base import Task
from src.tasks.setup import (
    NetFactory,
    build_net,
    can_ignore_a_batch,
    check_classes,
    check_loss,
    check_net,
    check_num_classes,
)


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

    monitor = ("val/accuracy", "max")
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
            weights = [1.0] * num_classes if class_weights == "balanced" else class_weights
            set_class_weights(self.loss, num_classes, weights)
        self.may_be_nan = can_ignore_a_batch(self.loss)

    def setup(self, stage: str) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        check_num_classes(self.num_classes, data)
        check_classes(data, "Classifier", self.num_classes)
        check_loss(self.loss, self.num_classes, data.mix if isinstance(data, ImageData) else None)
        check_net(self.net, data, self.num_classes)
        super().setup(stage)
        if stage == "fit" and self.class_weights == "balanced":
            targets = data.splits["train"].classes if isinstance(data, ImageData) else None
            if targets is None:
                raise UserError("class_weights: balanced needs data derived from src.data.DataModule; or list weights")
            set_class_weights(self.loss, self.num_classes, balanced_weights(self.loss, self.num_classes, targets))

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Convert the net, but keep class weights in float32 where it becomes half: the loss gets float32 logits."""
        buffers = self.loss.named_buffers() if isinstance(self.loss, nn.Module) else ()
        exact = {name: buffer.clone() for name, buffer in buffers}
        super().to(*args, **kwargs)
        if any(self.loss.get_buffer(name).dtype.itemsize < 4 for name in exact):  # type: ignore[union-attr]
            for name, buffer in self.loss.float().named_buffers():  # type: ignore[union-attr]
                buffer.copy_(exact[name])
        return self

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

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        states = [checkpoint[key] for key in ("state_dict", "current_model_state") if key in checkpoint]  # with EMA
        if any(key.startswith("loss.") for key in (*self.state_dict(), *states[0])):
            restore_class_weights(states, self.loss, keep_stored=self.class_weights == "balanced")
