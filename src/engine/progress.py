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

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        now = time.monotonic()
        if now - self.refreshed > 0.5 or batch_idx + 1 == self.total_train_batches:
            self.refreshed = now
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class EpochLine(Callback):
    """Print epoch, losses, the named validation metric, learning rate, seconds and throughput, as plain text.

    A narrow terminal shows as many of them as fit.
    """

    def __init__(self, metric: str = "val/accuracy") -> None:
        self.shown = dict.fromkeys(("train/loss", "val/loss", metric))
        self.samples = self.seconds = self.steps = 0.0  # of training in this process, without validation
        self.pending: tuple[float, float] | None = None  # seconds and throughput of the epoch to print

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        done = trainer.fit_loop.epoch_loop.batch_progress.current.completed  # not 0 in a resumed epoch
        self.first_batch, self.first_step = done % trainer.num_training_batches, trainer.global_step
        self.started, self.paused = time.monotonic(), 0.0  # paused: seconds of validation in this epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.print(trainer)
        self.started, self.paused = time.monotonic(), 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()  # training steps still queued on the GPU do not count as validation
        self.validation_started = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.paused += time.monotonic() - self.validation_started

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        seconds, samples = time.monotonic() - self.started, self.count_samples(trainer)
        self.seconds += seconds - self.paused
        self.steps += trainer.global_step - self.first_step
        self.samples += samples
        self.first_batch, self.first_step = 0, trainer.global_step
        self.pending = seconds, samples / (seconds - self.paused)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.print(trainer)

    def count_samples(self, trainer: Trainer) -> float:
        """Return the number of training samples in an epoch over all processes; 0 for a stream without length."""
        loader: Any = trainer.train_dataloader
        sampler: Any = getattr(loader, "sampler", ())
        try:
            samples = getattr(sampler, "num_samples", None) or len(sampler)
            return samples * (trainer.num_training_batches - self.first_batch) / max(1, len(loader))
        except TypeError:
            return 0.0

    def print(self, trainer: Trainer) -> None:
        """Print the line of the previous epoch, whose training metrics are known only now."""
        if self.pending is None or not trainer.is_global_zero:
            return
        metrics = trainer.callback_metrics
        known = [name for name in self.shown if name in metrics and (self.paused or name.startswith("train"))]
        shown = [f"{name} {metrics[name]:.4f}" for name in known]
        lrs = [f"lr {group['lr']:.2e}" for group in trainer.optimizers[0].param_groups[:1]]
        speed = [f"{self.pending[0]:.1f} s", f"{self.pending[1]:,.0f} samples/s"]
        last = f"/{trainer.max_epochs}" if trainer.max_epochs not in (None, -1) else ""
        fields = [f"epoch {trainer.current_epoch}{last}", *shown, *lrs, *speed]
        while sys.stdout.isatty() and len("  ".join(fields)) > shutil.get_terminal_size().columns:
            fields.pop()
        echo("  ".join(fields))
        self.pending = None

    def speed(self, device: torch.device) -> dict[str, float]:
        """Return throughput, time per step and the peak memory of this process, on its GPU if it has one."""
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device) >> 20
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)
        return {
            "samples_per_second": round(self.samples / max(self.seconds, 1e-9)),
            "milliseconds_per_step": round(1000 * self.seconds / max(self.steps, 1), 2),
            "peak_memory_mib": peak,
        }
