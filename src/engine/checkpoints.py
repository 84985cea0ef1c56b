"""Which checkpoints a run keeps: the last, to go on from, and the best, to use."""

import sys
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from src import UserError


class Kept(Checkpoint):
    """A checkpoint that takes its place only when all that was logged up to it is written.

    So no row is lacking in the logs of a run that was killed and goes on. Until then it lies beside, as ``NAME.next``.

    Args:
        name: of the file, without its ending.
        dirpath: folder of the file; by default ``checkpoints`` in the run folder.
    """

    def __init__(self, name: str, dirpath: str | None = None) -> None:
        self.name, self.dirpath = name, dirpath

    def file(self, ending: str = "ckpt") -> Path:
        return Path(self.dirpath or ".") / f"{self.name}.{ending}"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if trainer.is_global_zero:  # of a process that was killed
            self.file("next").unlink(missing_ok=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.publish(trainer)

    on_train_end = on_train_epoch_start

    def save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.file("next"))

    def publish(self, trainer: Trainer) -> None:
        """Write the logs, then let all that was saved take its place, the last, which knows of the others, at last."""
        for logger in trainer.loggers:
            logger.save()
        kept = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, Kept)]
        for callback in sorted(kept, key=lambda callback: callback.name == "last"):
            if trainer.is_global_zero and callback.file("next").is_file():
                callback.file("next").replace(callback.file())


class LastCheckpoint(Kept):
    """Save ``last.ckpt`` at the end of each epoch. ModelCheckpoint's ``save_last`` saves only when there is a new best.

    Args:
        every_n_steps: save also amid an epoch, each time this many steps are done; 0 for never.
        dirpath: folder of the file; by default ``checkpoints`` in the run folder.
    """

    def __init__(self, every_n_steps: int = 0, dirpath: str | None = None) -> None:
        super().__init__("last", dirpath)
        if every_n_steps < 0:
            raise ValueError(f"every_n_steps must be at least 0, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self.done = 0  # steps, when it was saved last
        if not every_n_steps:
            self.on_train_batch_end = None  # type: ignore[method-assign,assignment]  # costs no step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:  # noqa: ARG002
        if trainer.global_step // self.every_n_steps > self.done // self.every_n_steps and may_save(trainer):
            self.save(trainer)
            self.publish(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.save(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.done = trainer.global_step
        super().on_train_start(trainer, pl_module)

    def save(self, trainer: Trainer) -> None:
        self.done = trainer.global_step
        super().save(trainer)


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


class BestCheckpoint(Kept):
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
        super().__init__("best", dirpath)
        self.monitor = monitor
        self.mode = mode or ("min" if "loss" in monitor else "max")
        self.score: float | None = None
        self.validated = False  # since this process started

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
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
        first = self.score is None or not (self.file().is_file() or self.file("next").is_file())
        better = first or (value > self.score if self.mode == "max" else value < self.score)  # type: ignore[operator]
        if trainer.strategy.broadcast(better and value == value):  # not for a NaN
            before, self.score = self.score, value  # the file has its own score
            self.save(trainer)
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
