"""A draft leaves nothing behind, not even after its process was killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from src import UserError
from src.runs.drafts import draft
from tests.processes import ROOT

FOLDER = Path("a/b/c")
HOLD = """
from pathlib import Path
from src.runs.drafts import draft
with draft(Path("a/b/c")):
    print(flush=True)
    input()
"""


def test_folders_that_a_draft_made_vanish_with_it():
    with draft(FOLDER) as part:
        (part / "file").touch()
    assert not Path("a").exists()
    Path("a").mkdir()
    with draft(FOLDER):
        pass
    assert [*Path("a").iterdir()] == []
    with draft(FOLDER) as part:
        part.rename(FOLDER / "1")
    assert [each.name for each in FOLDER.iterdir()] == ["1"]


def test_a_folder_that_cannot_be_written_is_refused():
    Path("file").touch()
    with pytest.raises(UserError, match=r"^cannot write file/b: Not a directory; choose another folder with --output$"):
        draft(Path("file/b")).__enter__()


def test_drafts_of_killed_processes_are_removed_and_others_stay():
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        process.stdout.readline()
        (alive,) = FOLDER.iterdir()
        (FOLDER / ".new-999999").mkdir()  # of an earlier version
        with draft(FOLDER) as part:
            assert {*FOLDER.iterdir()} == {alive, part}
        assert [*FOLDER.iterdir()] == [alive]
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert alive.exists()
    with draft(FOLDER) as part:
        assert [*FOLDER.iterdir()] == [part]
