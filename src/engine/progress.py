"""Progress: one line of text per epoch, throughput, and the progress bar of a terminal."""

import resource
import shutil
import sys
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from src.runs.summary import echo


class ProgressBar(RichProgressBar):
    """Rich's bar, refreshed twice a second rather than every batch, which would cost as much as a small net's step."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=2)
        self.refreshed = 0.0  # time in seconds

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now - self.refreshed > 0.5 or batch_idx + 1 == self.total_train_batches:
            self.refreshed = now
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class EpochLine(Callback):
    """Print epoch, losses, validation metric, learning rate, seconds and throughput, as plain text.

    A narrow terminal shows as many of them as fit.

    Args:
        metric: name of the validation metric to show.
    """

    def __init__(self, metric: str = "val/accuracy") -> None:
        self.shown = ("train/loss", "val/loss", metric)
        self.train_samples = 0.0  # of all epochs in this process
        self.train_seconds = 0.0  # without validation
        self.train_steps = 0  # optimizer steps
        self.validated = False  # in this epoch
        self.pending: tuple[float, float] | None = None  # seconds and throughput of the epoch to print

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        done = trainer.fit_loop.epoch_loop.batch_progress.current.completed  # not 0 in a resumed epoch
        self.first_batch = done % trainer.num_training_batches if trainer.num_training_batches else 0
        self.first_step = trainer.global_step
        self.started, self.paused = time.monotonic(), 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.print(trainer, trainer.current_epoch)
        self.started, self.paused = time.monotonic(), 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()  # training steps still queued on the GPU do not count as validation
        self.validation_started = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.paused += time.monotonic() - self.validation_started
            self.validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        seconds, samples = time.monotonic() - self.started, self.count_samples(trainer)
        self.train_seconds += seconds - self.paused
        self.train_steps += trainer.global_step - self.first_step
        self.train_samples += samples
        self.first_batch, self.first_step = 0, trainer.global_step
        self.pending = seconds, samples / (seconds - self.paused)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.print(trainer, trainer.current_epoch)

    def count_samples(self, trainer: Trainer) -> float:
        """Return the number of training samples in an epoch over all processes; 0 for a stream without length."""
        loader: Any = trainer.train_dataloader
        sampler: Any = getattr(loader, "sampler", ())
        try:
            samples = getattr(sampler, "num_samples", None) or len(sampler)
            return samples * (trainer.num_training_batches - self.first_batch) / max(1, len(loader))
        except TypeError:
            return 0.0

    def print(self, trainer: Trainer, epoch: int) -> None:
        """Print the line of the previous epoch, whose training metrics are known only now."""
        if self.pending is None or not trainer.is_global_zero:
            return
        metrics = trainer.callback_metrics
        known = [name for name in self.shown if name in metrics and (self.validated or name.startswith("train"))]
        shown = [f"{name} {metrics[name]:.4f}" for name in dict.fromkeys(known)]
        lrs = [f"lr {group['lr']:.2e}" for group in trainer.optimizers[0].param_groups[:1]]
        speed = [f"{self.pending[0]:.1f} s", f"{self.pending[1]:,.0f} samples/s"]
        last = f"/{trainer.max_epochs}" if trainer.max_epochs not in (None, -1) else ""
        fields = [f"epoch {epoch}{last}", *shown, *lrs, *speed]
        while sys.stdout.isatty() and len("  ".join(fields)) > shutil.get_terminal_size().columns:
            fields.pop()
        echo("  ".join(fields))
        self.pending, self.validated = None, False

    def speed(self, device: torch.device) -> dict[str, float]:
        """Return throughput, time per step and the peak memory of this process, on its GPU if it has one."""
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device) >> 20
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)
        return {
            "samples_per_second": round(self.train_samples / max(self.train_seconds, 1e-9)),
            "milliseconds_per_step": round(1000 * self.train_seconds / max(self.train_steps, 1), 2),
            "peak_memory_mib": peak,
        }
