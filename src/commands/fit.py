"""fit: train, or resume a run; then evaluate the best checkpoint."""

import sys
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import BatchSizeFinder, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.model_helpers import is_overridden

from src import UserError, require
from src.config.arguments import Options, scheduler_job
from src.config.build import Experiment, build, compile_task, find_start
from src.config.parser import named_settings, parse, plain_config, to_yaml
from src.engine.checkpoints import PublishedCheckpoint, validation_metrics
from src.engine.progress import RunTensorBoardLogger, run_loggers
from src.engine.signals import explain_end, reached_limit, restore_limits, tuned_names
from src.protocols import ImageData, LoadsRuns
from src.runs.checkpoint import AtomicCheckpointIO, epochs_done, left_out
from src.runs.folder import Run
from src.runs.keep_outputs import KeepOutputs
from src.runs.summary import (
    complete_rows,
    merge_dataloaders,
    metrics_table,
    next_commands,
    print_rows,
    provenance,
    run_stats_table,
    start_notes,
)


def run(options: Options, *, resume: Literal["auto", "never"] | None = None, no_page: bool = False) -> Experiment:
    """Train, or resume a run; then test the best checkpoint.

    Args:
        resume: auto: resume the newest run of this name, if any; never: start a new run, even after a requeue.
        no_page: keep no predictions of the test and write no report.html.

    Examples:
        python -m src.cli fit --config configs/digits.yaml --trainer.max_epochs=3
        python -m src.cli fit --run runs/digits/version_0
    """
    del resume  # src.config.arguments has chosen the run
    config = parse(options)
    continues = options.run is not None and (config.ckpt_path is None or options.resumed)
    x = build(config, "fit", *find_start(options, config))
    x.needs_trust, x.settings = options.needs_trust, plain_config(config)
    if options.trust and isinstance(x.task, LoadsRuns):
        x.task.trust_runs = x.needs_trust = True
    unchanged = continues and x.run is not None and x.run.has_config(x.settings)
    restore_limits(x.trainer, x.stored)
    limit = reached_limit(x.trainer, *done(x)) if x.stored and not config.trainer.fast_dev_run else ""
    complete = limit or (unchanged and x.stored.get("stopped", False))
    if (complete or unchanged) and (x.run is None or x.run.is_evaluated()):
        print_rows(complete_rows(*done(x), limit, changed=continues and not unchanged))
        return x
    if config.compile is not False:
        compile_task(x)
    before = x.run.snapshot() if x.run else {}
    if not config.trainer.fast_dev_run:
        open_run(x)
    x.trainer.callbacks += [*options.callbacks, TrainingStart(x)]  # type: ignore[attr-defined]
    try:
        if not complete:  # else the run was interrupted between training and evaluation
            with x.signals.handled(x.trainer, install=options.owns_process):
                x.trainer.fit(x.task, datamodule=x.data, ckpt_path=config.ckpt_path)
            require(x.trainer.num_training_batches, "training has no batches: use more data or smaller batches")
    except BaseException as error:
        explain_end(x, error, before)
        raise
    if not x.trained:
        x.progress.load_state_dict(x.stored.get("callbacks", {}).get(x.progress.state_key, {}))
    seconds = round(x.progress.run_seconds(), 1)
    metrics = evaluate_best(x, [] if no_page else [KeepOutputs()])
    if x.trainer.is_global_zero:
        finish(x, metrics, seconds)
    return x


def done(x: Experiment) -> tuple[int, int]:
    """Return the number of epochs and steps that the run has trained."""
    if x.trained:
        return x.trainer.current_epoch, x.trainer.global_step
    return epochs_done(x.stored), x.stored.get("global_step", 0)


def open_run(x: Experiment) -> None:
    """Create and lock the run folder, or lock the existing one; direct loggers and checkpoints to it."""
    parent = Path(x.config.trainer.default_root_dir or "runs").expanduser() / x.config.name
    x.run = x.run or (Run.create(parent) if x.trainer.is_global_zero else Run(parent / "of_the_first_process"))
    if x.trainer.is_global_zero:
        x.run.lock()
    if x.config.trainer.logger is not False:
        x.trainer.loggers = [*run_loggers(x.run.path, x.stored.get("global_step", 0)), *x.trainer.loggers]
    for callback in x.trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint | PublishedCheckpoint) and callback.dirpath is None:
            callback.dirpath = str((x.run.path / "checkpoints").resolve())


