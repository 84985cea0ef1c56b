"""Run folders: made once each, found again, and never losing what is in them."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from subprocess import PIPE
from threading import Barrier

import pytest
import yaml

from src import UserError
from src.run import ROOT, Run

PARENT = Path("runs/digits")


def test_each_run_gets_the_next_folder():
    assert [Run.create(PARENT).path.name for _ in range(3)] == ["version_0", "version_1", "version_2"]
    (PARENT / "version_11").mkdir()
    (PARENT / "version_x").mkdir()
    assert Run.create(PARENT).path == PARENT / "version_12"


def test_runs_that_start_at_once_get_folders_of_their_own():
    ready = Barrier(8)

    def create(_: int) -> list[Path]:
        ready.wait()
        return [Run.create(PARENT).path for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        made = [path for paths in pool.map(create, range(8)) for path in paths]
    assert set(made) == {PARENT / f"version_{i}" for i in range(40)}
    assert len(made) == 40


@pytest.mark.parametrize("file", ["runs", "runs/digits"])
def test_a_place_where_no_folder_can_be_made_is_named(file, tmp_path):
    Path(file).parent.mkdir(exist_ok=True)
    Path(file).write_text("a file, no folder")
    with pytest.raises(UserError, match=f"cannot make a run folder in {tmp_path}/runs/digits: "):
        Run.create(PARENT)


def test_a_run_is_found_by_its_config():
    run = Run.create(PARENT)
    run.write_config({"name": "digits"})
    assert Run.find(run.path).path == run.path


@pytest.mark.parametrize(("path", "hint"), [("runs", "; runs below it: runs/digits/version_0"), ("absent", "")])
def test_a_folder_that_is_no_run_is_refused_with_a_hint(path, hint):
    Run.create(PARENT).write_config({})
    with pytest.raises(UserError, match=rf"^{path} is not a run folder: it has no config\.yaml{hint}$"):
        Run.find(Path(path))


def checkpoints(*names: str) -> Run:
    run = Run.create(PARENT)
    (run.path / "checkpoints").mkdir()
    for age, name in enumerate(reversed(names)):
        file = run.path / "checkpoints" / f"{name}.ckpt"
        file.touch()
        os.utime(file, (1000 + age, 1000 + age))  # the first is the newest
    return run


@pytest.mark.parametrize(
    ("names", "best", "last"),
    [
        (("best", "last", "other"), "best last other", "last best other"),
        (("other", "last"), "best last other", "last other"),
        (("best",), "best", "last best"),
        (("step=1", "step=2"), "best step=1 step=2", "last step=1 step=2"),
    ],
)
def test_the_best_and_the_last_checkpoint_stand_in_for_each_other(names, best, last):
    run = checkpoints(*names)
    assert [" ".join(file.stem for file in run.checkpoints(kind)) for kind in ("best", "last")] == [best, last]


def test_a_run_without_checkpoint_says_so():
    with pytest.raises(UserError, match=r"runs/digits/version_0 has no checkpoint"):
        Run.create(PARENT).checkpoints("best")


def test_a_folder_that_another_process_trains_in_is_refused():
    run = Run.create(PARENT)
    code = (
        f"import sys; sys.path[0] = {str(ROOT)!r}\nfrom src.run import *\nRun(Path({str(run.path)!r})).lock()\ninput(1)"
    )
    with subprocess.Popen([sys.executable, "-uc", code], stdin=PIPE, stdout=PIPE) as other:
        other.stdout.read(1)
        with pytest.raises(UserError, match="another process trains in runs/digits/version_0: wait for it"):
            run.lock()
        other.kill()
    run.lock()


def test_a_run_is_discarded_only_while_it_has_no_checkpoint():
    empty, trained = Run.create(PARENT), checkpoints("last")
    empty.discard()
    trained.discard()
    assert [path.name for path in PARENT.iterdir()] == ["version_1"]


def test_a_config_is_kept_when_another_one_is_written():
    run = Run.create(PARENT)
    for lr in (1, 1, 2):
        run.write_config({"model": {"lr": lr}, "data": "digits"})
    (older,) = run.path.glob("config_*.yaml")
    assert yaml.safe_load(older.read_text()) == {"model": {"lr": 1}, "data": "digits"}
    assert yaml.safe_load(run.config.read_text()) == {"model": {"lr": 2}, "data": "digits"}
    assert run.config.read_text().index("model") < run.config.read_text().index("data")  # order is kept


def test_a_config_that_cannot_be_written_is_refused(tmp_path):
    Path("full").write_text("a file, no folder")
    with pytest.raises(UserError, match=f"cannot write into the run folder {tmp_path}/full: "):
        Run(Path("full")).write_config({})


def test_each_command_adds_an_entry_to_the_provenance():
    run = Run.create(PARENT)
    run.write_config({"seed": 1})
    run.record(["python", "fit"], "abc")
    run.write_config({"seed": 2})
    run.record(["python", "fit", "--run"], None)
    first, second = json.loads((run.path / "provenance.json").read_text())
    assert (first["command"], first["split"]) == (["python", "fit"], "abc")
    assert (second["command"], second["split"]) == (["python", "fit", "--run"], None)
    assert first["config_sha256"] != second["config_sha256"] == sha256(run.config.read_bytes()).hexdigest()
    assert first["lock_sha256"] == sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()
    assert set(first) == set(second) >= {"time", "git_commit", "git_dirty", "versions", "hardware"}
    assert {"python", "torch", "lightning"} <= set(first["versions"])
    assert set(first["hardware"]) == {"machine", "cpu", "cores", "gpus"}


def test_results_are_plain_json():
    run = Run.create(PARENT)
    run.write_results({"test/accuracy": 0.5})
    assert json.loads((run.path / "results.json").read_text()) == {"test/accuracy": 0.5}
