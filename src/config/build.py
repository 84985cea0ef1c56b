"""Build the task, the data module and the Trainer of a config."""

import inspect
import sys
from dataclasses import dataclass, field
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, callbacks, seed_everything
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from src import UserError, quote, require
from src.config.arguments import Options
from src.config.checks import check_training
from src.config.parser import import_path, instantiate
from src.engine.checkpoints import BestCheckpoint
from src.engine.extra_state import ModuleValues
from src.engine.launched import random_seed, synchronize_only_on_gpus
from src.engine.loss_weighting import LossWeighting
from src.engine.patches import LowOverhead, NoOpProfiler, PlateauStep, repeat_draws
from src.engine.progress import EpochLine, own_monitor
from src.engine.progress_bar import ProgressBar
from src.engine.resume import Resume
from src.engine.signals import Signals, disable_lightning_handlers
from src.protocols import HasEpochMeans, ImageData, KnownClasses, LoadsRuns, Pretrained
from src.runs.checkpoint import AtomicCheckpointIO, check_weights, epochs_done, load_first_valid
from src.runs.folder import Run


@dataclass
class Experiment:
    """A task, its data and its Trainer, built from a config."""

    task: LightningModule
    data: LightningDataModule | None
    trainer: Trainer
    config: Namespace
    progress: EpochLine
    signals: Signals
    best: BestCheckpoint | None  # None if no checkpoints are saved
    run: Run | None = None  # the run folder, if there is one
    stored: dict[str, Any] = field(default_factory=dict)  # the checkpoint that the command starts from
    needs_trust: bool = False  # whether its run can be used only with --trust
    settings: dict[str, Any] = field(default_factory=dict)  # content of config.yaml
    trained: bool = False  # whether training has started in this process
    outputs: Any = None  # of the test

    def can(self, stage: str) -> bool:
        """Tell whether the task has a step for test or predict, and the task or its data a loader."""
        steps = ("predict_step", "forward") if stage == "predict" else (f"{stage}_step",)
        loads = any(is_overridden(f"{stage}_dataloader", each) for each in (self.task, self.data) if each is not None)
        return loads and any(is_overridden(step, self.task) for step in steps)

    def run_options(self) -> str:
        """Return what to type after a command that uses the run folder."""
        return f"--run {quote(self.run.path if self.run else '')}{' --trust' if self.needs_trust else ''}"

    def usable(self) -> tuple[bool, str | None]:
        """Return whether the run can be tested, and the options of predict, None if it cannot predict."""
        images = isinstance(self.data, ImageData) and self.data.holds_images
        return self.can("test"), " --images FILE" if images else "" if self.can("predict") else None


def find_start(options: Options, config: Namespace) -> tuple[Run | None, dict[str, Any]]:
    """Return the run folder that the options name, and the content of the checkpoint to start from; fit needs none.

    Set ``config.ckpt_path`` to its path: as typed, or else the run's last checkpoint for fit, its best otherwise.
    """
    run = Run(options.run) if options.run else None
    fits = options.command == "fit"
    files: list[Any] = [config.ckpt_path] if config.ckpt_path else []
    if run is not None and (not files or options.resumed):
        if fits and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            run.lock()  # before reading what another process may still write
        files = list(run.checkpoints("last" if fits else "best"))
    if not files:
        require(fits, f"{options.command} needs a trained model: choose a run with --run or a file with --ckpt_path")
        return run, {}
    config.ckpt_path, stored = load_first_valid(files, to_resume=fits)
    return run, stored


def build(
    config: Namespace, command: str = "fit", run: Run | None = None, stored: dict[str, Any] | None = None
) -> Experiment:
    """Set the random seed, drawn now if the config asks for it; build the task, the data module and the Trainer."""
    stored = stored or {}
    if command in ("fit", "schedule"):
        check_training(config.trainer, config.name)
    config.seed_everything = random_seed() if config.seed_everything is True else config.seed_everything
    seed_everything(config.seed_everything, workers=True, verbose=False)
    known = infer_num_classes(config)
    give_outputs(config.model.get("init_args") or Namespace())
    task, data, built = instantiate(config, bool(stored), known)
    if config.model.get("init_args.init") is not None:  # which draws random numbers only in a new run
        seed_everything(config.seed_everything, workers=True, verbose=False)
    repeat_draws(data or task)
    if stored:
        check_weights(task, stored)
    if isinstance(task, Pretrained) and (stored or command == "schedule"):
        task.weights = None  # type: ignore[assignment]  # the checkpoint has them, and the file may be gone
    if isinstance(task, LoadsRuns):
        task.loads_runs = command == "fit"
    saves = command == "fit" and not config.trainer.fast_dev_run and config.trainer.enable_checkpointing is not False
    progress = EpochLine(own_monitor(task)[0])
    signals = Signals(built.last if saves else None)
    epoch = epochs_done(stored) if command == "fit" else 0
    ours: list[Callback] = [Resume(epoch, config.seed_everything), progress, LowOverhead()]
    ours += [] if isinstance(task, HasEpochMeans) else [ModuleValues()]  # a Task keeps none
    ours += [built.non_finite, signals] if command == "fit" else []
    ours += [built.best, built.last] if saves else []
    trainer = make_trainer(built.trainer, command, ours, saves, fresh=not stored)
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO(task)
    return Experiment(task, data, trainer, config, progress, signals, built.best if saves else None, run, stored)


