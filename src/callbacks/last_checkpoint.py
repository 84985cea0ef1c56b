"""LastCheckpoint: where to go on from."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


class LastCheckpoint(Checkpoint):
    """Save ``last.ckpt`` at the end of each epoch. ModelCheckpoint's ``save_last`` saves only when there is a new best.

    Args:
        every_n_steps: save also amid an epoch, each time this many steps are done; 0 for never.
        dirpath: folder of the file; by default ``checkpoints`` in the run folder.
    """

    def __init__(self, every_n_steps: int = 0, dirpath: str | None = None) -> None:
        if every_n_steps < 0:
            raise ValueError(f"every_n_steps must be at least 0, got {every_n_steps}")
        self.every_n_steps, self.dirpath = every_n_steps, dirpath
        if not every_n_steps:
            self.on_train_batch_end = None  # type: ignore[method-assign,assignment]  # costs no step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:  # noqa: ARG002
        due = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        if due and not trainer.is_last_batch and not trainer.fit_loop._should_accumulate():
            self.save(trainer)  # not on the last batch, whose validation is still to come, nor amid an accumulation

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(Path(self.dirpath or trainer.default_root_dir) / "last.ckpt")
