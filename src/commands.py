"""fit, validate, test and predict: LightningCLI around a run folder."""

import argparse
import logging
import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import (
    Checkpoint,
    LambdaCallback,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
)
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from src import UserError, checkpoint
from src.callbacks import EpochLine, LastCheckpoint, Resume
from src.cli import SETTINGS
from src.loggers import run_loggers
from src.mistakes import explain, users_mistake
from src.predictions import find_images, predict_table, probabilities, write_csv
from src.report import class_rows, fact_rows, metric_rows, next_rows, print_rows
from src.run import Run

BEST = {"monitor": "val/accuracy", "mode": "max", "filename": "best", "enable_version_counter": False}
NOISE = (  # warnings of libraries that nobody can act on
    r".*LeafSpec.*is deprecated",
    r"The number of training batches .* is smaller than the logging interval",
    r"Checkpoint directory .* exists and is not empty",
    r"Experiment logs directory .* exists and is not empty",
    r"No (positive|negative) samples in targets",
    r"You requested to overfit but enabled .* shuffling",
    r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
)


def run(command: str, options: argparse.Namespace) -> "Commands":
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
        warnings.showwarning = lambda message, *args, **kwargs: print(f"warning: {message}", file=sys.stderr)  # noqa: ARG005, T201
        try:
            return Commands(command, options)
        except Exception as error:
            if (mistake := users_mistake(error)) is not None and mistake is not error:
                raise mistake from error
            raise


