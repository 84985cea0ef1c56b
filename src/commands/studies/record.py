"""The folder of a study: what is tried, and of each trial its settings, state and result. Does not import torch."""

import json
import math
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from src import UserError, read_json, require
from src.analysis.statistics import student
from src.commands.studies.claim import Claim
from src.commands.studies.plan import Plan
from src.runs.folder import write_atomically

FINISHED = ("complete", "pruned", "failed")


class Study:
    """``runs/search/<name>``: study.json, base.yaml, study.log, and ``trial_0007`` for each trial."""

    def __init__(self, folder: Path, plan: Plan, url: str | None = None) -> None:
        self.folder, self.plan, self.url = folder, plan, url
        self.known: dict[int, Record] = {}  # finished trials
        self.stored: dict[str, Any] = {}

    @property
    def content(self) -> dict[str, Any]:
        """What study.json holds; nothing until a worker has created it."""
        self.stored = self.stored or read_json(self.folder / "study.json", {})
        return self.stored

    def create(self, content: dict[str, Any]) -> None:
        """Store what the study is; if it exists, refuse to continue it as another one."""
        self.make_folder()
        file, part = self.folder / "study.json", self.folder / f"{uuid4().hex}.part"
        part.write_text(json.dumps({"id": part.stem, **content}, indent=2) + "\n", encoding="utf-8")
        with suppress(FileExistsError):
            os.link(part, file)  # of several workers, the first one creates it
        part.unlink()
        how = "delete it, and start the search as it was started first"
        require(self.content, f"{file} is damaged: {how}")
        for name, value in content.items():
            key = difference(self.content.get(name), value, name)
            hint = "continue it as it was, or start another study with --name=NAME"
            require(key is None, f"{self.folder} is a study with another {str(key).removeprefix('base.')}: {hint}")

    def make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot create the folder of the study {self.folder}: {error.strerror}") from None

    def record(self, number: int) -> "Record":
        if number not in self.known:
            confirming = [name for name, _ in self.runs(confirm=True)] if self.plan.confirm else []
            record = Record(self.folder / f"trial_{number:04}", number, confirming)
            if not record.is_finished:
                return record
            self.known[number] = record
        return self.known[number]

    def records(self) -> "list[Record]":
        """Return the trials that were started."""
        return [record for record in map(self.record, range(self.plan.total)) if record.content]

    def is_done(self) -> bool:
        return all(self.record(number).is_finished for number in range(self.plan.total))

    def runs(self, confirm: bool = False) -> list[tuple[str, list[str]]]:
        return self.plan.runs(self.content.get("folds", 1), confirm)

    def ranked(self, confirmed: bool = False) -> "list[Record]":
        """Return the complete trials, or those confirmed by all their runs, the best first."""
        sign = -1 if self.content["mode"] == "max" else 1
        count = len(self.runs(confirmed))
        known = [each for each in self.records() if each.state == "complete" and len(each.values(confirmed)) == count]
        return sorted(known, key=lambda each: (sign * each.mean(confirmed), each.number))

    def is_confirmed(self, record: "Record") -> bool:
        return any(record.number == each.number for each in self.ranked(confirmed=True))

    def unconfirmed(self) -> "list[Record]":
        """Return those of the best trials that still need runs with new seeds."""
        self.known.clear()  # others may have confirmed some
        best = self.ranked()[: self.plan.confirm["top"]] if self.plan.confirm else []
        done = {each.number for each in self.ranked(confirmed=True)}
        return [each for each in best if each.number not in done and "confirm_error" not in each.content]

    def discard(self) -> None:
        """Delete a study in which nothing was trained."""
        if not any(self.folder.glob("trial_*/*/version_*/checkpoints/*.ckpt")):
            shutil.rmtree(self.folder, ignore_errors=True)


class Record:
    """A trial's folder, with trial.json: settings, state, the value of each run, and the error of a failed one."""

    def __init__(self, folder: Path, number: int, confirming: Sequence[str] = ()) -> None:
        self.folder, self.number, self.confirming = folder, number, confirming
        self.claim = Claim(folder / ".claim")
        self.content: dict[str, Any] = {}
        self.reload()

    def reload(self) -> None:
        self.content = read_json(self.folder / "trial.json", {})

    @property
    def state(self) -> str:
        return self.content.get("state", "running")

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED

    @property
    def settings(self) -> dict[str, Any]:
        return self.content.get("settings", {})

    def values(self, confirmed: bool = False) -> dict[str, float]:
        """Return the value of each run, by name; runs with new seeds count only if the study asks for them now."""
        if not confirmed:
            return self.content.get("values", {})
        return {name: value for name, value in self.content.get("confirmed", {}).items() if name in self.confirming}

    def mean(self, confirmed: bool = False) -> float:
        values = [*self.values(confirmed).values()]
        return math.fsum(values) / len(values) if values else math.nan

    def half(self, confirmed: bool = False) -> float:
        """Return the half length of the 95 % interval of the mean; NaN for a single run."""
        return student([*self.values(confirmed).values()])

    def seconds(self) -> float:
        """Return the training time of all runs."""
        results = [read_json(file, {}) for file in self.folder.glob("*/version_*/results.json")]
        return round(sum(each.get("seconds", 0) for each in results), 1)

    def write(self, **changes: Any) -> None:
        self.content |= changes
        write_atomically(self.folder / "trial.json", json.dumps(self.content, indent=2) + "\n")

    def start(self, settings: dict[str, Any]) -> int:
        """Note that work begins; return how often in a row it began without a new checkpoint."""
        saved = max((file.stat().st_mtime for file in self.folder.glob("*/version_*/checkpoints/*.ckpt")), default=0.0)
        same = self.content.get("saved") == saved
        attempts = self.content.get("attempts", 0) + 1 if same else 1
        self.write(number=self.number, settings=settings, state="running", saved=saved, attempts=attempts)
        return attempts


def difference(old: Any, new: Any, key: str) -> str | None:
    """Return the dotted key of the first difference between two settings, None if they are equal."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = (difference(old.get(each), new.get(each), f"{key}.{each}") for each in old | new)
        return next((each.replace(".init_args", "") for each in found if each), None)
    return None if old == new else key
