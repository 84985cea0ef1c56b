"""Signals that are ignored, runs that end by themselves, and temporary folders of killed processes."""

import random
import signal
import time
from multiprocessing.util import get_temp_dir
from pathlib import Path

import pytest

from tests.processes import TIMED_OUT, Process, obeys, refusal
from tools.interruptions import interrupt

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize(
    ("number", "code", "handled", "expected"),
    [
        (signal.SIGTERM, 143, True, True),
        (signal.SIGTERM, 143, False, True),
        (signal.SIGTERM, -15, False, True),
        (signal.SIGTERM, -15, True, False),
        (signal.SIGTERM, 0, True, False),
        (signal.SIGTERM, 0, False, False),
        (signal.SIGTERM, 1, False, False),
        (signal.SIGTERM, 130, True, False),
        (signal.SIGKILL, -9, True, True),
        (signal.SIGKILL, 0, True, False),
    ],
)
def test_only_some_exit_codes_show_that_a_signal_was_obeyed(
    number: int, code: int, handled: bool, expected: bool
) -> None:
    assert obeys(number, code, handled) is expected


def start(handler: object, folder: Path) -> Process:
    """Start a process that touches ``ready``, waits for SIGTERM and then exits as its handler decides."""

    def wait() -> None:
        received: list[int] = []
        signal.signal(signal.SIGTERM, signal.SIG_DFL if handler is None else lambda *_: received.append(1))
        Path("ready").touch()
        while not received:
            time.sleep(0.01)
        raise SystemExit(handler)

    process = Process(wait, folder)
    while not (folder / "ready").exists():
        time.sleep(0.01)
    return process


@pytest.mark.parametrize(
    ("handler", "verdict"),
    [(143, ""), (None, ""), (0, "signal 15 ended in exit code 0"), (1, "signal 15 ended in exit code 1")],
)
def test_an_ignored_signal_counts_as_a_failure(tmp_path: Path, handler: int | None, verdict: str) -> None:
    assert interrupt(start(handler, tmp_path / "run"), signal.SIGTERM, random.Random(0)) == verdict


def test_a_run_that_finished_before_the_signal_does_not_count(tmp_path: Path) -> None:
    process = Process(lambda: None, tmp_path / "run")
    assert process.wait() == 0
    assert interrupt(process, signal.SIGTERM, random.Random(0)) is None


def test_a_run_that_failed_before_the_signal_counts_as_a_failure(tmp_path: Path) -> None:
    process = Process(["fit", "--modle=3"], tmp_path / "run")
    assert process.wait() == 2
    assert interrupt(process, signal.SIGTERM, random.Random(0)) == "signal 15 ended in exit code 2"


def test_a_process_that_does_not_end_is_killed(tmp_path: Path) -> None:
    assert Process(lambda: time.sleep(600), tmp_path / "run").wait(0.1) == TIMED_OUT


def test_forks_share_a_temporary_folder_that_this_process_removes(tmp_path: Path) -> None:
    process = Process(lambda: print(get_temp_dir()), tmp_path / "run")  # noqa: T201
    assert process.wait() == 0
    assert process.log.read_text(encoding="utf-8") == f"{get_temp_dir()}\n"


def test_only_a_single_line_that_names_the_error_is_a_refusal(tmp_path: Path) -> None:
    def refused(text: str, code: int) -> bool:
        def fail() -> None:
            print(text)  # noqa: T201
            raise SystemExit(code)

        return refusal(Process(fail, tmp_path / "run"), "must be 3") == ""

    assert refused("error: a must be 3, got 4", 2)
    assert not refused("error: a must be 3, got 4", 1)
    assert not refused("error: a must be 4", 2)
    assert not refused("error: a must be 3\nerror: a must be 3", 2)
    assert not refused("Traceback\nerror: a must be 3", 2)
    assert not refused("1\n2\n3\n4\n5\nerror: a must be 3", 2)