class Commands(LightningCLI):
    """One command: find config, run folder and checkpoint, then let Lightning's Trainer do the work."""

    def __init__(self, command: str, options: argparse.Namespace) -> None:
        self.options, self.pace = options, EpochLine()
        self.run = Run(options.run) if options.run else None
        self.stored: dict[str, Any] = {}  # content of the checkpoint that is started from
        strict = {"allow_abbrev": False, "exit_on_error": False}
        super().__init__(
            args=[command, *(f"--config={file}" for file in options.config), *options.settings],
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults={"enable_model_summary": False},
            auto_configure_optimizers=False,
            parser_kwargs=strict | dict.fromkeys(self.subcommands(), strict),
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        skipped = {"weights_only", "verbose", "return_predictions"}
        return {command: arguments | skipped for command, arguments in LightningCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        stem = Path(self.options.config[0]).stem if self.options.config else "run"
        parser.add_argument("--name", type=str, default=stem, help="the run folder is runs/NAME/version_N")
        parser.add_argument("--test", type=bool, default=True, help="whether fit ends by testing the best checkpoint")
        parser.add_argument(
            "--compile", type=bool, default=False, help="whether fit compiles the model (torch.compile)"
        )
        text = "whether convolutions work on (N, H, W, C), which is faster on most machines, above all in bf16"
        parser.add_argument("--channels_last", type=bool, default=False, help=text)
        parser.add_lightning_class_args(ModelCheckpoint, "best")
        parser.set_defaults({f"best.{key}": value for key, value in BEST.items()})
        parser.add_lightning_class_args(LastCheckpoint, "last")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            self.config = parser.parse_args(args)
        except argparse.ArgumentError as error:
            raise UserError(explain(error.message)) from None

    def _parse_ckpt_path(self) -> None:
        """Keep the config as it is: Lightning would overwrite it with the settings that the checkpoint stored."""

    def before_instantiate_classes(self) -> None:
        settings = self.config[self.subcommand]
        if settings.ckpt_path is None and self.run is not None:
            settings.ckpt_path = str(self.run.checkpoint("last" if self.subcommand == "fit" else "best"))
        if settings.ckpt_path is not None:
            self.stored = checkpoint.read(settings.ckpt_path)
        elif self.subcommand != "fit":
            raise UserError(
                f"{self.subcommand} needs a trained model: name its run with --run or a file with --ckpt_path"
            )

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        if self._get(self.config, "channels_last"):
            self.model.to(memory_format=torch.channels_last)
        if self.options.images:
            if not hasattr(self.datamodule, "predict_files"):
                raise UserError("--images needs data of a class derived from src.data.DataModule")
            self.datamodule.predict_files(find_images(self.options.images))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        if self.stored:
            checkpoint.check_weights(self.model, self.stored)
        settings = self._get(self.config_init, "trainer")
        terminal = sys.stdout.isatty() and settings.enable_progress_bar is not False
        self.pace.enabled = not terminal
        callbacks: list[Callback] = [self.pace, Resume(), LambdaCallback(on_fit_start=self.record)]
        changes: dict[str, Any] = {"enable_progress_bar": terminal, "enable_checkpointing": False}
        if terminal:
            callbacks.append(RichProgressBar(leave=True))
        if self.saves(settings):
            if settings.logger is not False:
                callbacks.append(LearningRateMonitor())
            if settings.enable_checkpointing is not False:
                changes["enable_checkpointing"] = True
                callbacks += [self._get(self.config_init, "best"), self._get(self.config_init, "last")]
        if self.subcommand != "fit" or settings.logger in (None, True):
            changes["logger"] = False  # fit adds those of the run folder
        if self.subcommand == "predict":
            changes["devices"] = 1  # one process writes the file
        return self._instantiate_trainer({**settings, **changes, **kwargs}, callbacks)

    def saves(self, settings: Any) -> bool:
        return self.subcommand == "fit" and not settings.fast_dev_run

    def open_run(self, settings: Any) -> None:
        """Make the run folder, or take the one that was named; let loggers and checkpoints write there."""
        parent = Path(settings.default_root_dir or "runs") / self._get(self.config, "name")
        self.run = self.run or (Run.create(parent) if rank_zero_only.rank == 0 else Run(parent))
        if settings.logger is not False:
            step = self.stored.get("global_step", 0)
            self.trainer.loggers = [*run_loggers(self.run.path, step), *self.trainer.loggers]
        for callback in self.trainer.callbacks:
            if isinstance(callback, Checkpoint) and getattr(callback, "dirpath", "") is None:
                callback.dirpath = str((self.run.path / "checkpoints").resolve())

    def record(self, trainer: Trainer, _: Any) -> None:
        """Write config and provenance into the run folder, now that nothing is left to be refused."""
        if self.run is not None and trainer.is_global_zero:
            self._dump_config()
            self.run.write_config({key: self.config_dump[key] for key in SETTINGS})
            self.run.record(sys.orig_argv, getattr(self.datamodule, "split_hash", None))

    def fit(self, **kwargs: Any) -> None:
        """Train; then judge the best checkpoint once, on the validation part and on the test set."""
        done = self.stored["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] if self.stored else 0
        if self.options.run and 0 < (self.trainer.max_epochs or -1) <= done:
            print_rows([("complete", f"{done} epochs are done; train on with --trainer.max_epochs=N")])
            return
        if self._get(self.config, "compile"):
            self.model.compile()
        settings = self._get(self.config_init, "trainer")
        if self.saves(settings):
            self.open_run(settings)
        started = time.monotonic()
        try:
            self.trainer.fit(**kwargs)
        except Exception:
            if self.run is not None and not self.options.run and self.trainer.global_step == 0:
                self.run.discard()
            raise
        except SystemExit:  # Lightning's answer to Ctrl-C
            if self.trainer.interrupted and self.run is not None:
                print_rows([("stopped; go on with", f"python -m src.cli fit --run {shlex.quote(str(self.run.path))}")])
                sys.exit(130)
            raise
        seconds = time.monotonic() - started
        metrics = self.judge(**kwargs)
        if self.trainer.is_global_zero:
            self.report(metrics, seconds)

    def judge(self, **kwargs: Any) -> dict[str, float]:
        """Return the metrics of the best checkpoint; of the weights as they are where none was saved."""
        keeper, loggers = self.trainer.checkpoint_callback, self.trainer.loggers
        best = getattr(keeper, "best_model_path", None) or None
        self.trainer.loggers = []  # val metrics of this epoch are logged already
        metrics: dict[str, float] = {}
        if is_overridden("validation_step", self.model) and sum(self.trainer.num_val_batches):
            metrics |= self.trainer.validate(**kwargs | {"ckpt_path": best}, verbose=False)[0]
        if is_overridden("test_step", self.model) and self._get(self.config, "test"):
            test = self.trainer.test(**kwargs | {"ckpt_path": best}, verbose=False)[0]
            metrics |= test
            means = {name: value for name, value in test.items() if name.count("/") == 1}
            for logger in loggers:
                logger.log_metrics(means, self.trainer.global_step)
                logger.save()
        return metrics

    def report(self, metrics: dict[str, float], seconds: float) -> None:
        """Print what was reached, how fast, where it lies and how to go on; keep it in results.json."""
        facts = {"parameters": sum(p.numel() for p in self.model.parameters())}
        if hasattr(self.datamodule, "batch_size"):
            facts["batch_size"] = self.datamodule.batch_size
        pace = self.pace.train_samples / max(self.pace.train_seconds, 1e-9)
        facts |= {"seconds": round(seconds, 1), "samples_per_second": round(pace)}
        print_rows([("", ""), *metric_rows(metrics), ("", ""), *fact_rows(facts)])
        if self.run is not None:
            self.run.write_results({**metrics, **facts})
            more = self.trainer.current_epoch == self.trainer.max_epochs
            print_rows(next_rows(self.run.path, more))

    def validate(self, **kwargs: Any) -> None:
        self.show(self.trainer.validate(**kwargs, verbose=False))

    def test(self, **kwargs: Any) -> None:
        self.show(self.trainer.test(**kwargs, verbose=False))

    def show(self, results: Sequence[Any]) -> None:
        if self.trainer.is_global_zero and results:
            print_rows([*metric_rows(results[0]), *class_rows(results[0])])
            print_rows([("checkpoint", str(self.config[self.subcommand].ckpt_path))])

    def predict(self, **kwargs: Any) -> None:
        """Print the top classes of each image and write the probabilities of all classes to a CSV file."""
        rows = probabilities(self.trainer.predict(**kwargs) or [])
        data = self.datamodule
        classes = getattr(data, "class_names", None) or [str(i) for i in range(rows.shape[1])]
        names = data.predict_names() if hasattr(data, "predict_names") else [str(i) for i in range(len(rows))]
        file = self.options.output or (self.run.path if self.run else Path()) / "predictions.csv"
        write_csv(file, names, classes, rows)
        print_rows(predict_table(names, classes, rows))
        print_rows([("written to", str(file))])
