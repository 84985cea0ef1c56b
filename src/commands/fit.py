"""fit, validate, test and predict."""

import argparse
import logging
import resource
import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import BatchSizeFinder, WeightAveraging
from lightning.pytorch.utilities.model_helpers import is_overridden

from src import UserError, say
from src.data import DataModule
from src.mistakes import users_mistake
from src.predictions import decodable, expand, files_loader, predict_table, probabilities, write_csv
from src.report import class_rows, fact_rows, joined, metric_rows, next_rows, print_rows
from src.run import Run
from src.settings import Settings, without
from src.trust import is_foreign

PICTURES = ("show", "schedule")  # each of them a file of that name, a command that reads the settings of fit
NOISE = (  # warnings of libraries that nobody can act on
    r".*LeafSpec.*is deprecated",
    r"The number of training batches .* is smaller than the logging interval",
    r"Checkpoint directory .* exists and is not empty",
    r"Experiment logs directory .* exists and is not empty",
    r"No (positive|negative) samples in targets",
    r"You requested to overfit but enabled .* shuffling",
    r"torch\.distributed\.nn\.functional\.all_gather is deprecated",
    r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
)


def run(command: str, options: argparse.Namespace) -> Settings:
    """Run one command.

    Raises:
        UserError: for whatever the user can mend: settings, files, checkpoints.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in NOISE:
            warnings.filterwarnings("ignore", message)
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="lightning|jsonargparse")
        warnings.showwarning = lambda message, *args, **kwargs: say(f"warning: {message}", sys.stderr)  # noqa: ARG005
        try:
            return pictures(command)("fit", options) if command in PICTURES else Commands(command, options)
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):  # which Lightning answers with 1
                raise KeyboardInterrupt from None
            raise
        except Exception as error:
            if (mistake := users_mistake(error)) is not None and mistake is not error:
                raise mistake from error
            raise


def pictures(command: str) -> type[Settings]:
    """Return what draws; imported only where a picture is asked for."""
    return getattr(import_module(f"src.{command}"), command.capitalize())


class Commands(Settings):
    """What each command does once model, data and Trainer are there."""

    def fit(self, **kwargs: Any) -> None:
        """Train; then judge the best checkpoint once, on the validation part and on the test set."""
        done, steps = self.epochs_done(), self.stored.get("global_step", 0)
        limit = 0 < (self.trainer.max_epochs or -1) <= done or 0 < self.trainer.max_steps <= steps
        as_before = self.continued and self.run is not None and self.run.has_config(self.plain_config())
        stopped = as_before and self.stored.get("stopped", False)
        complete = not self._get(self.config, "trainer").fast_dev_run and (limit or stopped)
        if (complete or as_before) and (self.run is None or self.run.is_judged()):
            more = f"--trainer.{self.limit(steps)}=N"
            print_rows([("complete", f"{done} epochs, {steps} steps are done; train on with {more}")])
            if self.continued and not as_before:
                print_rows([("note", "what was typed differs from its config.yaml, and was not used")])
            return
        if self._get(self.config, "compile"):
            self.model.compile()
        settings = self._get(self.config_init, "trainer")
        if self.saves(settings):
            self.open_run(settings)
        started = time.monotonic()
        try:
            if not complete:  # else it was cut off before it was judged
                with self.signals.answered(self.trainer):
                    self.trainer.fit(**kwargs)
        except BaseException as error:
            self.end_early(error)
            raise
        seconds = time.monotonic() - started
        metrics = self.judge(**kwargs)
        if self.trainer.is_global_zero:
            self.report(metrics, seconds)

    def limit(self, steps: int) -> str:
        """Return the setting that lets a run train on after so many steps."""
        return "max_steps" if 0 < self.trainer.max_steps <= steps else "max_epochs"

    def end_early(self, error: BaseException) -> None:
        """Say how to go on where something is saved; leave nothing behind where training never began."""
        if not self.trainer.is_global_zero:
            return
        if self.began and self.run is not None and not self.run.path.is_dir():
            raise UserError(f"the run folder {self.run.path.absolute()} is gone, and with it the run") from error
        asked, saved = isinstance(error, SystemExit), self.run is not None and self.run.has_checkpoint()
        if asked or not self.began:
            self.discard()
        if asked or self.began:
            nothing = "before the first checkpoint: nothing is saved"
            print_rows([("stopped", f"go on with: python -m src.cli fit {self.named()}" if saved else nothing)])

    def named(self) -> str:
        """Return the run as commands name it."""
        run = self.run or Run(Path())
        return f"--run {shlex.quote(str(run.path))}{' --trust' if is_foreign(run.config) else ''}"

    def discard(self) -> None:
        """Remove a run folder that this command made and that holds nothing yet."""
        if self.run is not None and not self.options.run and self.trainer.is_global_zero:
            self.run.discard()

    def judge(self, **kwargs: Any) -> dict[str, float]:
        """Return the metrics of the best checkpoint; of the weights as they are where none was saved."""
        loggers = self.trainer.loggers
        started_from = None if self.began else self.config[self.subcommand].ckpt_path
        best = str(self.best.file()) if self.best and self.best.file().is_file() else started_from
        self.trainer.loggers = []  # val metrics of this epoch are logged already
        fitters = (BatchSizeFinder, WeightAveraging)  # the checkpoint holds the averaged weights
        self.trainer.callbacks = without(self.trainer.callbacks, fitters)  # type: ignore[attr-defined]
        metrics: dict[str, float] = {}
        if is_overridden("validation_step", self.model) and (not self.began or any(self.trainer.num_val_batches)):
            metrics |= joined(self.trainer.validate(**kwargs | {"ckpt_path": best}, verbose=False))
        if is_overridden("test_step", self.model) and self._get(self.config, "test"):
            test = joined(self.trainer.test(**kwargs | {"ckpt_path": best}, verbose=False))
            metrics |= test
            means = {name: value for name, value in test.items() if name.count("/") == 1}
            for logger in loggers:
                logger.log_metrics(means, self.trainer.global_step)
                logger.save()
        return metrics

    def report(self, metrics: dict[str, float], seconds: float) -> None:
        """Print what was reached, how fast, where it lies and how to go on; keep it in results.json."""
        facts = {
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "batch_size": getattr(self.datamodule, "batch_size", 0),
            "seconds": round(seconds, 1),
            "samples_per_second": round(self.pace.train_samples / max(self.pace.train_seconds, 1e-9)),
            "milliseconds_per_step": round(1000 * self.pace.train_seconds / max(self.pace.train_steps, 1), 2),
            "peak_memory_mib": peak_memory_mib(self.trainer.strategy.root_device),
        }
        before = self.run.before() if self.run else ({}, "")
        print_rows([("", ""), *metric_rows(metrics), ("", ""), *fact_rows(facts, *before)])
        if self.run is not None:
            if self.saves(self._get(self.config_init, "trainer")):
                self.run.write_results({**metrics, **facts})
            if self.run.has_checkpoint():
                print_rows(next_rows(self.run.path, self.named(), self.limit(self.trainer.global_step)))
        if failed := getattr(self.trainer.strategy.checkpoint_io, "failed", ""):
            raise UserError(f"training is over, but its last checkpoint was not saved: {failed}")

    def validate(self, **kwargs: Any) -> None:
        self.show(self.trainer.validate(**kwargs, verbose=False))

    def test(self, **kwargs: Any) -> None:
        self.show(self.trainer.test(**kwargs, verbose=False))

    def show(self, results: Sequence[Any]) -> None:
        if self.trainer.is_global_zero and results:
            metrics = joined(results)
            print_rows([*metric_rows(metrics), *class_rows(metrics)])
            print_rows([("checkpoint", str(self.config[self.subcommand].ckpt_path))])

    def predict(self, **kwargs: Any) -> None:
        """Print the top classes of each image and write the probabilities of all classes to a CSV file."""
        data = kwargs.get("datamodule")
        if self.options.images:
            files = expand(self.options.images)
            state = self.stored.get(type(data).__qualname__)
            if not isinstance(data, DataModule) or not state:
                raise UserError(
                    "--images needs a checkpoint that was trained on a class derived from src.data.DataModule"
                )
            data.load_state_dict(state)
            files = decodable(files, data) if getattr(data, "skip_bad", False) else files
            kwargs |= {"datamodule": None, "dataloaders": files_loader(files, data)}
        outputs: Any = self.trainer.predict(**kwargs)
        rows = probabilities(outputs or [])
        names = [str(file) for file in files] if self.options.images else getattr(data, "files", {}).get("test")
        names = names or [f"test/{i}" for i in range(len(rows))]
        classes = getattr(data, "class_names", None) or [str(i) for i in range(rows.shape[1])]
        file = self.options.output or (self.run.path if self.run else Path()) / "predictions.csv"
        write_csv(file, names, classes, rows)
        print_rows(predict_table(names, classes, rows))
        print_rows([("written to", str(file))])


def peak_memory_mib(device: torch.device) -> int:
    """Return the most memory that this process has held so far: of the GPU, or else of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)
