"""Task: everything a training run needs except the meaning of a batch."""

from typing import Any

from torch import Tensor, nn
from torchmetrics import MetricCollection

from src.tasks.metrics import by_class
from src.tasks.parts import Parts
from src.tasks.views import Views, averaged


class Task(Parts):
    """A net, its metrics and its optimizer. Subclasses implement ``evaluate``.

    Args:
        net: the network to train.
        val_metrics: updated with (preds, targets) of each validation batch, logged when all are seen.
        test_metrics: the same for the test set.
        tta: in test and predict, average over views of each image: itself, ``mirror``ed, or both shifted too.
        kwargs: see ``src.tasks.parts.Parts`` and ``src.tasks.optimized.Optimized``.
    """

    def __init__(
        self,
        net: nn.Module,
        val_metrics: MetricCollection,
        test_metrics: MetricCollection,
        tta: Views = "plain",
        **kwargs: Any,
    ) -> None:
        super().__init__(net, **kwargs)
        self.val_metrics, self.test_metrics, self.tta = val_metrics.clone("val/"), test_metrics.clone("test/"), tta

    def evaluate(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss of a batch, then the predictions and targets that metrics compare."""
        raise NotImplementedError

    def score(self, preds: Tensor, targets: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """Return by name what is logged beside the loss, as a mean over the epoch: a batch's mean or its values."""
        return {}

    def forward(self, inputs: Tensor) -> Tensor:
        judged = not self.training and self._trainer is not None and self._trainer.state.fn in ("test", "predict")
        return averaged(self.net, inputs, self.tta if judged else "plain")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002
        loss, preds, targets = self.evaluate(self.part(batch))
        means = {"loss": loss} | self.score(preds, targets)
        if self.penalties:
            penalty = sum(penalty(self.net) for penalty in self.penalties)
            loss, means["penalty"] = loss + penalty, penalty
        self.train_means.add(len(targets), **means)
        if (self.global_step + 1) % max(1, self.trainer.log_every_n_steps) == 0:  # type: ignore[attr-defined]
            self.log("train/loss_step", loss)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log_dict(self.train_means.take("train/", self.trainer.strategy.reduce), sync_dist=True)

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        self.judge(batch, "val", self.val_metrics)

    def on_validation_epoch_end(self) -> None:
        self.log_metrics(self.val_metrics)

    def test_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        self.judge(batch, "test", self.test_metrics)

    def on_test_epoch_end(self) -> None:
        self.log_metrics(self.test_metrics)

    def judge(self, batch: Any, stage: str, metrics: MetricCollection) -> None:
        loss, preds, targets = self.evaluate(batch)
        metrics.update(preds, targets)
        self.log(f"{stage}/loss", loss, on_epoch=True, batch_size=len(targets), sync_dist=True)

    def log_metrics(self, metrics: MetricCollection) -> None:
        names = getattr(self.trainer.datamodule, "class_names", None)  # type: ignore[attr-defined]
        self.log_dict(by_class(metrics.compute(), names), sync_dist=True)
        metrics.reset()
