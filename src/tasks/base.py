"""Task: everything a training run needs except the meaning of a batch."""

from collections.abc import Callable
from typing import Any

from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MetricCollection

from src.optim import optimizer_and_schedule
from src.tasks.metrics import Means, by_class


class Task(LightningModule):
    """A net, its metrics and its optimizer. Subclasses implement ``evaluate``.

    Args:
        net: the network to train.
        val_metrics: updated with (preds, targets) of each validation batch, logged when all are seen.
        test_metrics: the same for the test set.
        optimizer: called with the parameter groups of the net; biases and norms are spared weight decay.
        schedule: called with the optimizer, then stepped after each training step: one of ``src.optim``, which know
            the length of the run, or of ``torch.optim.lr_scheduler``, which count in steps.
        warmup_steps: steps over which the learning rate rises linearly before the schedule begins.
    """

    def __init__(
        self,
        net: nn.Module,
        val_metrics: MetricCollection,
        test_metrics: MetricCollection,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        schedule: Callable[[Optimizer], LRScheduler] | None = None,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__()
        self.net, self.optimizer = net, optimizer
        self.schedule, self.warmup_steps = schedule, warmup_steps
        self.val_metrics, self.test_metrics = val_metrics.clone("val/"), test_metrics.clone("test/")
        self.train_means = Means()

    def evaluate(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss of a batch, then the predictions and targets that metrics compare."""
        raise NotImplementedError

    def score(self, preds: Tensor, targets: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """Return means over a training batch that are logged beside its loss."""
        return {}

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002
        loss, preds, targets = self.evaluate(batch)
        self.train_means.add(len(targets), loss=loss.detach(), **self.score(preds, targets))
        if (self.global_step + 1) % max(1, self.trainer.log_every_n_steps) == 0:  # type: ignore[attr-defined]
            self.log("train/loss_step", loss)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log_dict(self.train_means.take("train/"), sync_dist=True)

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

    def configure_optimizers(self) -> Any:
        steps = self.trainer.estimated_stepping_batches
        return optimizer_and_schedule(self.net, self.optimizer, self.schedule, self.warmup_steps, steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["train_means"] = self.train_means.sums  # of a run that is continued amid an epoch

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.train_means.sums = checkpoint.get("train_means", {})