class TrainingStart(Callback):
    """Make the last checks when training starts, then write config.yaml and provenance.json."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment

    def on_sanity_check_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Reject callbacks whose monitored metric the sanity check did not log."""
        known = validation_metrics(trainer)
        for callback in trainer.callbacks:
            name, strict = str(getattr(callback, "monitor", "")), getattr(callback, "strict", True)
            if strict and "val" in name and known and name not in known:
                owner = "best." if callback is self.experiment.best else f"{type(callback).__name__}'s "
                raise UserError(f"{owner}monitor {name} is not logged; choose from {', '.join(known)}")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        fused = any(group.get("fused") for optimizer in trainer.optimizers for group in optimizer.param_groups)
        if fused and trainer.gradient_clip_val and str(trainer.precision).endswith("mixed"):
            hint = "set trainer.gradient_clip_val=0 or model.optimizer.fused=false"
            raise UserError(f"gradient clipping does not work with a fused optimizer in mixed precision: {hint}")
        x = self.experiment
        x.trained = True
        if trainer.is_global_zero:
            resumed = x.run.path if x.run and x.stored else None
            print_rows(start_notes(trainer, resumed) + left_out(x.task, x.data))
            if x.run is not None and not x.config.trainer.fast_dev_run:
                write_records(x, x.run)


def write_records(x: Experiment, run: Run) -> None:
    config = x.settings
    for owner, section in ((x.task, config["model"]), (x.data, config["data"] or {})):
        settings = section.get("init_args", {})
        for name in settings.keys() & {*tuned_names(x.trainer)}:
            settings[name] = getattr(owner, name, getattr(owner, "hparams", {}).get(name))
    if isinstance(x.data, ImageData) and "batch_size" in settings:  # more than there are samples may have been found
        settings["batch_size"] = min(settings["batch_size"], len(x.data.splits.get("train", ())) or sys.maxsize)
    run.invalidate_results()
    run.write_config(to_yaml(config))
    split_hash = x.data.split_hash if isinstance(x.data, ImageData) else None
    run.add_provenance(provenance(run.config, split_hash, scheduler_job()))


def evaluate_best(x: Experiment, watch: list[Any]) -> dict[str, float]:
    """Return the metrics of the best checkpoint, or of the current weights if none was saved.

    ``watch`` are callbacks of the test.
    """
    trainer, loggers = x.trainer, x.trainer.loggers
    start = None if x.trained else x.config.ckpt_path
    best = str(x.best.file()) if x.best and x.best.file().exists() else start
    best = trainer.strategy.broadcast(best) if x.trained else best  # the others may not see the new file yet
    trainer.loggers = [DummyLogger()]  # the validation metrics of this epoch are logged already
    unused = (BatchSizeFinder, WeightAveraging)  # the checkpoint holds the averaged weights
    trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, unused)]  # type: ignore[attr-defined]
    common: dict[str, Any] = {"model": x.task, "datamodule": x.data, "ckpt_path": best, "verbose": False}
    validates = not x.trained or any(trainer.num_val_batches or [trainer.enable_validation])
    validates = validates and is_overridden("validation_step", x.task)
    metrics = merge_dataloaders(trainer.validate(**common)) if validates else {}
    if x.can("test") and x.config.test:
        trainer.callbacks += watch  # type: ignore[attr-defined]
        test = merge_dataloaders(trainer.test(**common))
        x.outputs = watch[0].outputs if watch else None
        metrics |= test
        means = {name: test[name] for name in test if name.count("/") < 2 and not name.startswith("reference/")}
        for logger in loggers:
            logger.log_metrics(means, trainer.global_step or x.stored.get("global_step", 0))
            logger.save()
    for logger in loggers:
        if isinstance(logger, RunTensorBoardLogger):
            logger.log_results(dict(named_settings(x.settings)), metrics)
    return metrics


def finish(x: Experiment, metrics: dict[str, float], seconds: float) -> None:
    """Print the results, speed, and next commands of a run; write results.json and the page."""
    parameters, batch_size = sum(p.numel() for p in x.task.parameters()), getattr(x.data, "batch_size", 0)
    stats = {"parameters": parameters, "batch_size": batch_size, "seconds": seconds}
    stats |= x.progress.speed(x.trainer.strategy.root_device)
    previous = x.run.previous_results() if x.run else ({}, "")
    rows = metrics_table(metrics, x.best)
    saved = x.run is not None and not x.config.trainer.fast_dev_run
    if x.run is not None and saved:
        x.run.write_results({**metrics, **stats})
    if x.outputs:
        from src.commands.page import finish_page, outputs_rows  # only a page needs them

        rows += outputs_rows(x.outputs)
    print_rows([("", ""), *rows, ("", ""), *run_stats_table(stats, *previous)])
    if x.run is not None and x.run.has_checkpoint():
        limit = reached_limit(x.trainer, *done(x))
        print_rows(next_commands(x.run.path, x.run_options(), limit, *x.usable()))
    if x.run is not None and saved and x.outputs:
        finish_page(x.run, x.outputs)
    io = x.trainer.strategy.checkpoint_io
    if isinstance(io, AtomicCheckpointIO) and io.failed:
        raise UserError(f"training has finished, but its last checkpoint was not saved: {io.failed}")
