"""From a command line and its configs to model, data and Trainer."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Checkpoint,
    LambdaCallback,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from src import UserError, checkpoint
from src.arguments import SETTINGS
from src.callbacks import Bar, BestCheckpoint, EpochLine, LastCheckpoint, Resume, Signals, SkipNonFinite
from src.callbacks.signals import leave_to_python
from src.lean import Untimed, lighten
from src.loggers import run_loggers
from src.mistakes import check_clipping, check_monitors, check_training, check_values, explain
from src.report import print_rows, start_rows
from src.run import Run


class Settings(LightningCLI):
    """LightningCLI with a run folder: settings are typed, or else the config's, and never the checkpoint's."""

    def __init__(self, command: str, options: argparse.Namespace) -> None:
        self.options, self.pace = options, EpochLine()
        self.run = Run(options.run) if options.run else None
        self.stored: dict[str, Any] = {}  # content of the checkpoint that is started from
        self.best: BestCheckpoint | None = None
        self.began = False  # whether training began
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
        parser.add_lightning_class_args(BestCheckpoint, "best")
        parser.add_lightning_class_args(LastCheckpoint, "last")
        parser.add_lightning_class_args(SkipNonFinite, "non_finite")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            self.config = parser.parse_args(args)
            check_values(self.config[self.config.subcommand])
            if self.config[self.config.subcommand].seed_everything is False:
                raise UserError("seed_everything must be a number, or true for one that is drawn; got false")
        except argparse.ArgumentError as error:
            raise UserError(explain(error.message)) from None

    def _parse_ckpt_path(self) -> None:
        """Keep the config as it is: Lightning would overwrite it with the settings that the checkpoint stored."""

    def _add_instantiators(self) -> None:
        """Do not store the settings in checkpoints: the run's config.yaml has them."""

    def before_instantiate_classes(self) -> None:
        settings = self.config[self.subcommand]
        fit, files = self.subcommand == "fit", [settings.ckpt_path]
        self.continued = self.run is not None and (settings.ckpt_path is None or self.options.resumed)
        if self.continued and self.run is not None:
            if fit and first_process():
                self.run.lock()  # before anything is read that another process may yet write
            files = self.run.checkpoints("last" if fit else "best")
        if files[0] is not None:
            settings.ckpt_path, self.stored = checkpoint.first_whole(files, to_continue=fit)
        elif not fit:
            raise UserError(
                f"{self.subcommand} needs a trained model: name its run with --run or a file with --ckpt_path"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        if self.stored:
            checkpoint.check_weights(self.model, self.stored)
        if self._get(self.config, "channels_last"):
            self.model.to(memory_format=torch.channels_last)
        settings = self._get(self.config_init, "trainer")
        if self.subcommand == "fit":
            check_training(settings, self._get(self.config, "name"))
        terminal = sys.stdout.isatty() and settings.enable_progress_bar is not False
        saves = self.saves(settings) and settings.enable_checkpointing is not False
        changes: dict[str, Any] = {"enable_progress_bar": terminal, "enable_checkpointing": saves, "max_time": None}
        first = LambdaCallback(on_sanity_check_end=check_monitors, on_train_start=self.record)
        callbacks: list[Callback] = [self.pace, Resume(self.epochs_done()), first]
        best, last, finite = (self._get(self.config_init, name) for name in ("best", "last", "non_finite"))
        if self.subcommand == "fit":
            self.signals = Signals(last if saves else None)
            callbacks += [finite, self.signals]
        if saves:
            self.best = best
            callbacks += [best, last]
        if self.saves(settings) and settings.logger is not False:
            callbacks.append(LearningRateMonitor())
        if terminal:
            callbacks.append(Bar())
        if self.subcommand != "fit" or settings.logger in (None, True):
            changes["logger"] = False  # fit adds those of the run folder
        if self.subcommand == "predict":
            changes["devices"] = 1  # one process writes the file
        changes["callbacks"] = self.typed_callbacks(settings)
        if any(isinstance(callback, ProgressBar) for callback in changes["callbacks"]):
            callbacks = without(callbacks, ProgressBar)
            changes["enable_progress_bar"] = True
        changes["profiler"] = settings.profiler or Untimed()
        trainer = self._instantiate_trainer({**settings, **changes, **kwargs}, callbacks)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = checkpoint.Durable(self.model)
        leave_to_python(trainer)  # fit has Signals
        return trainer

    def epochs_done(self) -> int:
        begun = self.subcommand == "fit" and self.stored
        return self.stored["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] if begun else 0

    def typed_callbacks(self, settings: Any) -> list[Callback]:
        """Return the callbacks of the config that this command uses."""
        own: Any = settings.callbacks or []
        once = (BatchSizeFinder,) if self.subcommand != "fit" or self.options.run else ()  # found when the run began
        unused = (*once, Checkpoint, WeightAveraging) if self.subcommand != "fit" else once
        used = without(own if isinstance(own, list) else [own], unused)
        if sum(isinstance(callback, WeightAveraging | StochasticWeightAveraging) for callback in used) > 1:
            raise UserError("trainer.callbacks has two averages of the weights, which would mix: leave one of them out")
        if settings.max_time is not None:  # Lightning's ends amid an epoch, whose rest would be lost
            used.append(Timer(settings.max_time, interval="epoch"))
        return used

    def saves(self, settings: Any) -> bool:
        return self.subcommand == "fit" and not settings.fast_dev_run

    def open_run(self, settings: Any) -> None:
        """Make the run folder, or take the one that was named; let loggers and checkpoints write there."""
        checkpoint.check_hyper_parameters(self.model, self.datamodule)
        parent = Path(settings.default_root_dir or "runs") / self._get(self.config, "name")
        self.run = self.run or (Run.create(parent) if first_process() else Run(parent / "of_the_first_process"))
        if first_process():
            self.run.lock()
        if settings.logger is not False:
            step = self.stored.get("global_step", 0)
            self.trainer.loggers = [*run_loggers(self.run.path, step), *self.trainer.loggers]
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint | BestCheckpoint | LastCheckpoint) and callback.dirpath is None:
                callback.dirpath = str((self.run.path / "checkpoints").resolve())

    def record(self, trainer: Trainer, _: Any) -> None:
        """Refuse the last that can be refused, lighten the steps, and write config and provenance into the folder."""
        check_clipping(trainer)
        lighten(trainer)
        self.began = True
        if not trainer.is_global_zero:
            return
        if rows := start_rows(trainer, self.run.path if self.run and self.stored else None):
            print_rows(rows)
        if self.run is not None and self.saves(self._get(self.config, "trainer")):
            config = self.plain_config()
            data = (config["data"] or {}).get("init_args", {})
            if "batch_size" in data:  # BatchSizeFinder may have changed it
                samples = getattr(self.datamodule, "parts", {}).get("train", ())
                found = getattr(self.datamodule, "batch_size", data["batch_size"])
                data["batch_size"] = min(found, len(samples) or found)
            self.run.begin()
            self.run.write_config(config)
            self.run.record(sys.orig_argv, getattr(self.datamodule, "split_hash", None))

    def plain_config(self) -> dict[str, Any]:
        """Return the settings as config.yaml has them."""
        whole = yaml.safe_load(self.parser.dump(self.config, format="yaml"))[self.subcommand]
        return {key: whole[key] for key in SETTINGS}


class Picture(Settings):
    """The settings of fit, for a command that draws instead of training."""

    def before_instantiate_classes(self) -> None:
        """Need no checkpoint."""

    def saves(self, settings: Any) -> bool:  # noqa: ARG002
        return False


def first_process() -> bool:
    """Tell whether this is the only process of a run that writes."""
    return getattr(rank_zero_only, "rank", 0) == 0


def without(callbacks: Sequence[Callback], kinds: Any) -> list[Callback]:
    return [callback for callback in callbacks if not isinstance(callback, kinds)]
