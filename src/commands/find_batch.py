"""find_batch: throughput and memory by batch size."""

import re
from math import inf
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from matplotlib.figure import Figure

from src import require
from src.analysis.model.cost import MEBI, free_memory, memory_by_batch
from src.analysis.model.subject import Subject, pick, samples
from src.commands.fit_checks import ERRORS, FILLED, SAMPLES
from src.commands.trials import build_trials
from src.config.arguments import Options
from src.config.build import Experiment
from src.config.errors import OUT_OF_MEMORY
from src.engine.trial_steps import TrialSteps
from src.protocols import ImageData
from src.runs.summary import print_rows, save_figure

SMALLEST, LARGEST = 8, 2**16
SLOW = 2.0  # seconds of a step after which a CPU tries no larger batch
KNEE = 0.9  # of the highest throughput


def run(options: Options, *, output: Path | None = None) -> Experiment:
    """Measure training steps of batches of 8, 16, 32, ... samples.

    Prints and draws samples per second of each size up to the number of training samples, prints memory and the largest
    that fits, and suggests the smallest size with 90 % of the highest throughput. Changes no config and no run.

    Args:
        output: the picture; by default find_batch.png.

    Examples:
        python -m src.cli find_batch --config configs/digits.yaml
    """
    x = build_trials(options, without=("MicroBatches",))
    sizes = Sizes(x.data)
    TrialSteps(sizes.run).run(x.trainer, x.task, x.data)
    require(sizes.end, "training has no batches: use more data or smaller batches")
    require(sizes.seconds, f"no batch was measured: {sizes.end}")
    knee, rows = sizes.knee(), [("samples", f"{'ms per step':>14}{'samples/s':>12}{'MiB':>10}")]
    for size, each in sizes.seconds.items():
        memory = f"{sizes.memory[size] / MEBI:>10,.0f}" if sizes.memory[size] else ""
        rows.append((f"{size:,}", f"{1000 * each:>14,.1f}{size / each:>12,.0f}{memory}"))
    owners = [owner for owner in ("data", "model") if x.config.get(f"{owner}.init_args.batch_size") is not None]
    how = f"--{owners[0]}.batch_size={knee}" if owners else f"set the batch size of its DataLoader to {knee}"
    rows += [("largest", f"{max(sizes.seconds):,}, because {sizes.end}")]
    rows += [
        ("suggestion", f"{knee:,}, the smallest with {100 * KNEE:.0f} % of the highest throughput"),
        ("to use it", how),
    ]
    save_figure(picture(sizes, x.config.name), file := output or Path("find_batch.png"))
    print_rows([*rows, ("note", "another batch size needs another learning rate: find_lr"), ("written to", str(file))])
    return x


def picture(sizes: "Sizes", title: str) -> Figure:
    """Draw the throughput of each size, and the suggestion."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([*sizes.seconds], [size / each for size, each in sizes.seconds.items()], marker="o")
    axes.axvline(sizes.knee(), color="0.3", linestyle=":", label=f"suggestion {sizes.knee():,}")
    axes.set(xscale="log", ylim=(0, None), xlabel="batch size", ylabel="samples per second", title=title)
    axes.set_xticks([*sizes.seconds], [f"{size:,}" for size in sizes.seconds], minor=False)
    axes.minorticks_off()
    axes.legend(fontsize="small")
    return figure


class Sizes:
    """Seconds of a step and bytes by batch size, until the next size does not fit or is too slow."""

    def __init__(self, data: Any) -> None:
        self.data, self.end = data, ""  # why no larger size was measured
        self.seconds: dict[int, float] = {}
        self.memory: dict[int, float] = {}  # on a CPU an estimate

    def run(self, trial: TrialSteps) -> None:
        batch, gpu = trial.first, trial.module.device.type == "cuda"
        n, batches = samples(batch), trial.trainer.num_training_batches
        require(n > 0, "find_batch needs batches of tensors with one entry for each sample")
        total = len(self.data.splits["train"]) if isinstance(self.data, ImageData) else int(min(n * batches, LARGEST))
        fixed, each = (0.0, 0.0) if gpu else estimate(trial, batch, n)
        free, size = free_memory(trial.module.device) or inf, min(SMALLEST, total)
        while not self.end:
            try:
                self.seconds[size], self.memory[size] = measure(trial, pick(batch, n, torch.arange(size) % n))
            except RuntimeError as error:
                if not re.search(OUT_OF_MEMORY, str(error)):
                    raise
                self.end = f"{size:,} samples do not fit into memory"
                break
            self.memory[size] = self.memory[size] or fixed + each * size
            slow, size = not gpu and self.seconds[size] > SLOW, 2 * size
            if size > total:
                self.end = f"there are {total:,} training samples"
            elif fixed + each * size > FILLED * free:
                self.end = f"{size:,} samples need about {(fixed + each * size) / MEBI:,.0f} MiB"
            elif slow:
                self.end = f"a step takes more than {SLOW:g} s"

    def knee(self) -> int:
        """Return the smallest size with nearly the highest throughput."""
        best = max(size / seconds for size, seconds in self.seconds.items())
        return min(size for size, seconds in self.seconds.items() if size / seconds >= KNEE * best)


def estimate(trial: TrialSteps, batch: Any, n: int) -> tuple[float, float]:
    """Return the bytes that a step needs whatever its batch, and those for each sample; 0 if that is unknown."""
    few = pick(batch, n, torch.arange(min(n, SAMPLES)))
    try:
        return memory_by_batch(
            Subject(trial.module, few, trial.loss, trial.step, trial.context, trial.trainer.optimizers)
        )
    except ERRORS:  # such as a module that steps its optimizers itself
        return 0.0, 0.0


def measure(trial: TrialSteps, batch: Any, limit: float = 0.5, most: int = 20) -> tuple[float, float]:
    """Return the median seconds of a few steps but the first, and their peak memory in bytes on a GPU, else 0."""
    gpu = trial.module.device.type == "cuda"
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    found: list[float] = []
    while len(found) < 3 or (sum(found) < limit and len(found) < most):
        start = perf_counter()
        trial.step(batch)
        if gpu:
            torch.cuda.synchronize()
        found.append(perf_counter() - start)
    return median(found[1:]), torch.cuda.max_memory_allocated() if gpu else 0.0
