"""Claim: only one holds it, and it ends with its process."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from src.commands.studies import claim
from src.commands.studies.claim import Claim
from tests.conftest import ROOT


def without_locks(*_: Any) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize("locks", [True, False])
def test_a_claim_is_held_once_and_free_after_its_release(locks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not locks:
        monkeypatch.setattr(claim, "lock", without_locks)
    first, second = Claim(Path("trial/.claim")), Claim(Path("trial/.claim"))
    assert first.take()
    assert not second.take()
    first.release()
    if not locks:
        first.thread.join()
    assert second.take()
    second.release()


def test_a_lease_that_nobody_renews_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "lock", without_locks)
    old = Path("trial.lease")
    old.touch()
    assert not Claim(Path("trial.claim")).take()
    os.utime(old, (time.time() - 61, time.time() - 61))
    held = Claim(Path("trial.claim"))
    assert held.take()
    held.release()
    held.thread.join()


def test_a_held_lease_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "lock", without_locks)
    monkeypatch.setattr(claim, "LEASE", 0.06)
    held = Claim(Path("trial.claim"))
    assert held.take()
    os.utime("trial.lease", (1, 1))
    while Path("trial.lease").stat().st_mtime == 1:
        time.sleep(0.01)
    held.release()
    held.thread.join()
    assert not Path("trial.lease").exists()


def test_a_claim_ends_with_its_process() -> None:
    code = "import sys; from pathlib import Path; from src.commands.studies.claim import Claim\n"
    code += "print(Claim(Path(sys.argv[1])).take(), flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(Path(".claim").absolute())]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "True\n"
        assert not Claim(Path(".claim")).take()
        child.kill()
    mine = Claim(Path(".claim"))
    assert mine.take()
    mine.release()
