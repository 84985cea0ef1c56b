"""Which checkpoints a run keeps: the last, to go on from, and the best, to use."""

import sys
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from src import UserError


class LastCheckpoint(Checkpoint):
    """Save ``last.ckpt`` at the end of each epoch. ModelCheckpoint's ``save_last`` saves only when there is a new best.

    The file takes its place only when all that was logged up to it is written, so that no row is lacking in the logs of
    a run that was killed and goes on.

    Args:
        every_n_steps: save also amid an epoch, each time this many steps are done; 0 for never.
        dirpath: folder of the file; by default ``checkpoints`` in the run folder.
    """

    def __init__(self, every_n_steps: int = 0, dirpath: str | None = None) -> None:
        if every_n_steps < 0:
            raise ValueError(f"every_n_steps must be at least 0, got {every_n_steps}")
        self.every_n_steps, self.dirpath = every_n_steps, dirpath
        self.done = 0  # steps, when it was saved last
        if not every_n_steps:
            self.on_train_batch_end = None  # type: ignore[method-assign,assignment]  # costs no step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:  # noqa: ARG002
        if trainer.global_step // self.every_n_steps > self.done // self.every_n_steps and may_save(trainer):
            self.save(trainer)
            self.publish(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.save(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.done = trainer.global_step
        if trainer.is_global_zero:  # of a process that was killed
            self.file(trainer, "next").unlink(missing_ok=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.publish(trainer)

    on_train_end = on_train_epoch_start

    def save(self, trainer: Trainer) -> None:
        self.done = trainer.global_step
        trainer.save_checkpoint(self.file(trainer, "next"))

    def publish(self, trainer: Trainer) -> None:
        """Write the logs, then let what was saved take its place."""
        for logger in trainer.loggers:
            logger.save()
        saved = self.file(trainer, "next")
        if trainer.is_global_zero and saved.is_file():
            saved.replace(self.file(trainer, "ckpt"))

    def file(self, trainer: Trainer, ending: str) -> Path:
        return Path(self.dirpath or trainer.default_root_dir) / f"last.{ending}"


def may_save(trainer: Trainer) -> bool:
    """Tell whether a run can go on from here, amid an epoch.

    It cannot amid an accumulation, nor where validation or the logging of this step is still to come.
    """
    batches = (
        trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else trainer.fit_loop.batch_idx
    )
    validated = trainer.is_last_batch or (batches + 1) % (trainer.val_check_batch or sys.maxsize) == 0
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    logged = every > 1 and trainer.global_step % every == 0
    return not validated and not logged and not trainer.fit_loop._should_accumulate()


class BestCheckpoint(Checkpoint):
    """Save ``best.ckpt`` when a metric is better than ever, at the end of an epoch or of a validation amid it.

    Unlike ModelCheckpoint it knows its file by the run folder, which may be moved, and takes nothing for saved that
    could not be written.

    Args:
        monitor: name of a logged metric, or ``epoch``, by which the last one is the best.
        mode: whether more or less is better; by default less of what is called loss.
        dirpath: folder of the file; by default ``checkpoints`` in the run folder.
    """

    def __init__(
        self, monitor: str = "val/accuracy", mode: Literal["max", "min"] | None = None, dirpath: str | None = None
    ) -> None:
        self.monitor, self.dirpath = monitor, dirpath
        self.mode = mode or ("min" if "loss" in monitor else "max")
        self.score: float | None = None
        self.validated = False  # since this process started

    @property
    def file(self) -> Path:
        return Path(self.dirpath or ".") / "best.ckpt"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if self.monitor.startswith("val/") and not trainer.enable_validation:
            raise UserError(f"best.monitor is {self.monitor}, but nothing is validated; choose train/loss, or epoch")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.validated = True
            if not trainer.is_last_batch:
                self.save_if_better(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if self.validated or not trainer.enable_validation or self.monitor in self.known(trainer):
            self.save_if_better(trainer)

    def save_if_better(self, trainer: Trainer) -> None:
        value = self.value(trainer)
        first = self.score is None or not self.file.is_file()
        better = first or (value > self.score if self.mode == "max" else value < self.score)  # type: ignore[operator]
        if trainer.strategy.broadcast(better and value == value):  # not for a NaN
            before, self.score = self.score, value  # the file has its own score
            trainer.save_checkpoint(self.file)
            if trainer.strategy.broadcast(bool(getattr(trainer.strategy.checkpoint_io, "failed", ""))):
                self.score = before

    def known(self, trainer: Trainer) -> dict[str, Any]:
        return {"epoch": trainer.current_epoch} | trainer.callback_metrics

    def value(self, trainer: Trainer) -> float:
        known = self.known(trainer)
        if self.monitor not in known:
            raise UserError(f"best.monitor {self.monitor} is not logged; choose of {', '.join(sorted(known))}")
        return float(known[self.monitor])

    def state_dict(self) -> dict[str, Any]:
        return {"monitor": self.monitor, "mode": self.mode, "score": self.score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if (state_dict["monitor"], state_dict["mode"]) == (self.monitor, self.mode):
            self.score = state_dict["score"]
