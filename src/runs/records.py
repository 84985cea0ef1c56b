"""What a run records: metrics in CSV and TensorBoard logs, and the provenance of its results."""

import csv
import os
import platform
import subprocess
import sys
import time
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "numpy")


class ResumedCSVLogger(CSVLogger):
    """Append to the metrics.csv of a run folder, where Lightning's own logger deletes an existing file.

    Rows from the given step on are dropped, because the resumed run writes them again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(folder, name="", version="")
        self.file, self.backup, self.step = folder / "metrics.csv", folder / "metrics.csv.kept", step
        self.prepared = False  # whether the rows before the step are in the new file

    @property
    @rank_zero_experiment
    def experiment(self) -> object:
        if not self.prepared:
            self.prepared = True
            if self.file.is_file() and not self.backup.is_file():  # else an earlier rewrite was interrupted
                self.file.replace(self.backup)
            text = self.backup.read_text(encoding="utf-8", errors="replace") if self.backup.is_file() else ""
            rows = csv.DictReader(text.replace("\0", "").splitlines())
            earlier = [row for row in rows if (row.get("step") or "").isdecimal() and int(row["step"]) < self.step]
            writer = super().experiment
            writer.metrics = [{key: value for key, value in row.items() if key and value} for row in earlier]
            writer.save()
            if text and not earlier and "step" not in text.partition("\n")[0]:
                self.backup.replace(self.file.with_suffix(".damaged"))
            self.backup.unlink(missing_ok=True)
        return super().experiment


def run_loggers(folder: Path, step: int = 0) -> list[Logger]:
    """Return the loggers of a run folder, for a run that starts or resumes at a step."""
    return [ResumedCSVLogger(folder, step), TensorBoardLogger(folder, name="", version="", purge_step=step or None)]


def provenance(config: Path, split_hash: str | None, job: str) -> dict[str, Any]:
    """Return the command, scheduler job, code, config, data split and machine that the results of a run come from."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.orig_argv,
        "job": job,
        "config_sha256": digest(config),
        "lock_sha256": digest(ROOT / "requirements.lock"),
        "split": split_hash,
        "git_commit": git("rev-parse", "HEAD"),
        "git_dirty": bool(git("status", "--porcelain")),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "hardware": {"machine": platform.platform(), "cpu": cpu_name(), "cores": os.cpu_count(), "gpus": gpus},
    }


def digest(file: Path) -> str | None:
    return sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def git(*args: str) -> str | None:
    """Return the output of a git command, or None outside a repository or without git."""
    try:
        return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
