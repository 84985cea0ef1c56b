"""Progress: one line of text per epoch, throughput, log files, the shown metric."""

import csv
import re
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from src import replace_file
from src.protocols import Monitored
from src.runs.summary import echo

Mode = Literal["max", "min"]


def of_epochs(trainer: Trainer) -> str:
    return f"/{trainer.max_epochs}" if trainer.max_epochs not in (None, -1) else ""


class EpochLine(Callback):
    """Print epoch, losses, the named validation metric, learning rate, seconds and throughput, as plain text.

    Also metrics that callbacks monitor or that are logged with ``prog_bar``. A narrow terminal shows as many as fit.
    """

    def __init__(self, metric: str = "val/accuracy") -> None:
        self.shown = ("train/loss", "val/loss", metric)
        self.samples = self.seconds = self.steps = 0.0  # of training, without validation
        self.earlier = self.began = 0.0  # seconds of the run in earlier processes, and when it began in this one
        self.pending: tuple[float, float] | None = None  # seconds and throughput of the epoch to print

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        self.began = self.began or time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        done = trainer.fit_loop.epoch_loop.batch_progress.current.completed  # not 0 in a resumed epoch
        self.first_batch, self.first_step = done % trainer.num_training_batches, trainer.global_step
        self.started, self.paused = time.monotonic(), 0.0  # paused: seconds of validation in this epoch
        if 0 < trainer.estimated_stepping_batches < trainer.log_every_n_steps:  # type: ignore[attr-defined]
            steps = min(trainer.num_training_batches, int(trainer.estimated_stepping_batches))
            trainer.log_every_n_steps = steps  # type: ignore[attr-defined]  # or a short run logs no learning rate

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
        """Return the number of samples trained on in this epoch, over all processes; 0 for a stream without length."""
        loader: Any = trainer.train_dataloader
        sampler: Any = getattr(loader, "sampler", ())
        try:
            samples = getattr(sampler, "num_samples", None) or len(sampler)
            batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready  # fewer in an epoch that was cut short
            return samples * (batches - self.first_batch) / max(1, len(loader))
        except TypeError:
            return 0.0

    def print(self, trainer: Trainer) -> None:
        """Print the line of the previous epoch, whose training metrics are known only now."""
        if self.pending is None or not trainer.is_global_zero:
            return
        metrics = trainer.callback_metrics
        monitored = [str(getattr(each, "monitor", "")) for each in trainer.callbacks]  # type: ignore[attr-defined]
        names = dict.fromkeys((*self.shown, *monitored, *trainer.progress_bar_metrics))
        known = [name for name in names if name in metrics and (self.paused or "val" not in name)]
        shown = [f"{name} {metrics[name]:.4f}" for name in known]
        lrs = [f"lr {group['lr']:.1e}" for group in trainer.optimizers[0].param_groups[:1]]
        speed = [f"{self.pending[0]:.1f} s"] + ([f"{self.pending[1]:,.0f} samples/s"] if self.pending[1] else [])
        last = of_epochs(trainer)
        fields = [f"epoch {trainer.current_epoch:>{max(0, len(last) - 1)}}{last}", *shown, *lrs, *speed]
        while sys.stdout.isatty() and len("  ".join(fields)) > shutil.get_terminal_size().columns:
            fields.pop()
        echo("  ".join(fields))
        self.pending = None

    def run_seconds(self) -> float:
        """Return the seconds of the run so far, in this process and, up to the checkpoint, in earlier ones."""
        return self.earlier + (time.monotonic() - self.began if self.began else 0)

    def state_dict(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("samples", "seconds", "steps")} | {"earlier": self.run_seconds()}

    def load_state_dict(self, state: dict[str, float]) -> None:
        vars(self).update(state)

    def speed(self, device: torch.device) -> dict[str, float]:
        """Return throughput, time per step and the peak memory of this process, on its GPU if it has one."""
        found: dict[str, float] = {"samples_per_second": round(self.samples / max(self.seconds, 1e-9))}
        found["milliseconds_per_step"] = round(1000 * self.seconds / max(self.steps, 1), 2)
        if device.type == "cuda":
            return found | {"peak_memory_mib": torch.cuda.max_memory_allocated(device) >> 20}
        with suppress(ImportError):  # on Windows; macOS counts bytes, others KiB
            import resource

            found["peak_memory_mib"] = resource.getrusage(0).ru_maxrss >> (20 if sys.platform == "darwin" else 10)
        return found


