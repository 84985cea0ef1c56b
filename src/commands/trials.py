"""What the commands that take trial steps instead of a run have in common."""

from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.strategies import SingleDeviceStrategy

from src import require
from src.config.arguments import Options
from src.config.build import Experiment, build
from src.config.checks import check_training
from src.config.parser import parse
from src.protocols import LoadsRuns
from src.runs.summary import print_rows


def build_trials(options: Options, without: tuple[str, ...] = ()) -> Experiment:
    """Build what fit would train, for ``TrialSteps``: one process, which writes no files.

    Callbacks of other projects, and the classes ``without``, are off; a note names them.
    """
    config = parse(options)
    check_training(config.trainer, config.name)
    accumulated = config.trainer.accumulate_grad_batches or 1
    config.trainer.update(Namespace(logger=False, fast_dev_run=False, num_sanity_val_steps=0, limit_val_batches=0))
    config.trainer.update(Namespace(accumulate_grad_batches=1, enable_progress_bar=False, enable_checkpointing=False))
    x = build(config, options.command)
    alone = isinstance(x.trainer.strategy, SingleDeviceStrategy) and x.trainer.world_size == 1
    how = "add --trainer.devices=1 --trainer.num_nodes=1 --trainer.strategy=auto"
    command = "check --fit" if options.command == "check" else options.command
    require(alone, f"{command} needs one process and device, got {type(x.trainer.strategy).__name__}: {how}")
    config.trainer.accumulate_grad_batches = accumulated
    if isinstance(x.task, LoadsRuns):
        x.task.loads_runs, x.task.trust_runs = True, options.trust
    callbacks: list[Any] = x.trainer.callbacks  # type: ignore[attr-defined]
    kinds = {each: type(each) for each in callbacks}
    own = [each for each, kind in kinds.items() if kind.__module__.startswith("src.") and kind.__name__ not in without]
    others = [kind.__name__ for each, kind in kinds.items() if each not in own]
    x.trainer.callbacks = own  # type: ignore[attr-defined]  # others may write files or stop the run
    off = [] if config.compile is False else [("note", "compile is off here: it would take a minute")]
    print_rows(off + [("note", f"{name} is off here") for name in dict.fromkeys(others)])
    return x
