"""The folder for temporary files of an export."""

import errno
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from src import UserError
from src.commands.exports.files import temporary_folder


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