def make_trainer(settings: Namespace, command: str, ours: list[Callback], saves: bool, fresh: bool) -> Trainer:
    own = own_callbacks(settings, command, fresh)
    if command == "fit" and not settings.fast_dev_run and settings.logger is not False:
        ours.append(callbacks.LearningRateMonitor())
    bar = any(isinstance(each, callbacks.ProgressBar) for each in own)
    if not bar and (bar := sys.stdout.isatty() and settings.enable_progress_bar is not False):
        ours.append(ProgressBar())
    resume, *others = ours  # the first, to see the optimizers before other callbacks add parameter groups
    changes = {"callbacks": [resume, *own, *others], "enable_progress_bar": bar, "enable_checkpointing": saves}
    changes |= {"profiler": settings.profiler or NoOpProfiler(), "max_time": None}  # own_callbacks adds a Timer
    if command != "fit":
        changes["logger"] = DummyLogger()  # accepts whatever a module logs
    elif settings.logger in (None, True):
        changes["logger"] = False  # fit adds the loggers of the run folder
    if command == "predict":
        changes["devices"] = 1  # one process writes the file
    trainer = Trainer(**(settings.as_dict() | changes))
    first = next((i for i, each in enumerate(trainer.callbacks) if isinstance(each, callbacks.Checkpoint)), None)  # type: ignore[attr-defined]
    trainer.callbacks.insert(len(trainer.callbacks) if first is None else first, plateau := PlateauStep())  # type: ignore[attr-defined]
    plateau.following = next(iter(trainer.checkpoint_callbacks[1:]), None)
    disable_lightning_handlers(trainer)
    if settings.get("sync_batchnorm"):
        synchronize_only_on_gpus(trainer)
    scheduled = any(isinstance(each, callbacks.GradientAccumulationScheduler) for each in own)
    if trainer.world_size > 1 or trainer.accumulate_grad_batches > 1 or scheduled:
        trainer.callbacks.insert(0, LossWeighting())  # type: ignore[attr-defined]  # before any that uses gradients
    return trainer


def own_callbacks(settings: Namespace, command: str, fresh: bool) -> list[Callback]:
    """Return the callbacks of the config that a command uses; those that tune settings only before training starts."""
    own: Any = settings.callbacks or []
    tuners = (callbacks.BatchSizeFinder, callbacks.LearningRateFinder)
    unused: tuple[type, ...] = () if command == "fit" and fresh else tuners
    if command != "fit":
        unused += callbacks.Checkpoint, callbacks.WeightAveraging
    used = [each for each in (own if isinstance(own, list) else [own]) if not isinstance(each, unused)]
    averaging = callbacks.WeightAveraging | callbacks.StochasticWeightAveraging
    if sum(isinstance(each, averaging) for each in used) > 1:
        raise UserError("trainer.callbacks has two kinds of weight averaging, which cannot be combined: remove one")
    if settings.max_time is not None:  # Lightning would stop within an epoch and lose the rest of it
        timer = callbacks.Timer(settings.max_time, interval="epoch")
        require((timer.time_remaining() or 0) > 0, f"trainer.max_time must be more than 0, got {settings.max_time}")
        used.append(timer)
    return used


def compile_task(x: Experiment) -> None:
    settings = {} if x.config.compile is True else x.config.compile
    try:
        x.task.compile(**settings)
    except (TypeError, RuntimeError) as error:
        raise UserError(f"compile must be true, false or arguments of torch.compile, got {settings}: {error}") from None


def infer_num_classes(config: Namespace) -> LightningDataModule | None:
    """Replace ``num_classes: data`` of the model by the number of classes of the data, which it builds and returns."""
    settings = config.model.get("init_args") or Namespace()
    if settings.get("num_classes") != "data":
        return None
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True, required=False)
    data = parser.instantiate(Namespace(data=config.get("data"))).get("data")
    known = isinstance(data, KnownClasses)
    require(known, "num_classes cannot be read from this data module: set --model.num_classes")
    settings.num_classes = data.num_classes
    return data


def give_outputs(settings: Namespace) -> None:
    """Pass the number of classes on to a net that a function with settings of its own builds before the task does."""
    net, outputs = settings.get("net"), settings.get("num_classes")
    takes = isinstance(net, Namespace) and "num_classes" in net.get("init_args", Namespace())
    if outputs is not None and takes and not inspect.isclass(import_path(net.class_path)):
        net.init_args.num_classes = outputs
