"""Locks: of two processes only one holds a file, on Windows too, and it may ask twice."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from src import hold
from tests.conftest import ROOT

HOLD = """
import sys
from pathlib import Path
if sys.argv[1] == "windows":
    from tests.pretended import pretend
    pretend("windows")
from src import hold
held = hold(Path("a"))
print(held is not None, held is hold(Path("a")), flush=True)
"""
KINDS = [sys.platform, *(["windows"] if sys.platform == "linux" else [])]


def other(kind: str, more: str = "") -> list[str]:
    return [sys.executable, "-c", f"import sys; sys.path[0] = {str(ROOT)!r}\n{HOLD}{more}", kind]


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_two_processes_holds_a_file_until_it_ends(kind: str) -> None:
    with subprocess.Popen(other(kind, "input()"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"True True\n"
        assert subprocess.check_output(other(kind)).split()[0] == b"False"
        first.kill()
    assert subprocess.check_output(other(kind)).split()[0] == b"True"


def test_a_file_is_held_until_its_last_user_is_gone() -> None:
    first, second = hold(Path("a")), hold(Path("a"))
    del first
    gc.collect()
    assert subprocess.check_output(other(sys.platform)).split()[0] == b"False"
    del second
    gc.collect()
    assert subprocess.check_output(other(sys.platform)).split()[0] == b"True"
