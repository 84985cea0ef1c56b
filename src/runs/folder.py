"""Run: the folder that holds everything about one training run. This module does not import torch."""

import json
import re
import shutil
from contextlib import suppress
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from src import Held, UserError, hold, quote, read_json, replace_file, require


class Run:
    """``runs/<name>/version_N``: config.yaml, provenance.json, checkpoints/, metrics.csv and TensorBoard events."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.held: Held | None = None  # the lock

    @classmethod
    def create(cls, parent: Path) -> "Run":
        """Create the next ``version_N`` of a folder; runs started at the same time get different folders."""
        try:
            while True:
                parent.mkdir(parents=True, exist_ok=True)
                path = parent / f"version_{1 + max(map(version, parent.iterdir()), default=-1)}"
                with suppress(FileExistsError, FileNotFoundError):  # another run may delete an empty parent
                    path.mkdir()
                    return cls(path)
        except OSError as error:
            raise UserError(f"cannot create a run folder in {parent.absolute()}: {error.strerror}") from None

    @classmethod
    def find(cls, path: Path) -> "Run":
        """Return the run in an existing folder; refuse a folder without config.yaml."""
        run = cls(path)
        if path.is_file():
            use = f"--run {quote(path.parent)}" if path.name == "config.yaml" else f"--config {quote(path)}"
            raise UserError(f"--run must be a run folder, got the file {path}: use {use}")
        if not run.config.is_file():
            found = sorted(path.glob("**/config.yaml"), key=lambda file: file.stat().st_mtime)[-3:]
            hint = f"; runs below it: {', '.join(str(config.parent) for config in found)}" if found else ""
            raise UserError(f"{path} is not a run folder: it has no config.yaml{hint}")
        return run

    @classmethod
    def newest(cls, parent: Path, job: str | None = None) -> "Run | None":
        """Return the latest ``version_N`` with a checkpoint, of this scheduler job if one is given."""
        runs = [cls(path) for path in sorted(parent.glob("version_*"), key=version, reverse=True) if version(path) >= 0]
        return next((run for run in runs if run.config.is_file() and run.has_checkpoint() and run.is_of(job)), None)

    def is_of(self, job: str | None) -> bool:
        entries = read_json(self.path / "provenance.json", [])
        return job is None or job in [entry.get("job") for entry in entries if isinstance(entry, dict)]

    def has_checkpoint(self) -> bool:
        return any((self.path / "checkpoints").glob("*.ckpt"))

    def checkpoints(self, kind: str) -> list[Path]:
        """Return the ``best`` or ``last`` checkpoint, then its substitutes: the last, then the others, newest first."""
        folder = self.path / "checkpoints"
        for old in folder.glob("*.old") if kind == "last" else ():  # of a process that was killed while it published
            if not old.with_suffix(".ckpt").exists():
                replace_file(old, old.with_suffix(".ckpt"))
        found = sorted(folder.glob("*.ckpt"), key=lambda file: file.stat().st_mtime, reverse=True)
        require(found, f"{self.path} has no checkpoint: training did not reach the end of an epoch")
        return list(dict.fromkeys([folder / f"{kind}.ckpt", *sorted(found, key=lambda file: file.name != "last.ckpt")]))

    def write_config(self, settings: str) -> None:
        """Write config.yaml; a different earlier one is kept as config_0.yaml, config_1.yaml, ..."""
        text = "# Runs again as it is: python -m src.cli fit --config FILE\n" + settings
        if self.config.is_file() and (older := self.config.read_text(encoding="utf-8")) != text:
            write_atomically(free_name(self.config), older)
        write_atomically(self.config, text)

    def has_config(self, config: dict[str, Any]) -> bool:
        """Tell whether config.yaml holds these settings and was not edited since training started with it."""
        if not self.config.is_file():
            return False
        entries = read_json(self.path / "provenance.json", [])
        trained = entries[-1].get("config_sha256") if entries and isinstance(entries[-1], dict) else None
        return yaml.safe_load(self.config.read_bytes()) == config and trained in (None, digest(self.config))

    def snapshot(self) -> dict[Path, bytes]:
        """Return the files at the top of the folder, of the logs that a start rewrites also the content."""
        files = [file for file in self.path.iterdir() if file.is_file()]
        return {file: file.read_bytes() if file.name.startswith("metrics.csv") else b"" for file in files}

    def restore(self, snapshot: dict[Path, bytes]) -> None:
        """Undo what a refused start changed in the logs."""
        for file in self.snapshot().keys() - snapshot.keys():
            file.unlink(missing_ok=True)
        for file, content in snapshot.items():
            if content:
                write_atomically(file, content)

    def is_evaluated(self) -> bool:
        return (self.path / "results.json").is_file()

    def invalidate_results(self) -> None:
        """Back up earlier results as results_0.json, ...; from now on the run counts as not yet evaluated."""
        for name in ("results.json", "test.npz", "report.html"):
            back_up(self.path / name)

    def write_results(self, results: dict[str, float]) -> None:
        """Write results.json, with null for NaN and infinite ones."""
        numbers = {name: value if isfinite(value) else None for name, value in results.items()}
        write_atomically(self.path / "results.json", json.dumps(numbers, indent=2) + "\n")

    def previous_results(self) -> tuple[dict[str, float], str]:
        """Return the results of the previous version and its name, both empty if there is none."""
        previous = self.path.with_name(f"version_{version(self.path) - 1}")
        results = read_json(previous / "results.json", {})
        results = {name: value for name, value in results.items() if isinstance(value, int | float | None)}
        return results, previous.name if results else ""

    def add_provenance(self, entry: dict[str, Any]) -> None:
        """Append an entry to provenance.json; a damaged file is kept as provenance.damaged."""
        file = self.path / "provenance.json"
        entries = read_json(file, [])
        if not entries and file.is_file():
            replace_file(file, file.with_suffix(".damaged"))
        write_atomically(file, json.dumps([*entries, entry], indent=2) + "\n")

    def lock(self) -> None:
        """Lock the folder while this object and the process live; refuse a folder in which another process trains."""
        try:
            self.held = hold(self.path / ".lock")
        except OSError as error:
            raise UserError(f"cannot write to the run folder {self.path.absolute()}: {error.strerror}") from None
        if self.held is None:
            advice = "wait until it ends, or start a new run"
            raise UserError(f"another process is training in {self.path}: {advice}")

    def discard(self) -> None:
        """Delete the folder unless a checkpoint was saved in it, and the folders above it that are then empty."""
        if not self.has_checkpoint():
            self.held = None  # Windows deletes no open file
            shutil.rmtree(self.path, ignore_errors=True)
            with suppress(OSError):  # not empty
                self.path.parent.rmdir()
                self.path.parent.parent.rmdir()


def version(run: Path) -> int:
    """Return N of ``version_N``, -1 for any other name."""
    found = re.fullmatch(r"version_(\d+)", run.name)
    return int(found[1]) if found else -1


def free_name(file: Path) -> Path:
    """Return results_0.json, results_1.json, ... for results.json, whichever comes after those that exist."""
    found = [re.fullmatch(r".*_(\d+)", each.stem) for each in file.parent.glob(f"{file.stem}_*{file.suffix}")]
    return file.with_stem(f"{file.stem}_{1 + max((int(each[1]) for each in found if each), default=-1)}")


def back_up(file: Path) -> Path:
    """Rename an existing file or folder to its ``free_name``; return the name, which is now free."""
    if file.exists():
        replace_file(file, free_name(file))
    return file


def write_atomically(file: Path, content: str | bytes) -> None:
    part = file.with_suffix(".part")
    try:
        if file.is_dir():  # somebody's
            back_up(file)
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        replace_file(part, file)
    except OSError as error:  # such as a deleted folder
        raise UserError(f"cannot write to the run folder {file.parent.absolute()}: {error.strerror}") from None


def digest(file: Path) -> str | None:
    return sha256(file.read_bytes()).hexdigest() if file.is_file() else None
