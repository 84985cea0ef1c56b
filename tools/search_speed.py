"""What a search costs beyond its training: processes, storage, memory."""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from src.cli import main
from src.commands.studies.plan import Plan
from src.commands.studies.record import Study
from src.commands.studies.sampling import suggest
from src.commands.studies.storage import Storage
from tools.timing import Row, compare
from tools.workloads import RUNS

SPACE = {"model.optimizer.lr": {"from": 0.001, "to": 0.1, "log": True}, "data.batch_size": [32, 64]}
TRIALS = 12
FIT = ["--config=configs/digits.yaml", "--test=false", "--trainer.max_epochs=5"]


def search(options: argparse.Namespace) -> Iterator[Row]:
    """A search of digits against a process for each of its trials, its storage, and what it leaves in memory."""
    folder = Path(RUNS).absolute()
    ours, other, walls, pairs = [], [], [], []
    for i in range(options.repeats):
        cpu, wall = measured([*trials(folder, f"one_{i}"), "--workers=1"])
        ours.append(cpu)
        walls.append(wall)
        pairs.append(measured([*trials(folder, f"two_{i}"), "--workers=2"])[1])
        records = Study(folder / f"search/one_{i}", Plan(space=dict(SPACE), trials=TRIALS)).records()
        settings = [[f"--{key}={value}" for key, value in each.settings.items()] for each in records]
        own = [f"--trainer.default_root_dir={folder}", "--no_page", f"--name=alone_{i}"]
        other.append(sum(measured(["fit", *FIT, *own, *each])[0] for each in settings))
    yield compare("s of CPU, 12 trials / a process for each", ours, other, 0.65, unit=1)
    yield compare("s, 12 trials: 2 workers / 1", pairs, walls, 0.625, unit=1)
    stored = [storage(folder / f"storage_{i}") for i in range(options.repeats)]
    yield compare("ms of CPU to store a trial / 15", stored, [0.015] * len(stored), 1)
    code = "import json, sys; from tools.search_speed import left_behind; print(json.dumps(left_behind(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(folder)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    (before, files), (after, more) = json.loads(printed)
    yield compare("MiB after 100 trials / after 10", [after], [before], 1.05, unit=1)
    yield compare("open files after 100 trials / after 10", [more], [files], 1, unit=1)


def trials(folder: Path, name: str, count: int = TRIALS) -> list[str]:
    space = str(SPACE).replace("'", "").replace("True", "true")
    args = ["search", *FIT, f"--search.space={space}", "--search.sampler=tpe", f"--search.trials={count}"]
    return [*args, f"--trainer.default_root_dir={folder}", f"--name={name}"]


def measured(args: list[str]) -> tuple[float, float]:
    """Return the CPU and wall-clock seconds of a command with all its processes, one thread each."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment: Any = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "src.cli", *args]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.perf_counter() - started


def storage(folder: Path, count: int = 100) -> float:
    """Return the CPU seconds that a trial with ten reports takes in the journal, without drawing its settings."""
    study = Study(folder, Plan(space=dict(SPACE), sampler="random", trials=count))
    study.create({"mode": "max", "monitor": "val/accuracy", "folds": 1})
    stored, started = Storage(study), time.process_time()
    for _ in range(count):
        number = stored.ask()
        trial = stored.trial(number)
        suggest(study.plan.space, trial)
        for epoch in range(10):
            trial.report(0.5, epoch)
        stored.tell(number, "complete", 0.5)
    return (time.process_time() - started) / count


def left_behind(folder: str) -> list[tuple[float, float]]:
    """Return the memory in MiB and the open files of a worker after 10 and after 100 trials."""
    found = []
    for count in (10, 100):
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):  # noqa: PTH123
            main(
                [
                    *trials(Path(folder), "memory", count),
                    "--search.sampler=random",
                    "--trainer.max_epochs=1",
                    "--workers=0",
                ]
            )
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        found.append((kib / 1024, float(len(list(Path("/proc/self/fd").iterdir())))))
    return found
