"""Task: steps, logging, metrics and optimizer of a training run, whatever a batch means."""

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Literal, Self

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MetricCollection

from src import require
from src.losses.class_weights import loss_denominator, restore_class_weights
from src.nets.weights import Backbone
from src.optim import build_optimizer, with_warmup
from src.protocols import ImageData
from src.tasks.metrics import EpochMeans, flatten_per_class
from src.tasks.setup import counts_every_sample, init_net, reference_metrics
from src.tasks.tta import check_tta, predict_with_tta


class Task(LightningModule):
    """A net with its metrics and optimizer. Subclasses implement ``evaluate`` and may override ``step_metrics``.

    Args:
        net: the network to train.
        optimizer: called with the parameter groups of the net; biases and norms get no weight decay.
        val_metrics: updated with (preds, targets) of each validation batch, computed at the end of the epoch.
        test_metrics: the same for the test split.
        schedule: called with the optimizer, then stepped after each training step: one of ``src.optim``, which scale
            to the length of the run, or of ``torch.optim.lr_scheduler``, which count steps.
        warmup_steps: steps of linear warm-up before the schedule begins; below 1, a fraction of the run.
        groups: optimizer settings for the parameters whose full name matches a regular expression, such as
            {match: 'head.*', lr: 0.01}; the first match wins.
        layer_decay: factor of the learning rate from each layer to the one before it, in (0, 1].
        init: called with the net to initialize its weights: ``src.nets.Init``.
        weights: trained weights that a new run starts from: a file with a state dict, a run folder, or a name, which is
            downloaded: of torchvision, such as ResNet18_Weights.DEFAULT, or of timm, such as timm/resnet18.
        rename: {regular expression: replacement} for names in ``weights`` that differ from the net's by more than a
            prefix; ``order`` pairs tensors by position instead.
        penalties: called with the net and added to the training loss: those of ``src.losses``.
        tta: test-time augmentation in test and predict: ``mirror`` averages predictions over the image and its mirror
            image, ``mirror_shift`` also over shifted copies of both.
    """

    monitor: tuple[str, Literal["max", "min"]] = ("val/loss", "min")  # selects the best checkpoint
    predicts: str | None = None  # what predict_step returns, of the kinds in src.commands.outputs
    may_ignore: tuple[type, ...] = (nn.CrossEntropyLoss, nn.NLLLoss)  # losses that may get targets of -100
    backbone = Backbone()  # what Lightning's BackboneFinetuning freezes and unfreezes

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        val_metrics: MetricCollection,
        test_metrics: MetricCollection,
        schedule: Callable[[Optimizer], LRScheduler] | None = None,
        warmup_steps: int | float = 0,
        groups: list[dict[str, Any]] | None = None,
        layer_decay: float = 1.0,
        init: Callable[[nn.Module], Any] | None = None,
        weights: str | None = None,
        rename: dict[str, str] | Literal["order"] | None = None,
        penalties: list[Callable[[nn.Module], Any]] | None = None,
        tta: Literal["plain", "mirror", "mirror_shift"] = "plain",
    ) -> None:
        super().__init__()
        valid = warmup_steps < 1 or warmup_steps == int(warmup_steps)
        require(valid, f"warmup_steps must be a number of steps or, below 1, a fraction of the run, got {warmup_steps}")
        require(rename is None or weights, "rename needs weights: set model.weights, or model.rename=null")
        if init is not None:
            init(net)
        self.net, self.optimizer, self.schedule = net, optimizer, schedule
        self.weights, self.rename, self.note = weights, rename, ""  # note: to print when training starts
        self.warmup, self.warmup_steps = warmup_steps, int(warmup_steps)  # as configured, and in steps
        self.stored_warmup: list[float] = []  # the same two of the checkpoint to resume
        self.groups, self.layer_decay, self.penalties = groups, layer_decay, penalties or []
        self.val_metrics, self.test_metrics = val_metrics.clone("val/"), test_metrics.clone("test/")
        self.train_means, self.tta, self.tta_now = EpochMeans(), tta, "plain"

    def evaluate(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss of a batch, then the predictions and targets that the metrics compare."""
        raise NotImplementedError

    def loss_weight(self, batch: Any) -> Tensor | int | None:
        """Return what the loss of a batch divides by, see ``src.protocols.LossWeight``; by default that of ``loss``."""
        values = [*batch.values()] if isinstance(batch, Mapping) else batch
        targets = values if isinstance(values, Tensor) else values[-1]
        return loss_denominator(getattr(self, "loss", None), targets)

    def step_metrics(self, preds: Tensor, targets: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """Return metrics of a training step by name, each as a mean or one value per sample; logged as epoch means."""
        return {}

    def forward(self, inputs: Tensor) -> Tensor:
        plain = self.training or self.tta_now == "plain"
        return self.net(inputs) if plain else predict_with_tta(self.net, inputs, self.tta_now)

    def setup(self, stage: str) -> None:
        if self.tta != "plain":
            check_tta(self)
        self.tta_now = self.tta if stage in ("test", "predict") else "plain"
        self.train_means = EpochMeans()  # an interrupted run may have left old ones
        own = type(self).loss_weight is not Task.loss_weight or isinstance(getattr(self, "loss", None), self.may_ignore)
        self.counts_samples = not own and counts_every_sample(getattr(self, "loss", None))  # spares work in each step
        self.val_metrics.reset()
        self.test_metrics.reset()
        self.note = init_net(self) if stage == "fit" else ""

    def teardown(self, stage: str) -> None:  # noqa: ARG002
        self.tta_now = "plain"

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Convert the net, but keep the weights of a loss in float32 where it becomes half: its inputs are float32."""
        loss = getattr(self, "loss", None)
        exact = {name: buffer.clone() for name, buffer in (loss.named_buffers() if isinstance(loss, nn.Module) else ())}
        super().to(*args, **kwargs)
        if any(loss.get_buffer(name).dtype.itemsize < 4 for name in exact):  # type: ignore[union-attr]
            for name, buffer in loss.float().named_buffers():  # type: ignore[union-attr]
                buffer.copy_(exact[name])
        return self

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.net, self.optimizer, self.groups, self.layer_decay)
        total_steps = self.trainer.estimated_stepping_batches
        if 0 < self.warmup < 1:
            require(total_steps < inf, f"the run length is unknown, got warmup_steps={self.warmup}: set it in steps")
            same = self.stored_warmup[:1] == [self.warmup]  # an extended run keeps the warm-up that it had
            self.warmup_steps = int(self.stored_warmup[1]) if same else round(self.warmup * total_steps)
        configs = with_warmup(optimizer, self.schedule, self.warmup_steps, total_steps)
        for config in [each for each in configs if "monitor" in each]:  # of a metric of the validation
            config["frequency"] = self.trainer.check_val_every_n_epoch or 1
        return [optimizer], configs

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002
        loss, preds, targets = self.evaluate(batch)
        mean, weight = self.mean_loss(loss, batch, len(targets))
        means = {"loss": mean} | self.step_metrics(preds, targets)
        if self.penalties:
            penalty = sum(penalty(self.net) for penalty in self.penalties)
            loss, means["penalty"] = loss + penalty, penalty
        self.train_means.add(len(targets), weight, **means)
        if (self.global_step + 1) % max(1, self.trainer.log_every_n_steps) == 0:  # type: ignore[attr-defined]
            if self.train_means.steps is None:
                self.log("train/loss_step", loss, sync_dist=True)
            else:
                self.train_means.steps.append((loss.detach(), weight))
        return loss

    def mean_loss(self, loss: Tensor, batch: Any, samples: int) -> tuple[Tensor, Any]:
        """Return the loss, per sample if it is a sum, and its weight in the mean over an epoch."""
        weight = samples if self.counts_samples else self.loss_weight(batch)
        return (loss, weight) if weight is not None else (loss / samples, samples)

    def on_train_epoch_end(self) -> None:
        self.log_dict(self.train_means.compute("train/", self.trainer.strategy.reduce), sync_dist=True)

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        self.evaluation_step(batch, "val", self.val_metrics)

    def on_validation_epoch_end(self) -> None:
        self.log_metrics(self.val_metrics)

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:  # noqa: ARG002
        return self.evaluation_step(batch, "test", self.test_metrics)

    def on_test_epoch_end(self) -> None:
        self.log_metrics(self.test_metrics)

    def evaluation_step(self, batch: Any, stage: str, metrics: MetricCollection) -> dict[str, Tensor]:
        loss, preds, targets = self.evaluate(batch)
        metrics.update(preds, targets)
        loss, weight = self.mean_loss(loss, batch, len(targets))
        loss = loss if len(targets) else torch.zeros_like(loss)  # one process of several may have no samples
        number = torch.zeros((), device=loss.device).add_(weight)  # Lightning averages integers wrongly
        self.log(f"{stage}/loss", loss, on_epoch=True, batch_size=number, sync_dist=True)  # type: ignore[arg-type]
        return {"preds": preds, "targets": targets}  # for callbacks

    def log_metrics(self, metrics: MetricCollection) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        names = data.class_names if isinstance(data, ImageData) else None
        self.log_dict(flatten_per_class(metrics.compute(), names), sync_dist=True)
        metrics.reset()
        self.log_dict(reference_metrics(self, data) if metrics is self.test_metrics else {}, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["train_means"] = self.train_means.gather_state(self.all_gather)  # for a resume within the epoch
        checkpoint["warmup"] = [self.warmup, self.warmup_steps]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        states = [checkpoint[key] for key in ("state_dict", "current_model_state") if key in checkpoint]  # with EMA
        if any(key.startswith("loss.") for key in (*self.state_dict(), *states[0])):
            balanced = getattr(self, "class_weights", None) == "balanced"
            restore_class_weights(states, getattr(self, "loss", None), keep_stored=balanced)
        self.train_means.load_state(checkpoint.get("train_means", {}), self.global_rank)
        self.stored_warmup = checkpoint.get("warmup", [])
