"""The checks of ``check --fit``: prepare a run as fit does, take a few training steps, and report what is wrong."""

from collections.abc import Callable
from contextlib import suppress
from math import isfinite, nan
from textwrap import wrap
from time import perf_counter
from typing import Any, cast

import torch

from src import require
from src.analysis.model import forward_checks, model_checks
from src.analysis.model.cost import MEBI, clock, free_memory, memory_by_batch, seconds_per_step
from src.analysis.model.label_check import inputs_and_labels, labels_depend_on_inputs
from src.analysis.model.spies import Spy
from src.analysis.model.subject import Check, Subject, find_calls, pick, samples
from src.commands.trials import build_trials
from src.config.arguments import Options
from src.config.build import Experiment
from src.engine.trial_steps import TrialSteps
from src.protocols import Averageable, ImageData
from src.runs.summary import print_rows

SAMPLES = 32  # of a batch that is enough for most checks
FILLED = 0.9  # of the free memory, by the largest batch
LABELS = 1000  # samples whose labels are compared
ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError)  # of modules used in unusual ways
SMALLER = "use a smaller --data.batch_size, or add --config configs/presets/micro_batches.yaml"
WORDS = {True: "pass", False: "FAIL", None: "skip"}


def check_fit(options: Options) -> tuple[Experiment, dict[str, Check]]:
    """Build what fit would train, check it in the first training step and print a line for each check."""
    x = build_trials(options)
    accumulated = x.config.trainer.accumulate_grad_batches
    results: dict[str, Check] = {}
    TrialSteps(lambda steps: FitChecks(x, steps, results, accumulated).run()).run(x.trainer, x.task, x.data)
    require(results, "training has no batches: use more data or smaller batches")
    return x, results