class ResumedCSVLogger(CSVLogger):
    """Append to the metrics.csv of a run folder, where Lightning's own logger deletes an existing file.

    Rows from the given step on are dropped, because the resumed run writes them again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(folder, name="", version="")
        self.file, self.backup, self.step = folder / "metrics.csv", folder / "metrics.csv.kept", step
        self.prepared = False  # whether the rows before the step are in the new file

    @property
    @rank_zero_experiment
    def experiment(self) -> object:
        if not self.prepared:
            self.prepared = True
            if self.file.is_file() and not self.backup.is_file():  # else an earlier rewrite was interrupted
                replace_file(self.file, self.backup)
            text = self.backup.read_text(encoding="utf-8", errors="replace") if self.backup.is_file() else ""
            rows = csv.DictReader(text.replace("\0", "").splitlines())
            earlier = [row for row in rows if (row.get("step") or "").isdecimal() and int(row["step"]) < self.step]
            writer = super().experiment
            writer.metrics = [{key: value for key, value in row.items() if key and value} for row in earlier]
            writer.save()
            if text and not earlier and "step" not in text.partition("\n")[0]:
                replace_file(self.backup, self.file.with_suffix(".damaged"))
            self.backup.unlink(missing_ok=True)
            from torch.utils.tensorboard import SummaryWriter  # only where a run logs, because it takes long to import

            for name in filter(re.compile("add_|flush").match, dir(SummaryWriter)):  # a module may call all loggers
                setattr(writer, name, lambda *_, **__: None)  # a CSV file holds no images, figures or histograms
        return super().experiment


class RunTensorBoardLogger(TensorBoardLogger):
    """TensorBoard's logger, which writes all numbers of a call as one event, a sixth of the time."""

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary  # slow to import

        Path(self.log_dir).stat()  # after the folder is deleted, the writer's thread would print a traceback
        several = {name: value for name, value in metrics.items() if isinstance(value, dict)}
        values = [Summary.Value(tag=name, simple_value=metrics[name]) for name in metrics if name not in several]
        self.experiment._get_file_writer().add_summary(Summary(value=values), step)
        super().log_metrics(several, step)  # type: ignore[arg-type]

    @rank_zero_only
    def log_results(self, settings: dict[str, float | str], results: dict[str, float]) -> None:
        """Write settings and results for the tab HPARAMS, in a folder of its own: a resumed run replaces them."""
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        shutil.rmtree(folder := Path(self.log_dir, "hparams"), ignore_errors=True)
        means = {name: results[name] for name in results if name.count("/") < 2}  # not those per class
        with SummaryWriter(str(folder)) as writer:
            for summary in hparams(settings, means):
                writer._get_file_writer().add_summary(summary)
            for name, value in means.items():
                writer.add_scalar(name, value)


def run_loggers(folder: Path, step: int = 0) -> list[Logger]:
    """Return the loggers of a run folder, for a run that starts or resumes at a step."""
    # TensorBoard first: modules log their images with self.logger.experiment.add_image
    tensorboard = RunTensorBoardLogger(folder, name="", version="", default_hp_metric=False, purge_step=step or None)
    return [tensorboard, ResumedCSVLogger(folder, step)]


def own_monitor(module: LightningModule) -> tuple[str, Mode]:
    """Return name and mode of the metric that a module chooses, or an empty name."""
    own = module.monitor if isinstance(module, Monitored) else None
    return own if isinstance(own, tuple) else ("", "max")  # the name may mean something else elsewhere
