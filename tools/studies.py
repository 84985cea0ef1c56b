"""Kill the processes of searches at any moment, start them again, and compare each study with an undisturbed one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from tests.processes import ROOT, SMALL
from tools.comparison import load_without_times, same

SEARCH = ["search", *[each for each in SMALL if "Trace" not in each], "--search.sampler=random", "--search.trials=6"]
SEARCH += ["--search.space={model.optimizer.lr: {from: 0.001, to: 0.1, log: true}, data.batch_size: [32, 64]}"]
SEARCH += ["--search.confirm={top: 2, seeds: [1]}", "--search.attempts=1000", "--workers=2"]
MOST = 5  # times that a study is disturbed


def searched(tries: int, draw: random.Random, folder: Path) -> Iterator[str]:
    """SIGKILL of a search's workers, parent or all: started again, it loses and repeats no trial, and ends the same."""
    reference = folder / "reference"
    started = time.monotonic()
    assert start(reference).wait() == 0, (reference / "log.txt").read_text(encoding="utf-8")
    seconds = time.monotonic() - started
    done = 0
    for i in count():
        if done >= tries:
            return
        place, kills = folder / f"disturbed_{i}", 0
        parent = start(place)
        while kills < min(MOST, tries - done):
            try:
                parent.wait(draw.uniform(0, seconds))
                break
            except subprocess.TimeoutExpired:
                kills += kill(parent, draw)
            if parent.poll() is not None:
                parent = start(place)
        code = parent.wait() and start(place).wait()
        wrong = [f"exit code {code}"] if code else differing(place, reference)
        done += max(kills, bool(wrong))
        yield from [", ".join(wrong[:5])] * max(kills, bool(wrong))


def start(folder: Path) -> "subprocess.Popen[bytes]":
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        command = [sys.executable, "-m", "src.cli", *SEARCH]
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment, start_new_session=True)


def kill(parent: "subprocess.Popen[bytes]", draw: random.Random) -> int:
    """Kill one worker, the parent, or all of them; return 1 if there was a process to kill."""
    file = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    workers = (
        [int(pid) for pid in file.read_text(encoding="utf-8").split()]
        if parent.poll() is None and file.exists()
        else []
    )
    chosen = draw.choice([[parent.pid], [parent.pid, *workers], *([pid] for pid in workers)])
    for pid in chosen:
        os.kill(pid, signal.SIGKILL)
    if parent.pid in chosen:
        parent.wait()
    return 1


def differing(folder: Path, reference: Path) -> list[str]:
    """Return what differs between two studies: trials, settings, values, runs, checkpoints and logs."""
    one, other = (folder / "runs/search/digits", reference / "runs/search/digits")
    found = [f"trial {i} differs" for i in range(6) if trial(one, i) != trial(other, i)]
    if (extra := sorted(path.name for path in one.glob("trial_*")))[6:]:
        found.append(f"more trials: {extra[6:]}")
    points = Counter(json.dumps(trial(one, i)["settings"]) for i in range(6))
    found += [f"{point} {n} times" for point, n in points.items() if n > 1]
    for path in sorted(other.glob("trial_*/*/version_*")):
        runs = [*(one / path.relative_to(other).parent).glob("version_*")]
        if len(runs) != 1:
            found.append(f"{path.parent.name} has {len(runs)} runs")
            continue
        for name in ("best.ckpt", "last.ckpt"):
            a, b = (load_without_times(each / "checkpoints" / name) for each in (runs[0], path))
            found += [
                f"{name} of {path.parent}: {key}" for key in a.keys() | b.keys() if not same(a.get(key), b.get(key))
            ]
        if (runs[0] / "metrics.csv").read_text(encoding="utf-8") != (path / "metrics.csv").read_text(encoding="utf-8"):
            found.append(f"metrics.csv of {path.parent}")
    if (one / "best.yaml").read_text(encoding="utf-8") != (other / "best.yaml").read_text(encoding="utf-8"):
        found.append("best.yaml")
    return found


def trial(study: Path, number: int) -> dict[str, Any]:
    content = json.loads((study / f"trial_{number:04}/trial.json").read_text(encoding="utf-8"))
    return {name: content.get(name) for name in ("settings", "state", "values", "confirmed", "error")}
