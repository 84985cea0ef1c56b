"""Which checkpoints a run keeps: the last, to resume from, and the best, to use."""

import re
import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from src import UserError, replace_file, require
from src.engine.progress import Mode, own_monitor
from src.engine.resume import can_resume_here

# ends of the words of a metric's name
LOWER = "loss|error|err|mse|mae|rmse|mape|nll|bce|ce|kl|perplexity|ppl|divergence|distance|wer|cer|fid|lpips|brier|ece"
HIGHER = "accuracy|acc|precision|recall|f1|fbeta|auroc|auc|iou|dice|jaccard|map|psnr|ssim|r2|bleu|rouge|kappa|epoch"


class PublishedCheckpoint(Checkpoint):
    """A checkpoint that gets its final name only after everything logged before it is on disk.

    Otherwise the logs of a killed and resumed run would have gaps. Until then the file is called ``NAME.next``.
    """

    def __init__(self, name: str, dirpath: str | None = None) -> None:
        self.name, self.dirpath = name, dirpath

    def file(self, suffix: str = "ckpt") -> Path:
        return Path(self.dirpath or ".") / f"{self.name}.{suffix}"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        self.dirpath = trainer.strategy.broadcast(self.dirpath)  # only the first process knows the run folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.saved_step = trainer.global_step
        if trainer.is_global_zero:
            try:
                self.file().parent.mkdir(parents=True, exist_ok=True)
                delete(self.file("next"))  # a killed process may have left one
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
            if trainer.is_global_zero and callback.file("next").exists():
                if callback.file().is_dir():  # of shards, which cannot be replaced in one step
                    delete(callback.file("old"))
                    replace_file(callback.file(), callback.file("old"))
                replace_file(callback.file("next"), callback.file())
                delete(callback.file("old"))


def delete(path: Path) -> None:
    """Delete a checkpoint if it exists: a file, or a folder of shards."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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


class BestCheckpoint(PublishedCheckpoint):
    """Save ``best.ckpt`` whenever a metric improves, at the end of an epoch or of a validation within it.

    Unlike ModelCheckpoint, it finds its file in the run folder, which may move, and a failed save does not count.

    Args:
        monitor: name of a logged metric, or ``epoch`` to keep the latest epoch; by default the task's own choice,
            such as ``val/accuracy``, or the only validation loss that a LightningModule logs, else ``epoch``.
        mode: whether higher or lower is better; needed only if the name does not tell, as that of a loss does.
        dirpath: folder of the file; by default ``checkpoints`` in the run folder.
    """

    def __init__(self, monitor: str | None = None, mode: Mode | None = None, dirpath: str | None = None) -> None:
        super().__init__("best", dirpath)
        self.monitor, self.mode = monitor or "", mode
        self.score: float | None = None
        self.epoch = 0  # in which it was saved, counted from 1; 0 if that is unknown
        self.validated = False  # since this process started
        self.note = ""  # what was chosen for a module without a choice of its own

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        own, mode = own_monitor(pl_module)
        self.monitor = self.monitor or own
        if self.monitor and self.mode is None:
            self.mode = mode if self.monitor == own else better_when(self.monitor)
            require(self.mode, f"whether a higher or a lower {self.monitor} is better is unknown: set --best.mode")

    def choose(self, logged: list[str]) -> None:
        """Choose the monitor from the metrics that the module logs in validation."""
        logged = [name for name in logged if f"{name}_epoch" not in logged]  # Lightning logs both for on_step
        losses = [name for name in logged if "loss" in name]
        losses = [name for name in losses if re.fullmatch("(val|valid|validation)[/_]loss(_epoch)?", name)] or losses
        if "val/accuracy" in logged:
            self.monitor, self.mode = "val/accuracy", self.mode or "max"
        elif len(losses) == 1:
            self.monitor, self.mode = losses[0], self.mode or "min"
        else:
            self.monitor, self.mode = "epoch", "max"
        others = ", ".join(sorted({*logged} - {self.monitor}))
        self.note = f"best.ckpt is of the {'last' if self.monitor == 'epoch' else 'best'} {self.monitor}"
        self.note += f"; for another, set --best.monitor to one of: {others}" if others else ""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if not self.monitor and not trainer.enable_validation:
            self.choose([])
        if self.monitor.startswith("val/") and not trainer.enable_validation:
            raise UserError(f"best.monitor is {self.monitor}, but the run has no validation; use train/loss or epoch")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if not self.monitor:
            self.choose(validation_metrics(trainer))
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.validated = True
            if not trainer.is_last_batch:
                self.save_if_better(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.save_if_better(trainer)

    def save_if_better(self, trainer: Trainer) -> None:
        metrics: dict[str, Any] = {"epoch": trainer.current_epoch} | trainer.callback_metrics
        if self.monitor not in metrics:
            if not self.monitor or (trainer.enable_validation and not self.validated):  # it comes in a later epoch
                return
            raise UserError(f"best.monitor {self.monitor} is not logged; choose from {', '.join(sorted(metrics))}")
        value = float(metrics[self.monitor])
        exists = self.file().exists() or self.file("next").exists()
        better = self.score is None or not exists or (value > self.score if self.mode == "max" else value < self.score)
        if trainer.strategy.broadcast(better and value == value):  # never for NaN
            previous = self.score, self.epoch
            self.score, self.epoch = value, trainer.current_epoch + 1  # the checkpoint stores its own score
            self.save(trainer)
            if trainer.strategy.broadcast(getattr(trainer.strategy.checkpoint_io, "failed", "")):
                self.score, self.epoch = previous

    def state_dict(self) -> dict[str, Any]:
        return {"monitor": self.monitor, "mode": self.mode, "score": self.score, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self.monitor:
            self.monitor, self.mode = state_dict["monitor"], state_dict["mode"]
        if (state_dict["monitor"], state_dict["mode"]) == (self.monitor, self.mode):
            self.score, self.epoch = state_dict["score"], state_dict.get("epoch", 0)


def validation_metrics(trainer: Trainer) -> list[str]:
    """Return the names of what was logged in the validation that just ended, those of several DataLoaders too."""
    results = [*trainer._results.values()] if trainer._results else []  # not computed yet for several DataLoaders
    several = [each.meta for each in results if each.meta.on_epoch and each.meta.dataloader_idx is not None]
    names = [f"{meta.name}/dataloader_idx_{meta.dataloader_idx}" for meta in several]
    known = trainer.callback_metrics if trainer.sanity_checking else trainer._logger_connector.metrics["callback"]
    return sorted({*known, *names})


def better_when(name: str) -> Mode | None:
    """Tell from the name of a metric whether higher or lower is better; None if unknown."""
    words = re.split(r"[^a-z0-9]+", re.sub(r"/dataloader_idx_\d+$", "", name.lower()))
    lower, higher = (any(re.search(f"({ends})(e?s)?$", word) for word in words) for ends in (LOWER, HIGHER))
    return None if lower == higher else "min" if lower else "max"
