"""Task: everything a training run needs except the meaning of a batch."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import MetricCollection

from src.optim import param_groups, with_warmup


class Task(LightningModule):
    """A net, its metrics and its optimizer. Subclasses implement ``evaluate``.

    Args:
        net: the network to train.
        val_metrics: updated with (preds, targets) of each validation batch, logged when all are seen.
        test_metrics: the same for the test set.
        optimizer: called with the parameter groups of the net; biases and norms are spared weight decay.
        schedule: called with the optimizer, then stepped after each training step. Those of ``src.optim`` know the
            length of the run; those of ``torch.optim.lr_scheduler`` count in steps, but ReduceLROnPlateau is stepped
            after each epoch, with val/loss.
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
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps must be at least 0, got {warmup_steps}")
        self.net, self.optimizer = net, optimizer
        self.schedule, self.warmup_steps = schedule, warmup_steps
        self.val_metrics, self.test_metrics = val_metrics.clone("val/"), test_metrics.clone("test/")
        self.train_sums: dict[str, Any] = {}  # over this epoch: of the number of samples, the loss and each score

    def evaluate(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss of a batch, then the predictions and targets that metrics compare."""
        raise NotImplementedError

    def score(self, preds: Tensor, targets: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """Return what to log of each training epoch beside the loss: means over a batch, cheap to compute."""
        return {}

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002
        loss, preds, targets = self.evaluate(batch)
        means = {"loss": loss.detach(), **self.score(preds, targets)}
        for name, mean in means.items():  # sums on the device: self.log would cost more than a small net's step
            self.train_sums[name] = self.train_sums.get(name, 0) + mean * len(targets)
        self.train_sums["samples"] = self.train_sums.get("samples", 0) + len(targets)
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:
            self.log("train/loss_step", loss)
        return loss

    def on_train_epoch_end(self) -> None:
        samples = self.train_sums.pop("samples")
        self.log_dict({f"train/{name}": total / samples for name, total in self.train_sums.items()}, sync_dist=True)
        self.train_sums = {}

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
        """Log each metric; one that has a value for each class, such as recall_each, as recall/<class>."""
        names = getattr(self.trainer.datamodule, "class_names", None)
        for name, value in metrics.compute().items():
            each = zip(names or range(len(value)), value, strict=True) if value.ndim else ()
            self.log_dict(
                {f"{name.removesuffix('_each')}/{label}": v for label, v in each} or {name: value}, sync_dist=True
            )
        metrics.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["train_sums"] = dict(self.train_sums)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.train_sums = checkpoint.get("train_sums", {})

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.optimizer(param_groups(self.net))
        total_steps = self.trainer.estimated_stepping_batches
        schedule = with_warmup(optimizer, self.schedule, self.warmup_steps, total_steps)
        if schedule is None:
            return {"optimizer": optimizer}
        interval = "epoch" if isinstance(schedule, ReduceLROnPlateau) else "step"
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": interval, "monitor": "val/loss"},
        }