class FitChecks:
    """All checks of a run whose first training batch is ready."""

    def __init__(self, x: Experiment, steps: TrialSteps, results: dict[str, Check], accumulated: int) -> None:
        self.x, self.steps, self.results, self.accumulated = x, steps, results, accumulated
        self.seconds, self.fixed, self.each = nan, 0.0, 0.0  # of a step, and the bytes of a step and of each sample
        self.free: float | None = None

    def run(self) -> None:
        s, spy, calls, loss = self.first_step()
        comparable = isinstance(self.x.task, Averageable) or any("cross_entropy" in name for name, _ in spy.losses)
        self.add("loss at start", lambda: model_checks.loss_at_start(s, calls, loss, comparable))
        self.add("outputs", lambda: model_checks.kind_of_outputs(spy))
        self.add("labels", self.labels)
        self.add("dead units", lambda: model_checks.dead_units(spy))
        dead = self.results["dead units"].ok is False  # which explains what else is 0
        self.add("gradients", lambda: model_checks.gradients(s, dead))
        with s.unchanged():
            self.add("deterministic", lambda: forward_checks.deterministic(s, calls))
            self.add("samples", lambda: forward_checks.independent(s, calls))
        with s.unchanged():
            self.add("train and eval", lambda: forward_checks.train_and_eval(s, calls))
        first = Check(None, "mend the above first")
        self.add("loss gradient", lambda: first if dead else model_checks.loss_gradient(s, calls))
        failed = any(each.ok is False for each in self.results.values())
        self.add("one batch", lambda: first if failed else model_checks.one_batch(s))
        self.add("time of a step", lambda: self.time(s))
        self.add("whole run", self.length)
        self.add("memory", lambda: self.memory(s))
        self.add("largest batch", self.largest_batch)

    def first_step(self) -> tuple[Subject, Spy, list[Any], Any]:
        """Take the first training step, on few samples if it takes a part of a batch, and watch it."""
        steps, batch = self.steps, self.steps.first
        n = samples(batch)
        s = Subject(steps.module, batch, steps.loss, steps.step, steps.context, steps.trainer.optimizers)
        losses: list[Any] = []
        few = pick(batch, n, torch.arange(min(n, SAMPLES)))
        with suppress(*ERRORS):  # the whole batch then shows whether this is a bug
            with s.unchanged():
                steps.loss(few)
            s.batch = few
        with s.unchanged(), Spy(steps.module) as spy:
            calls = find_calls(steps.module, lambda: losses.append(steps.loss(s.batch)))
        return s, spy, calls, losses[0]

    def add(self, name: str, check: Callable[[], Check]) -> None:
        """Make a check and print its line."""
        try:
            result = check()
        except torch.OutOfMemoryError:
            result = Check(False, "out of memory", SMALLER)
        except ERRORS as error:
            result = Check(None, f"not possible ({type(error).__name__}: {' '.join(str(error).split())[:100]})")
        self.results[name] = result
        text = result.figure + (f": {result.advice}" if result.ok is False and result.advice else "")
        lines = wrap(text, 80 - 22)
        print_rows([(f"{WORDS[result.ok]}  {name:<14}", lines[0]), *((" " * 20, line) for line in lines[1:])])

    def labels(self) -> Check:
        """Check the labels of the training split, or of the first batches of data of another project."""
        data, start = cast("Any", self.x.data), perf_counter()
        if isinstance(data, ImageData):
            train = data.splits["train"]
            if train.targets is None:
                return Check(None, "there are none")
            order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:LABELS]
            parts = [train[part][1:] for part in order.split(100) if perf_counter() - start < 2]  # files take time
            return labels_depend_on_inputs(*(torch.cat(each).cpu() for each in zip(*parts, strict=True)))
        found: list[Any] = [self.steps.first]
        while len(found) * samples(found[0]) < LABELS and perf_counter() - start < 2:
            if (batch := self.steps.next_batch()) is None:
                break
            found.append(batch)
        pair = inputs_and_labels(found)
        return labels_depend_on_inputs(*pair) if pair else Check(None, "batches are not inputs and labels")

    def time(self, s: Subject) -> Check:
        start, count = perf_counter(), 0
        while count < 5 and perf_counter() - start < 0.5 and self.steps.next_batch() is not None:
            count += 1
        fetching = (perf_counter() - start) / count if count else 0.0
        seconds, whole = seconds_per_step(s, self.steps.first)
        self.seconds, n = seconds + fetching, samples(self.steps.first)
        about = "" if whole else f", estimated from {samples(s.batch)} of them"
        ms = 1000 * self.seconds
        return Check(True, f"{ms:,.{1 if ms < 100 else 0}f} ms for {f'{n:,} samples' if n else 'a batch'}{about}")

    def length(self) -> Check:
        trainer = self.steps.trainer
        total = trainer.estimated_stepping_batches
        if not isfinite(total * self.seconds) or total < 1:
            return Check(None, "its steps or their time are unknown")
        epochs = f", {trainer.max_epochs} epochs" if (trainer.max_epochs or 0) > 0 else ""
        steps = f"{int(total) // self.accumulated:,} steps{epochs}"
        return Check(True, f"{steps}: {clock(total * self.seconds)} without validation")

    def memory(self, s: Subject) -> Check:
        """Estimate the memory of a step; refuse a batch that does not fit."""
        self.fixed, self.each = memory_by_batch(s)
        needed, self.free = self.fixed + self.each * samples(self.steps.first), free_memory(self.steps.module.device)
        figure = f"about {needed / MEBI:,.0f} MiB for a step"
        if self.free is None:
            return Check(True, figure)
        return Check(needed < self.free, f"{figure}; {self.free / MEBI:,.0f} MiB are free", SMALLER)

    def largest_batch(self) -> Check:
        if self.free is None or not self.each:
            return Check(None, "unknown")
        most = int((FILLED * self.free - self.fixed) / self.each)
        return Check(True, f"about {2 ** (most.bit_length() - 1):,} samples, a power of 2, by its memory")
