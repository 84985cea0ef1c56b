"""find_lr: a learning-rate range test."""

from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import Namespace
from matplotlib.figure import Figure

from src import require
from src.commands.trials import build_trials
from src.config.arguments import Options
from src.config.build import Experiment
from src.engine.trial_steps import TrialSteps
from src.runs.summary import print_rows, save_figure

SMOOTHING = 0.98  # of the running mean of the loss, as in fastai
DIVERGED = 4  # times the lowest smoothed loss, as in fastai
SETTINGS = {"optimizer.init_args.lr": "optimizer.lr", "lr": "lr", "learning_rate": "learning_rate"}


def run(
    options: Options, *, low: float = 1e-6, high: float = 10.0, steps: int = 100, output: Path | None = None
) -> Experiment:
    """Suggest a learning rate: raise it step by step and watch the loss.

    Trains a few steps from the start, with a rate that grows exponentially until the loss diverges (Smith, 2015,
    arXiv:1506.01186), and draws the loss. The suggestion is the middle of its longest fall, fastai's ``valley``. All
    parameter groups are scaled together. Changes no config and no run.

    Args:
        low: first learning rate.
        high: last learning rate.
        steps: number of training steps, at least 20.
        output: the picture; by default find_lr.png.

    Examples:
        python -m src.cli find_lr --config configs/digits.yaml
    """
    require(0 < low < high < inf, f"--low must be more than 0 and less than --high, got {low:g} and {high:g}")
    require(20 <= steps <= 10_000, f"--steps must be in [20, 10000], got {steps}")
    x, file = build_trials(options), output or Path("find_lr.png")
    require(
        x.task.automatic_optimization,
        f"find_lr needs automatic optimization, but {type(x.task).__name__} steps its optimizers itself",
    )
    test = RangeTest(np.geomspace(low, high, steps), *configured_rate(x.config))
    TrialSteps(test.run).run(x.trainer, x.task, x.data)
    require(test.losses, "training has no batches: use more data or smaller batches")
    report(x, test, file)
    return x


def configured_rate(config: Namespace) -> tuple[str, float]:
    """Return the name of the model's learning rate as it is typed, and its value; "" and 0 if it has none."""
    for key, typed in SETTINGS.items():
        value = (config.model.get("init_args") or Namespace()).get(key)
        if isinstance(value, int | float) and value > 0:
            return f"--model.{typed}", value
    return "", 0.0


class RangeTest:
    """Train with learning rates that grow, and keep the losses."""

    def __init__(self, rates: Any, setting: str, configured: float) -> None:
        self.planned, self.rates, self.setting, self.configured = rates, rates[:0], setting, configured
        self.losses: list[float] = []
        self.smoothed: list[float] = []  # without the bias towards 0 of a running mean's start

    def run(self, trial: TrialSteps) -> None:
        groups = [group for optimizer in trial.trainer.optimizers for group in optimizer.param_groups]
        base = [float(group.get("initial_lr", group["lr"])) for group in groups]
        name = type(trial.module).__name__
        require(max(base, default=0) > 0, f"find_lr needs an optimizer with a learning rate above 0; {name} has none")
        self.configured = self.configured or max(base)
        batch, mean = trial.first, 0.0
        for step, rate in enumerate(self.planned, 1):
            for group, each in zip(groups, base, strict=True):
                group["lr"] = each * float(rate) / self.configured
            loss = trial.step(batch)
            require(loss is not None, f"find_lr needs a loss: training_step of {name} returned none")
            if loss is None or not isfinite(loss):
                return
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            self.losses.append(loss)
            self.rates = self.planned[:step]
            self.smoothed.append(mean / (1 - SMOOTHING**step))
            best = min(self.smoothed)
            if self.smoothed[-1] > best + (DIVERGED - 1) * abs(best):
                return
            batch = trial.next_batch(again=True)

    def suggestions(self) -> dict[str, float]:
        """Return learning rates by rule, with two digits; nothing if the loss does not fall.

        The first tenth of the steps is left out, because the smoothed loss is that of a few batches there, and the last
        five, where the loss rises.
        """
        part = slice(len(self.planned) // 10, -5)
        rates, losses = self.rates[part], np.array(self.smoothed[part])
        if len(losses) < 5 or losses.min() > losses[0] - 0.01 * abs(losses[0]):
            return {}
        found = {"valley": rates[valley(losses)], "steepest": rates[np.gradient(losses, np.log(rates)).argmin()]}
        return {rule: float(f"{rate:.2g}") for rule, rate in found.items()}


def valley(losses: Any) -> int:
    """Return the middle of the longest decreasing subsequence; fastai's ``valley`` (callback/schedule.py)."""
    lengths = np.ones(len(losses), dtype=int)
    for i in range(1, len(losses)):
        lengths[i] += lengths[:i][losses[:i] > losses[i]].max(initial=0)
    end = int(lengths.argmax())
    start = end - int(lengths[end])
    third = (end - start) / 3
    return max(0, start + int(third) + int(third / 2))


def report(x: Experiment, test: RangeTest, file: Path) -> None:
    """Print the suggestion and how to type it, and draw the losses."""
    found, count = test.suggestions(), len(test.losses)
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(test.rates, test.losses, color="0.8", label="loss")
    axes.plot(test.rates, test.smoothed, label="smoothed")
    marks = {**found, "configured": test.configured} if test.setting else found
    for (rule, rate), style in zip(marks.items(), (":", "--", "-."), strict=False):
        axes.axvline(rate, color="0.3", linestyle=style, label=f"{rule} {rate:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", title=x.config.name)
    low, high = min(test.losses), max(test.smoothed[: count // 2 + 1])
    axes.set_ylim(low - 0.1 * (high - low), high + 0.5 * (high - low))
    axes.legend(fontsize="small")
    save_figure(figure, file)
    ended = "" if count == len(test.planned) else f", then the loss diverged above {test.rates[-1]:.2g}"
    rows = [("steps", f"{count} of {len(test.planned)}{ended}")]
    if found:
        rows += [("suggestion", f"{found['valley']:g}, the middle of the longest fall (valley)")]
        rows += [("steepest", f"{found['steepest']:g}, where the loss falls fastest")]
        factor = found["valley"] / test.configured
        typed = f"{test.setting}={found['valley']:g}" if test.setting else f"multiply the learning rate by {factor:.2g}"
        rows += [("configured", f"{test.configured:g}"), ("to use it", typed)]
        own = any("lr" in rule for rule in x.config.model.get("init_args.groups") or [])
        rows += [("", f"and multiply lr of model.groups by {factor:.2g}")] if own else []
    else:
        rows += [("suggestion", "none, because the loss does not fall: try another --low or --high, or more --steps")]
    print_rows([*rows, ("written to", str(file))])
