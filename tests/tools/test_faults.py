"""A few of the faults of scripts/faults.py, done to real processes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts.faults import GRID
from scripts.processes import differences, same

ROOT = Path(__file__).parents[2]


PROMISES = [
    "killed",
    "asked",
    "own",
    "saving",
    "damage",
    "numbers",
    "memory",
    "together",
    "inputs",
    "pictures",
    "doors",
]


@pytest.mark.parametrize("promise", PROMISES)
def test_what_happens_to_runs_costs_nothing(promise: str) -> None:
    tries = {"saving": 5, "damage": 50, "own": 2, "memory": 2, "together": 3}.get(promise, 4)
    command = [sys.executable, "-m", "scripts.faults", promise, f"--tries={tries}"]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    survived, tried = re.search(rf"^(\d+) of (\d+) {promise}: ", printed, re.M).groups()  # type: ignore[union-attr]
    assert survived == tried, printed
    assert int(tried) >= tries


def test_every_kind_of_run_that_is_killed_ends_where_it_is_not(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from pathlib import Path; from scripts import faults, processes\n"
        "torch.set_num_threads(1)\n"
        "processes.draw_pictures(Path(sys.argv[1], 'pictures'))\n"
        "for name, more in faults.GRID.items():\n"
        "    print(name, processes.Process(['fit', *processes.SMALL, *more], Path(sys.argv[1], name)).wait())"
    )  # in a process that has used neither workers nor threads itself, as it is forked
    command = [sys.executable, "-c", code, str(tmp_path)]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert printed.splitlines() == [f"{name} 0" for name in GRID]


def test_a_run_that_was_changed_by_a_fault_is_told_from_one_that_was_not(tmp_path: Path) -> None:
    for name, loss in (("a", "0x1p0"), ("b", "0x1p1")):
        run = tmp_path / name / "runs/digits/version_0"
        (run / "checkpoints").mkdir(parents=True)
        for kind in ("best", "last"):
            torch.save(
                {"state_dict": {"w": torch.tensor(float(name == "a"))}, "epoch": 3}, run / f"checkpoints/{kind}.ckpt"
            )
        (run / "metrics.csv").write_text(f"loss\n{loss}\n")
        (tmp_path / name / "trace.txt").write_text(f"0.0 abc 0x1p0\n0.1 abc {loss}\n0.2 ab")
    (tmp_path / "a/runs/digits/version_0/checkpoints/last.next").touch()
    found = differences(tmp_path / "a", tmp_path / "b")
    assert found == [
        "best.ckpt: state_dict",
        "last.ckpt: state_dict",
        "metrics.csv",
        "step 0.1",
        "left over: last.next",
    ]
    assert same([torch.zeros(2)], [torch.zeros(2)])
    assert not same({"a": 1}, {"b": 1})
