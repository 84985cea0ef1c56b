"""What a worker of a study does: claim a trial, train its runs in this process, store the result."""

import gc
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from src import UserError, read_json
from src.commands import fit
from src.commands.studies.plan import typed
from src.commands.studies.pruning import Report
from src.commands.studies.record import Record, Study
from src.commands.studies.sampling import suggest
from src.commands.studies.storage import Storage
from src.config.arguments import Options, read
from src.config.errors import as_user_error
from src.runs.folder import Run

RENEW = 50  # runs of one process
AGAIN = 75  # exit code that asks for a fresh process: EX_TEMPFAIL of sysexits.h


class TrialError(UserError):
    """What concerns one trial, such as a loss that is not finite."""


class StudyError(UserError):
    """What concerns all trials, such as a metric that is not logged."""


class Worker:
    """Runs the trials of a study until all have ended."""

    def __init__(self, options: Options, study: Study) -> None:
        self.options, self.study, self.plan = options, study, study.plan
        self.monitor = study.content["monitor"]
        self.storage = Storage(study)
        self.renews = "SEARCH_WORKER" in os.environ  # set by the process that starts workers
        self.trained = 0  # runs in this process

    def work(self) -> None:
        while not self.study.is_done():
            if (record := self.claim_trial()) is not None:
                self.run_trial(record)
            else:
                time.sleep(1)  # another worker may be killed, and its trial left to this one
        while unconfirmed := self.study.unconfirmed():
            if (record := next((each for each in unconfirmed if each.claim.take()), None)) is not None:
                self.confirm(record)
            else:
                time.sleep(1)
        self.storage.close()

    def claim_trial(self) -> Record | None:
        """Claim a trial that nobody works on, a killed worker's first; None if others work on all that are left."""
        known = self.storage.count()
        for number in range(min(known, self.plan.total)):
            record = self.study.record(number)
            if record.is_finished:
                self.storage.tell(number, record.state, record.mean())  # a worker may have been killed before it did
            elif record.claim.take():
                return record
        if known >= self.plan.total:
            return None
        record = self.study.record(self.storage.ask())  # another worker may be faster, or there are enough already
        return record if record.number < self.plan.total and record.claim.take() else None

    def run_trial(self, record: Record) -> None:
        try:
            record.reload()
            if not record.is_finished:
                self.train(record)
        except Exception as error:
            self.fail(record, error)
        finally:
            record.claim.release()
        if self.renews and self.trained >= RENEW:
            sys.exit(AGAIN)

    def train(self, record: Record) -> None:
        trial, stored = self.storage.trial(record.number), self.storage.stored(record.number)
        settings = suggest(self.plan.space, trial)
        attempts = record.start(settings)
        last = f", the last time by {record.content['bug']}" if "bug" in record.content else ""
        if attempts > self.plan.attempts:
            raise TrialError(f"ended {attempts - 1} times without a new checkpoint{last}")
        callback = None if self.plan.prune == "none" else Report(trial, self.monitor, stored)
        for name, run_settings in self.study.runs():
            value = self.run(record, name, run_settings, callback)
            record.write(values=record.values() | {name: value})
            callback = None  # other runs of the trial are not compared
            if "pruned" in self.storage.stored(record.number).user_attrs:
                self.finish(record, "pruned")
                return
        self.finish(record, "complete")

    def finish(self, record: Record, state: str, **more: Any) -> None:
        record.write(state=state, seconds=record.seconds(), **more)
        self.storage.tell(record.number, state, record.mean())

    def fail(self, record: Record, error: Exception) -> None:
        """Store the error of a trial as one line; stop the search at a bug, and at an error that all trials share."""
        known = as_user_error(error)
        if known is None:
            with (record.folder / "log.txt").open("a", encoding="utf-8") as log:
                traceback.print_exception(error, file=log)
            record.write(bug=f"{type(error).__name__}: {error}")
            if self.renews:
                sys.exit(AGAIN)
            raise error
        trained = isinstance(known, TrialError) or any(record.folder.glob("*/version_*"))
        if isinstance(known, StudyError) or not (trained or any(each.is_finished for each in self.study.records())):
            self.study.discard()
            raise known
        self.finish(record, "failed", error=str(known))

    def confirm(self, record: Record) -> None:
        try:
            record.reload()
            for name, run_settings in self.study.runs(confirm=True):
                value = self.run(record, name, run_settings)
                record.write(confirmed=record.content.get("confirmed", {}) | {name: value})
        except UserError as error:
            record.write(confirm_error=str(error))
        finally:
            record.claim.release()

    def run(self, record: Record, name: str, settings: list[str], callback: Callback | None = None) -> float:
        """Train a run, or what is left of it, and return its metric."""
        parent = record.folder / name
        results = next(iter(sorted(parent.glob("version_*/results.json"))), None)
        if results is None:
            for path in parent.glob("version_*"):
                Run(path).discard()  # of a worker that was killed before the first checkpoint
            results = self.fit(record, name, settings, callback)
        metrics = read_json(results, {})
        known = ", ".join(key for key in metrics if key.startswith("val"))
        if self.monitor not in metrics:
            raise StudyError(f"search.monitor {self.monitor} is not logged; choose from {known}")
        if metrics[self.monitor] is None:
            raise TrialError(f"{self.monitor} is not finite")
        return float(metrics[self.monitor])

    def fit(self, record: Record, name: str, settings: list[str], callback: Callback | None) -> Path:
        run = Run.newest(record.folder / name)
        chosen = typed(record.settings)
        args = [f"--config={self.study.folder / 'base.yaml'}", *chosen, *settings]
        args += [f"--name={name}", f"--trainer.default_root_dir={record.folder}"]
        args = ["fit", *(["--run", str(run.path)] if run else args), *(["--trust"] if self.options.needs_trust else [])]
        self.trained += 1
        with as_own_command(args, record.folder / "log.txt"):
            options, own = read(args)
            options.owns_process, options.chosen = self.options.owns_process, chosen
            options.callbacks = [callback] if callback else []
            x = fit.run(options, **own | {"no_page": True})
        results, several = x.run.path / "results.json", x.trainer.world_size > 1  # type: ignore[union-attr]
        del x
        gc.collect()  # memory, and the lock of the run folder
        if several and self.renews:  # this process belongs to a group that has ended
            sys.exit(AGAIN)
        if several:
            raise StudyError("trials of several processes need --workers=1")
        return results


@contextmanager
def as_own_command(args: list[str], file: Path) -> Iterator[None]:
    """Print to a file, and show Lightning the command of the run, which it repeats to start its other processes."""
    before, sys.argv = sys.argv, [sys.argv[0], *args]
    try:
        with file.open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
            yield
    finally:
        sys.argv = before
