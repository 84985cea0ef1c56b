"""The release script trains, gates, tries a canary, and rolls back."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from src.runs.exports import Models
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
FIT = ["--trainer.max_epochs=5", "--model.net=src.nets.MLP", "--model.net.image_shape=[1,8,8]", "--name=digits"]
PYTHON = """#!/bin/sh
echo "$@" >>calls
case "$*" in
    *" check "*|*" report "*) ;;
    *" fit "*) if [ -d runs ]; then echo "run      runs/digits/version_0"; else {python} "$@"; fi ;;
    *" export "*) if [ -d models ]; then PYTHONPATH={root} {python} publish.py; else {python} "$@"; fi ;;
    *" --use "*) {python} "$@" && sh after_use ;;
    *) exec {python} "$@" ;;
esac
"""  # trains and exports only once, and notes all calls
PUBLISH = "from tests.served import publish as p\nprint(f'version  models/digits/{p(current=False%s)}, a candidate')\n"


def release(gate: str = "test/accuracy>=0.5") -> subprocess.CompletedProcess[str]:
    """Run the script in this folder, with what a CI job may have in its environment."""
    Path("calls").write_text("", encoding="utf-8")
    environment = {"PYTHON": "./python", "SERVE_KEY": 32 * "k", "http_proxy": "http://127.0.0.1:9"}
    script = [ROOT / "scripts/release.sh", "mine.yaml", gate, "smoke", *FIT]
    return subprocess.run(script, capture_output=True, text=True, env=os.environ | environment)


@pytest.fixture
def models() -> Models:
    """Prepare a folder with the files that the script needs."""
    Path("src").symlink_to(ROOT / "src")
    Path("smoke").mkdir()
    Image.new("L", (8, 8), 200).save("smoke/a.png")
    shutil.copy(ROOT / "configs/digits.yaml", "mine.yaml")
    Path("python").write_text(PYTHON.format(python=sys.executable, root=ROOT), encoding="utf-8")
    Path("python").chmod(0o755)
    Path("publish.py").write_text(PUBLISH % "", encoding="utf-8")
    Path("after_use").touch()
    return Models(Path("models/digits"))


def test_arguments_are_checked_before_anything_runs(models: Models) -> None:
    for gate in ("test/accuracy", "test/accuracy=0.5", ">=0.5"):
        wrong = release(gate)
        assert (wrong.returncode, Path("calls").read_text(encoding="utf-8")) == (2, "")
        assert wrong.stderr == f"the gate must be such as 'test/accuracy>=0.98', got {gate}\n"
    Path("smoke/a.png").unlink()
    wrong = release()
    assert (wrong.returncode, Path("calls").read_text(encoding="utf-8")) == (2, "")
    assert wrong.stderr == "smoke must be a folder of pictures only\n"
    assert not models.path.exists()


@pytest.mark.heavy
def test_a_version_is_released_only_if_it_answers_all_pictures(models: Models) -> None:
    first = release()
    assert first.returncode == 0, first.stderr
    assert (models.numbers(), models.current) == ([1], 1)
    assert models.load(1).info["run"] == "digits/version_0"  # not of the name of the config
    calls = [
        line.split()[2:4]
        for line in Path("calls").read_text(encoding="utf-8").splitlines()
        if line.startswith("-m src.cli")
    ]
    assert [command for command, _ in calls][:4] == ["check", "fit", "report", "export"]
    tried = calls[4:]
    assert [command for command, _ in tried] == 3 * ["serve"]
    assert [folder == str(models.path) for _, folder in tried] == [False, False, True]  # first a copy

    second = release()
    assert second.returncode == 0, second.stderr
    assert (models.current, models.previous) == (2, [1])

    Path("after_use").write_text("echo no picture >smoke/a.png", encoding="utf-8")
    failed = release()
    assert failed.returncode == 1
    assert "version 3 failed as the current one" in failed.stderr
    assert (models.current, models.rejection(3)) == (2, "rolled back to version 2")

    Image.new("L", (8, 8), 200).save("smoke/a.png")
    Path("publish.py").write_text(PUBLISH % ", fails_from=0", encoding="utf-8")
    failed = release()
    assert failed.returncode == 1
    assert "version 4 did not answer smoke/a.png in 40 requests" in failed.stderr
    assert (models.current, models.candidate) == (2, None)


@pytest.mark.heavy
def test_a_first_version_that_fails_is_never_current(models: Models) -> None:
    for folder in ("runs/digits/version_0", "models"):  # nothing is trained
        Path(folder).mkdir(parents=True)
    Path("publish.py").write_text(PUBLISH % ", fails_from=200", encoding="utf-8")
    failed = release()
    assert failed.returncode == 1
    assert "version 1 failed as a canary" in failed.stderr
    assert (models.numbers(), models.current, models.candidate) == ([1], None, None)
