"""The folder for temporary files of an export, and signals that end one."""

import errno
import os
import shutil
import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from src import UserError
from src.commands.exports.files import exit_at_signals, temporary_folder


@pytest.fixture(autouse=True)
def _default_handler():
    """Handle SIGHUP, which nohup ignores."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("error", "free"), [(OSError(errno.ENOSPC, "No space left"), 9**9), (RuntimeError("odd"), 0)])
def test_a_full_temporary_folder_is_named(error, free, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    text = f"^the folder for temporary files, {tmp_path}, is full: set TMPDIR to a folder with more space$"
    with pytest.raises(UserError, match=text), temporary_folder():
        raise error
    assert [*tmp_path.iterdir()] == [tmp_path / "configs"]


def test_other_errors_stay_as_they_are():
    for error in (RuntimeError("odd"), OSError(errno.EACCES, "Permission denied"), UserError("full")):
        with pytest.raises(type(error)) as raised, temporary_folder() as folder:
            raise error
        assert raised.value is error
        assert not folder.exists()


def test_a_temporary_folder_that_cannot_be_made_is_refused(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(Path("absent").absolute()))
    with pytest.raises(UserError, match=f"^cannot make a temporary folder: {os.strerror(errno.ENOENT)}; set TMPDIR to"):
        temporary_folder().__enter__()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=str)
def test_a_command_cleans_up_at_a_signal(number):
    def run():
        with exit_at_signals(install=True), ExitStack() as stack:
            stack.callback(os.kill, os.getpid(), number)  # a second one changes nothing
            os.kill(os.getpid(), number)

    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 128 + number
    assert signal.getsignal(number) is signal.SIG_DFL


def test_signals_that_are_ignored_or_not_to_be_handled_stay_so():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with exit_at_signals(install=True):
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    with exit_at_signals(install=False):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
