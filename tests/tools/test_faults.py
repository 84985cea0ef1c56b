"""Real runs survive a few of the faults of tools/faults.py."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.processes import Process
from tools.faults import PROMISES, main
from tools.interruptions import GRID
from tools.mutations import answered

pytestmark = pytest.mark.heavy
ROOT = Path(__file__).parents[2]
GROUPS = [
    ["killed=3", "asked=4", "own=2", "together=3"],
    ["saving=5", "damage=50", "numbers=3", "memory=2", "inputs=4", "pictures=4", "doors=4"],
    ["mutated=4", "edited=4", "redrawn=10"],
]


def python(*args: str) -> str:
    """Return what a Python process prints; it forks the runs, and has used neither threads nor workers before."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *args], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("promises", GROUPS, ids=" ".join)
def test_runs_survive_faults_and_nothing_is_left_behind(promises: list[str]) -> None:
    printed = python("-m", "tools.faults", *promises)
    for name, tries in (promise.split("=") for promise in promises):
        survived, tried = re.search(rf"^(\d+) of (\d+) {name}: ", printed, re.M).groups()  # type: ignore[union-attr]
        assert int(survived) == int(tried) >= int(tries)
    assert list(Path("runs").iterdir()) == []


def test_every_run_of_the_grid_succeeds_without_a_fault() -> None:
    code = (
        "import torch; from pathlib import Path; from tests import processes; from tools import interruptions\n"
        "torch.set_num_threads(1)\n"
        "processes.draw_pictures(Path('pictures'))\n"
        "for name, args in interruptions.GRID.items():\n"
        "    print(name, processes.Process(['fit', *args], Path(name).absolute()).wait())"
    )
    assert python("-c", code).splitlines() == [f"{name} 0" for name in GRID]


def test_a_fault_that_a_run_does_not_survive_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PROMISES, "damage", (3, lambda *_: iter(["", "loaded", ""])))
    monkeypatch.setattr(sys, "argv", ["faults", "damage"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    printed = capsys.readouterr().out
    assert "  damage: loaded\n2 of 3 damage: " in printed
    folder = Path(printed.rpartition(" ")[2].strip())
    assert folder.parent == Path("runs").absolute()
    assert folder.is_dir()


def test_the_fuzzer_notices_tracebacks_wrong_exit_codes_and_long_answers(tmp_path: Path) -> None:
    def fail(code: int, text: str) -> None:
        sys.stderr.write(f"{text}\n")
        sys.exit(code)

    right = [(2, "error: one line"), (0, "a table\n" * 20)]
    wrong = [(1, "error: one line"), (2, "lines\n" * 9 + "error: x"), (2, "usage: x"), (0, "Traceback (most recent")]
    results = [answered(Process(partial(fail, *case), tmp_path / "run")) for case in right + wrong]
    assert results[:2] == ["", ""]
    assert all(results[2:])
    assert answered(Process(partial(int, "x"), tmp_path / "run"))


@pytest.mark.parametrize("promise", ["kiled", "killed=many", "killed=-1"])
def test_an_unknown_promise_is_rejected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], promise: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["faults", promise])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "choose from killed, asked, own" in capsys.readouterr().err
