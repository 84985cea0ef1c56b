"""Run folders: created once, found again, and never losing what they hold."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE
from threading import Barrier

import pytest
import yaml

from src import UserError
from src.runs.folder import Run
from tests.conftest import ROOT

PARENT = Path("runs/digits")


def test_each_run_gets_the_next_folder() -> None:
    assert [Run.create(PARENT).path.name for _ in range(3)] == ["version_0", "version_1", "version_2"]
    (PARENT / "version_11").mkdir()
    (PARENT / "version_x").mkdir()
    assert Run.create(PARENT).path == PARENT / "version_12"


def test_runs_that_start_at_the_same_time_get_different_folders() -> None:
    ready = Barrier(8)

    def create(_: int) -> list[Path]:
        ready.wait()
        return [Run.create(PARENT).path for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        created = [path for paths in pool.map(create, range(8)) for path in paths]
    assert set(created) == {PARENT / f"version_{i}" for i in range(40)}
    assert len(created) == 40


@pytest.mark.parametrize("file", ["runs", "runs/digits"])
def test_a_place_where_no_folder_can_be_created_is_named(file: str, tmp_path: Path) -> None:
    Path(file).parent.mkdir(exist_ok=True)
    Path(file).write_text("a file, no folder", encoding="utf-8")
    with pytest.raises(UserError, match=f"^cannot create a run folder in {tmp_path}/runs/digits: "):
        Run.create(PARENT)


def test_a_run_is_found_by_its_config() -> None:
    run = Run.create(PARENT)
    run.write_config("name: digits\n")
    assert Run.find(run.path).path == run.path


@pytest.mark.parametrize(("path", "hint"), [("runs", "; runs below it: runs/digits/version_0"), ("absent", "")])
def test_a_folder_that_is_no_run_is_refused_with_a_hint(path: str, hint: str) -> None:
    Run.create(PARENT).write_config("{}\n")
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
def test_other_checkpoints_replace_a_missing_best_or_last_one(names: tuple[str, ...], best: str, last: str) -> None:
    run = checkpoints(*names)
    assert [" ".join(file.stem for file in run.checkpoints(kind)) for kind in ("best", "last")] == [best, last]


def test_a_run_without_a_checkpoint_is_refused() -> None:
    with pytest.raises(UserError, match=r"^runs/digits/version_0 has no checkpoint"):
        Run.create(PARENT).checkpoints("best")


def test_the_newest_run_with_a_checkpoint_is_found() -> None:
    assert Run.newest(PARENT) is None
    runs = [checkpoints("last") for _ in range(11)]
    for run in runs:
        run.write_config("{}\n")
    Run.create(PARENT).write_config("{}\n")  # without a checkpoint
    checkpoints("last")  # without a config
    newest = Run.newest(PARENT)
    assert newest is not None
    assert newest.path.name == "version_10"  # not version_9, the last of an alphabetical order


def test_the_newest_run_of_a_job_is_found() -> None:
    for job in ("7", "8"):
        run = checkpoints("last")
        run.write_config("{}\n")
        run.add_provenance({"job": job})
    newest = Run.newest(PARENT, job="7")
    assert newest is not None
    assert newest.path.name == "version_0"
    assert Run.newest(PARENT, job="9") is None


def test_a_folder_in_which_another_process_trains_is_refused() -> None:
    run = Run.create(PARENT)
    lock = f"from src.runs.folder import *; run = Run(Path({str(run.path)!r})); run.lock(); input(1)"
    code = f"import sys; sys.path[0] = {str(ROOT)!r}\n{lock}"
    with subprocess.Popen([sys.executable, "-uc", code], stdin=PIPE, stdout=PIPE) as other:
        assert other.stdout is not None
        other.stdout.read(1)
        with pytest.raises(UserError, match="another process is training in runs/digits/version_0: wait until it ends"):
            run.lock()
        other.kill()
    run.lock()


def test_a_run_is_discarded_only_without_a_checkpoint() -> None:
    empty, trained = Run.create(PARENT), checkpoints("last")
    empty.discard()
    trained.discard()
    assert [path.name for path in PARENT.iterdir()] == ["version_1"]


def test_an_earlier_config_is_kept() -> None:
    run = Run.create(PARENT)
    for lr in (1, 1, 2):
        run.write_config(f"model: {{lr: {lr}}}\ndata: digits\n")
    (older,) = run.path.glob("config_*.yaml")
    assert yaml.safe_load(older.read_text(encoding="utf-8")) == {"model": {"lr": 1}, "data": "digits"}
    assert yaml.safe_load(run.config.read_text(encoding="utf-8")) == {"model": {"lr": 2}, "data": "digits"}
    assert run.config.read_text(encoding="utf-8").index("model") < run.config.read_text(encoding="utf-8").index(
        "data"
    )  # order is kept
    assert run.has_config({"model": {"lr": 2}, "data": "digits"})
    assert not run.has_config({"model": {"lr": 1}, "data": "digits"})


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    Path("full").write_text("a file, no folder", encoding="utf-8")
    error = f"^cannot write to the run folder {tmp_path}/full: "
    with pytest.raises(UserError, match=error):
        Run(Path("full")).write_config("{}\n")
    with pytest.raises(UserError, match=error):
        Run(Path("full")).lock()


def test_each_command_adds_an_entry_to_the_provenance() -> None:
    run, file = Run.create(PARENT), PARENT / "version_0/provenance.json"
    for number in range(2):
        run.add_provenance({"number": number})
    assert json.loads(file.read_text(encoding="utf-8")) == [{"number": 0}, {"number": 1}]
    file.write_text('[{"number": 0', encoding="utf-8")
    run.add_provenance({"number": 2})
    assert json.loads(file.read_text(encoding="utf-8")) == [{"number": 2}]
    assert file.with_suffix(".damaged").read_text(encoding="utf-8") == '[{"number": 0'


def test_results_are_plain_json_and_earlier_ones_are_kept() -> None:
    run = Run.create(PARENT)
    run.write_results({"test/accuracy": 0.5, "test/auroc": float("nan")})
    expected = {"test/accuracy": 0.5, "test/auroc": None}
    assert json.loads((run.path / "results.json").read_text(encoding="utf-8")) == expected
    assert run.is_evaluated()
    assert Run.create(PARENT).previous_results() == (expected, "version_0")
    assert run.previous_results() == ({}, "")
    run.invalidate_results()
    run.invalidate_results()
    assert not run.is_evaluated()
    assert json.loads((run.path / "results_0.json").read_text(encoding="utf-8")) == expected


def test_results_of_a_deleted_run_folder_are_one_line():
    run = Run.create(PARENT)
    run.path.rmdir()
    with pytest.raises(UserError, match=r"cannot write to the run folder .*/runs/digits/version_0: No such file"):
        run.write_results({"test/accuracy": 0.5})
