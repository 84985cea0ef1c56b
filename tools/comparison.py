"""Compare what an interrupted run leaves behind with an uninterrupted one."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch


def same(a: Any, b: Any) -> bool:
    """Tell whether the contents of two checkpoints are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def differences(folder: Path, reference: Path) -> list[str]:
    """Return what differs between the run in ``folder`` and the uninterrupted one in ``reference``."""
    # a run that was killed before its first checkpoint left a folder without any
    run, other = (next(place.glob("runs/*/*/checkpoints/last.ckpt")).parents[1] for place in (folder, reference))
    found = []
    for name in ("best.ckpt", "last.ckpt"):
        a, b = (load_without_times(place / "checkpoints" / name) for place in (run, other))
        found += [f"{name}: {key}" for key in sorted(a.keys() | b.keys()) if not same(a.get(key), b.get(key))]
    if (run / "metrics.csv").read_text(encoding="utf-8") != (other / "metrics.csv").read_text(encoding="utf-8"):
        found.append("metrics.csv")
    steps, expected = read_trace(folder), read_trace(reference)
    found += [f"step {step} was not trained" for step in expected.keys() - steps.keys()]
    found += [f"step {step}" for step, lines in steps.items() if lines != expected.get(step)]
    return found + [f"left over: {file.name}" for file in (run / "checkpoints").iterdir() if file.suffix != ".ckpt"]


def load_without_times(file: Path) -> dict[str, Any]:
    """Return the content of a checkpoint without the measured speed, which lacks the part of an epoch before a cut."""
    content = torch.load(file, map_location="cpu", weights_only=True)  # forks could not use a GPU of this process
    content.get("callbacks", {}).pop("EpochLine", None)
    return content


def read_trace(folder: Path) -> dict[str, set[str]]:
    """Return the different lines that ``tests.spoilers.Trace`` wrote for each step: one unless repeats differed."""
    steps: dict[str, set[str]] = defaultdict(set)
    for line in (folder / "trace.txt").read_text(encoding="utf-8").splitlines():
        if line.count(" ") == 2:  # a killed process may leave half a line
            steps[line.split()[0]].add(line)
    return steps
