"""Run: the folder that holds everything of one training run. It is asked before torch is loaded."""

import errno
import json
import os
import platform
import shutil
import subprocess
import time
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

try:
    import fcntl
except ImportError:  # on Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

from src import UserError

ROOT = Path(__file__).parents[1]


class Run:
    """``runs/<name>/version_N``: config.yaml, provenance.json, checkpoints/, metrics.csv and TensorBoard events.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"

    @classmethod
    def create(cls, parent: Path) -> "Run":
        """Make the next ``version_N`` of a folder; two runs that start at once get two folders."""
        try:
            parent.mkdir(parents=True, exist_ok=True)
            number = 1 + max((int(p.name[8:]) for p in parent.glob("version_*") if p.name[8:].isdecimal()), default=-1)
            while True:
                try:
                    (parent / f"version_{number}").mkdir()
                    return cls(parent / f"version_{number}")
                except FileExistsError:
                    number += 1
        except OSError as error:
            raise UserError(f"cannot make a run folder in {parent.absolute()}: {error.strerror}") from None

    @classmethod
    def find(cls, path: Path) -> "Run":
        run = cls(path)
        if not run.config.is_file():
            found = sorted(path.glob("**/config.yaml"), key=lambda file: file.stat().st_mtime)[-3:]
            near = [str(config.parent) for config in found]
            hint = f"; runs below it: {', '.join(near)}" if near else ""
            raise UserError(f"{path} is not a run folder: it has no config.yaml{hint}")
        return run

    @classmethod
    def newest(cls, parent: Path, job: str | None = None) -> "Run | None":
        """Return the latest ``version_N`` of a folder that has a checkpoint and, if a job is named, is of it."""
        runs = [cls(path) for path in parent.glob("version_*") if path.name[8:].isdecimal()]
        begun = [run for run in runs if run.config.is_file() and run.has_checkpoint() and run.is_of(job)]
        return max(begun, key=lambda run: int(run.path.name[8:]), default=None)

    def is_of(self, job: str | None) -> bool:
        try:
            return job is None or job in [e.get("job") for e in json.loads((self.path / "provenance.json").read_text())]
        except (OSError, ValueError):
            return False

    def checkpoints(self, kind: str) -> list[Path]:
        """Return the ``best`` or the ``last`` checkpoint, then what can take its place: the last, the newest others."""
        folder = self.path / "checkpoints"
        found = sorted(folder.glob("*.ckpt"), key=lambda file: file.stat().st_mtime, reverse=True)
        if not found:
            raise UserError(f"{self.path} has no checkpoint: its training did not reach the end of an epoch")
        return list(dict.fromkeys([folder / f"{kind}.ckpt", *sorted(found, key=lambda file: file.name != "last.ckpt")]))

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.yaml; one that says something else is kept beside it as config_0.yaml, config_1.yaml, ..."""
        text = "# Runs again as it is: python -m src.cli fit --config FILE\n" + yaml.safe_dump(config, sort_keys=False)
        try:
            if self.config.is_file() and self.config.read_text() != text:
                shutil.copyfile(self.config, self.path / f"config_{len(list(self.path.glob('config_*.yaml')))}.yaml")
            whole = self.config.with_suffix(".part")
            whole.write_text(text)
            whole.replace(self.config)
        except OSError as error:
            raise UserError(f"cannot write into the run folder {self.path.absolute()}: {error.strerror}") from None

    def has_config(self, config: dict[str, Any]) -> bool:
        """Tell whether config.yaml says this; one that is gone says nothing."""
        return self.config.is_file() and yaml.safe_load(self.config.read_text()) == config

    def is_judged(self) -> bool:
        return (self.path / "results.json").is_file()

    def begin(self) -> None:
        """Keep the results of before beside, as results_0.json, results_1.json, ...: the run is no longer judged."""
        if self.is_judged():
            number = len(list(self.path.glob("results_*.json")))
            (self.path / "results.json").replace(self.path / f"results_{number}.json")

    def write_results(self, results: dict[str, float]) -> None:
        whole = self.path / "results.part"
        whole.write_text(json.dumps({k: None if v != v else v for k, v in results.items()}, indent=2) + "\n")
        whole.replace(self.path / "results.json")

    def before(self) -> tuple[dict[str, float], str]:
        """Return the results of the version before this one, and its name; nothing where there are none."""
        number = int(self.path.name.removeprefix("version_")) if self.path.name[8:].isdecimal() else 0
        file = self.path.with_name(f"version_{number - 1}") / "results.json"
        try:
            return json.loads(file.read_text()), file.parent.name
        except (OSError, ValueError):
            return {}, ""

    def record(self, command: list[str], split_hash: str | None) -> None:
        """Add one entry to provenance.json: what ran, from which code, on which data split, with what, on what."""
        file = self.path / "provenance.json"
        try:
            entries = json.loads(file.read_text()) if file.is_file() else []
        except ValueError:  # torn; kept beside
            file.replace(file.with_suffix(".damaged"))
            entries = []
        entries.append(
            {
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "command": command,
                "job": job(),
                "config_sha256": digest(self.config),
                "lock_sha256": digest(ROOT / "requirements.lock"),
                "split": split_hash,
                "git_commit": git("rev-parse", "HEAD"),
                "git_dirty": bool(git("status", "--porcelain")),
                "versions": versions(),
                "hardware": hardware(),
            }
        )
        whole = file.with_suffix(".part")
        whole.write_text(json.dumps(entries, indent=2) + "\n")
        whole.replace(file)

    def has_checkpoint(self) -> bool:
        return any((self.path / "checkpoints").glob("*.ckpt"))

    def lock(self) -> None:
        """Refuse a folder that cannot be written to or that another process trains in.

        The lock ends with the process, however that ends.
        """
        try:
            held = os.open(self.path / ".lock", os.O_CREAT | os.O_WRONLY)
        except OSError as error:
            raise UserError(f"cannot write into the run folder {self.path.absolute()}: {error.strerror}") from None
        try:
            if fcntl is not None:
                fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                return  # a file system without locks
            raise UserError(f"another process trains in {self.path}: wait for it, or start a new run") from None

    def discard(self) -> None:
        """Remove the folder if no checkpoint was saved in it."""
        if not self.has_checkpoint():
            shutil.rmtree(self.path, ignore_errors=True)


def job() -> str:
    """Return what names this job of a scheduler, the same when it is started again."""
    return " ".join(os.environ.get(name, "") for name in ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID")).strip()


def digest(file: Path) -> str | None:
    return sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def git(*args: str) -> str | None:
    """Return what a git command prints, or None outside a repository or without git."""
    try:
        return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    names = ("torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def hardware() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"machine": platform.platform(), "cpu": cpu_name(), "cores": os.cpu_count(), "gpus": gpus}


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
