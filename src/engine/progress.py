"""EpochLine: one line of text per epoch, and the pace of the whole run."""

import shutil
import sys
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from src import say

SHOWN = ("train/loss", "val/loss", "val/accuracy")


class EpochLine(Callback):
    """Print epoch, losses, validation accuracy, learning rate, seconds and samples per second, as plain text.

    A terminal that is too narrow shows the first of them.
    """

    def __init__(self) -> None:
        self.train_samples = 0.0  # over all epochs of this process
        self.train_seconds = 0.0  # validation not counted
        self.train_steps = 0  # of the optimizer
        self.validated = False  # in this epoch
        self.line: tuple[float, float] | None = None  # seconds and samples per second, to be printed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        done = trainer.fit_loop.epoch_loop.batch_progress.current.completed  # in a run that goes on
        self.first_batch = done % trainer.num_training_batches if trainer.num_training_batches else 0
        self.first_step = trainer.global_step
        self.started, self.paused = time.monotonic(), 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.print(trainer, trainer.current_epoch)
        self.started, self.paused = time.monotonic(), 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()  # steps that the GPU has still to do are not validation's
        self.validation_started = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.paused += time.monotonic() - self.validation_started
            self.validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        seconds, samples = time.monotonic() - self.started, self.count(trainer)
        self.train_seconds += seconds - self.paused
        self.train_steps += trainer.global_step - self.first_step
        self.train_samples += samples
        self.first_batch, self.first_step = 0, trainer.global_step
        self.line = seconds, samples / (seconds - self.paused)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.print(trainer, trainer.current_epoch)

    def count(self, trainer: Trainer) -> float:
        """Return the number of training samples in an epoch, over all processes, as far as the loader tells."""
        loader: Any = trainer.train_dataloader
        sampler: Any = getattr(loader, "sampler", ())
        try:
            samples = getattr(sampler, "num_samples", None) or len(sampler)
            return samples * (trainer.num_training_batches - self.first_batch) / max(1, len(loader))
        except TypeError:  # a stream has no length
            return 0.0

    def print(self, trainer: Trainer, epoch: int) -> None:
        """Print the line of the epoch that ended: only now are its training metrics known."""
        if self.line is None or not trainer.is_global_zero:
            return
        metrics = trainer.callback_metrics
        known = [name for name in SHOWN if name in metrics and (self.validated or name.startswith("train"))]
        shown = [f"{name} {metrics[name]:.4f}" for name in known]
        lrs = [f"lr {group['lr']:.2e}" for group in trainer.optimizers[0].param_groups[:1]]
        pace = [f"{self.line[0]:.1f} s", f"{self.line[1]:,.0f} samples/s"]
        last = f"/{trainer.max_epochs}" if trainer.max_epochs not in (None, -1) else ""
        fields = [f"epoch {epoch}{last}", *shown, *lrs, *pace]
        while sys.stdout.isatty() and len("  ".join(fields)) > shutil.get_terminal_size().columns:
            fields.pop()
        say("  ".join(fields))
        self.line, self.validated = None, False
