"""test: evaluate a checkpoint on the test split."""

import sys
from pathlib import Path
from typing import Any

from src import require
from src.analysis.outputs import FILE
from src.analysis.statistics import student
from src.config.arguments import Options
from src.config.build import Experiment, build, find_start
from src.config.parser import parse
from src.protocols import ImageData
from src.runs.keep_outputs import KeepOutputs
from src.runs.summary import Rows, cell, echo, end_of, merge_dataloaders, metrics_table, per_class_table, print_rows


def run(options: Options, *, greedy: bool = False, soup: bool = False) -> Experiment:
    """Evaluate a checkpoint on the test split, or an ensemble of runs.

    Args:
        greedy: choose among several runs, also repeatedly, those whose average is best on the validation split.
        soup: average the weights of several runs, not their predictions; with --greedy, those that make it better.

    Examples:
        python -m src.cli test --run runs/digits/version_0
        python -m src.cli test --run runs/digits/version_0 --run runs/digits/version_1
    """
    x = start(options, greedy, soup)
    evaluation, keep, run = getattr(x.trainer, options.command), KeepOutputs(), x.run
    as_trained = run is not None and options.command == "test" and not (options.settings or options.config[1:])
    best = run is not None and Path(str(x.config.ckpt_path)) == run.path / "checkpoints/best.ckpt"
    if run is not None and as_trained and best and not (run.path / FILE).exists():
        x.trainer.callbacks.append(keep)  # type: ignore[attr-defined]
    results = evaluation(x.task, datamodule=x.data, ckpt_path=x.config.ckpt_path, verbose=False)
    if run is not None and keep.outputs:
        try:
            keep.outputs.save(run.path / FILE)  # for report
        except OSError as error:  # such as a folder that may only be read
            echo(f"warning: predictions are not kept: {error}", sys.stderr)
    if x.trainer.is_global_zero and results:
        if options.others:
            print_rows(comparison(x.task, [str(each.run) for each in (options, *options.others)], soup))
        metrics = merge_dataloaders(results)
        print_rows([*metrics_table(metrics), *per_class_table(metrics)])
        print_rows([] if options.others else [("checkpoint", str(x.config.ckpt_path))])
    return x


def start(options: Options, greedy: bool = False, soup: bool = False) -> Experiment:
    """Build the experiment of a command that uses a checkpoint, which tells the data its classes and normalization.

    That of several runs has an ``Ensemble`` as its task, and no run folder.
    """
    several = options.others or not (greedy or soup)
    require(several, f"--{'greedy' if greedy else 'soup'} needs several runs: repeat --run")
    paths = [each.run.resolve() for each in (options, *options.others) if each.run]
    twice = [str(path) for path in paths if paths.count(path) > 1]
    require(not twice, f"--run {''.join(twice[:1])} is given twice: an ensemble needs different runs")
    members: list[Experiment] = []
    for each in (options, *options.others):
        config = parse(each)
        members.append(x := build(config, each.command, *find_start(each, config)))
        x.stored.pop("optimizer_states", None)  # which several runs need not hold at once
        if isinstance(x.data, ImageData) and (state := x.stored.get(type(x.data).__qualname__)):
            x.data.load_state_dict(state)
    if not options.others:
        return x
    from src.commands.ensemble import combine  # here, because a single run does not need it

    return combine(members, options.command, greedy, soup)


def comparison(task: Any, names: list[str], soup: bool) -> Rows:
    """Return the monitored metric of each member and of their ensemble or soup, and the difference between both.

    If the metric is a mean over samples, the difference has a 95 % interval: that of Student's t for the mean of the
    differences of each sample.
    """
    *own, combined = task.results
    kind, spreads = "soup" if soup else "ensemble", [""] * len(own)
    if task.paired is not None:
        differences = task.paired[:, -1:].double() - task.paired[:, :-1].double()
        spreads = [f" +/- {student(each.numpy()):.4f}" for each in differences.cpu().T]
    rows = [("run", f"{task.metric:>10}  {kind} minus run")]
    for name, value, spread in zip(names, own, spreads, strict=False):  # a soup is one more member
        rows.append((end_of(name, 40), f"{cell(value)}  {combined - value:+.4f}{spread}"))
    rows.append((kind, cell(combined)))
    note = [("note", "+/- is the 95 % interval, paired by sample")] if task.paired is not None else []
    return [*rows, *note, ("", "")]
