"""Which checkpoints a run keeps: the last, to resume from, and the best, to use."""

import sys
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from src import UserError, require
from src.protocols import Monitored

Mode = Literal["max", "min"]


class PublishedCheckpoint(Checkpoint):
    """A checkpoint that gets its final name only after everything logged before it is on disk.

    Otherwise the logs of a killed and resumed run would have gaps. Until then the file is called ``NAME.next``.
    """

    def __init__(self, name: str, dirpath: str | None = None) -> None:
        self.name, self.dirpath = name, dirpath

    def file(self, suffix: str = "ckpt") -> Path:
        return Path(self.dirpath or ".") / f"{self.name}.{suffix}"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.saved_step = trainer.global_step
        if trainer.is_global_zero:
            try:
                self.file().parent.mkdir(parents=True, exist_ok=True)
                self.file("next").unlink(missing_ok=True)  # a killed process may have left one
            except OSError as error:
                raise UserError(f"{self.name}.dirpath: cannot write to {self.dirpath}: {error.strerror}") from None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.publish(trainer)

    on_train_end = on_train_epoch_start

    def save(self, trainer: Trainer) -> None:
        self.saved_step = trainer.global_step
        trainer.save_checkpoint(self.file("next"))

    def publish(self, trainer: Trainer) -> None:
        """Write the logs, then publish all checkpoints, last.ckpt last, because it refers to the others."""
        for logger in trainer.loggers:
            logger.save()
        pending = [each for each in trainer.checkpoint_callbacks if isinstance(each, PublishedCheckpoint)]
        for callback in sorted(pending, key=lambda callback: callback.name == "last"):
            if trainer.is_global_zero and callback.file("next").is_file():
                callback.file("next").replace(callback.file())


class LastCheckpoint(PublishedCheckpoint):
    """Save ``last.ckpt`` at the end of each epoch. ModelCheckpoint's ``save_last`` saves only with a new best.

    Args:
        every_n_steps: save within an epoch too, every this many steps; 0 for never.
        dirpath: folder of the file; by default ``checkpoints`` in the run folder.
    """

    def __init__(self, every_n_steps: int = 0, dirpath: str | None = None) -> None:
        super().__init__("last", dirpath)
        require(every_n_steps >= 0, f"every_n_steps must be at least 0, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        if not every_n_steps:
            self.on_train_batch_end = None  # type: ignore[method-assign,assignment]  # costs nothing in a step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:  # noqa: ARG002
        due = trainer.global_step // self.every_n_steps > self.saved_step // self.every_n_steps
        if due and can_resume_here(trainer):
            self.save(trainer)
            self.publish(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.save(trainer)


def can_resume_here(trainer: Trainer) -> bool:
    """Tell whether a run can resume exactly from this point within an epoch.

    It cannot during gradient accumulation, nor while the validation or logging of this step is still to come.
    """
    loop = trainer.fit_loop
    batches = loop.total_batch_idx if trainer.check_val_every_n_epoch is None else loop.batch_idx
    validates = trainer.is_last_batch or (batches + 1) % (trainer.val_check_batch or sys.maxsize) == 0
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    logs = every > 1 and trainer.global_step % every == 0
    return not validates and not logs and not loop._should_accumulate()


class BestCheckpoint(PublishedCheckpoint):
    """Save ``best.ckpt`` whenever a metric improves, at the end of an epoch or of a validation within it.

    Unlike ModelCheckpoint, it finds its file in the run folder, which may move, and a failed save does not count.

    Args:
        monitor: name of a logged metric, or ``epoch`` to keep the latest epoch; by default the task's own choice,
            such as ``val/accuracy``.
        mode: whether higher or lower is better; by default lower for losses.
        dirpath: folder of the file; by default ``checkpoints`` in the run folder.
    """

    def __init__(self, monitor: str | None = None, mode: Mode | None = None, dirpath: str | None = None) -> None:
        super().__init__("best", dirpath)
        self.monitor, self.mode = monitor or "", mode
        self.score: float | None = None
        self.validated = False  # since this process started

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        own, mode = own_monitor(pl_module)
        self.monitor = self.monitor or own
        if self.monitor != own:
            mode = "min" if "loss" in self.monitor else "max"
        self.mode = self.mode or mode

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.monitor.startswith("val/") and not trainer.enable_validation:
            raise UserError(f"best.monitor is {self.monitor}, but the run has no validation; use train/loss or epoch")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.validated = True
            if not trainer.is_last_batch:
                self.save_if_better(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.save_if_better(trainer)

    def save_if_better(self, trainer: Trainer) -> None:
        metrics: dict[str, Any] = {"epoch": trainer.current_epoch} | trainer.callback_metrics
        if self.monitor not in metrics:
            if trainer.enable_validation and not self.validated:  # it comes in a later epoch
                return
            raise UserError(f"best.monitor {self.monitor} is not logged; choose from {', '.join(sorted(metrics))}")
        value = float(metrics[self.monitor])
        exists = self.file().is_file() or self.file("next").is_file()
        better = self.score is None or not exists or (value > self.score if self.mode == "max" else value < self.score)
        if trainer.strategy.broadcast(better and value == value):  # never for NaN
            previous, self.score = self.score, value  # the checkpoint stores its own score
            self.save(trainer)
            if trainer.strategy.broadcast(getattr(trainer.strategy.checkpoint_io, "failed", "")):
                self.score = previous

    def state_dict(self) -> dict[str, Any]:
        return {"monitor": self.monitor, "mode": self.mode, "score": self.score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if (state_dict["monitor"], state_dict["mode"]) == (self.monitor, self.mode):
            self.score = state_dict["score"]


def own_monitor(module: LightningModule) -> tuple[str, Mode]:
    """Return name and mode of the metric that a module chooses, by default the accuracy."""
    own = module.monitor if isinstance(module, Monitored) else None
    return own if isinstance(own, tuple) else ("val/accuracy", "max")  # the name may mean something else elsewhere
