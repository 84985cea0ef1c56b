"""The release script trains, gates, tries a canary, and rolls back."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from src.cli import main
from src.runs.exports import Models
from tests.processes import ROOT

pytestmark = [pytest.mark.heavy, pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")]
FIT = ["--trainer.max_epochs=5", "--model.net=src.nets.MLP", "--model.net.image_shape=[1,8,8]"]


def release(gate: str, *settings: str, python: str | Path = sys.executable) -> subprocess.CompletedProcess[str]:
    """Run the script in this folder, which gets links to what it needs."""
    if not Path("src").exists():
        Path("src").symlink_to(ROOT / "src")
    Path("smoke").mkdir(exist_ok=True)
    Image.new("L", (8, 8), 200).save("smoke/a.png")
    script = [ROOT / "scripts/release.sh", "configs/digits.yaml", gate, "smoke", *FIT, *settings]
    with socket.create_server(("127.0.0.1", 0)) as free:
        environment = os.environ | {"PORT": str(free.getsockname()[1]), "PYTHON": str(python)}
    return subprocess.run(script, capture_output=True, text=True, env=environment)


def test_a_version_is_released_only_if_pictures_pass_the_canary():
    main(["fit", "--config=configs/digits.yaml", *FIT, "--no_page"])
    main(["export", "--run=runs/digits/version_0"])
    models = Models(Path("models/digits"))
    second = release("test/accuracy>=0.5")
    assert second.returncode == 0, second.stderr
    assert (models.numbers(), models.current) == ([1, 2], 2)
    Path("smoke/b.png").write_bytes(b"no picture")
    third = release("test/accuracy>=0.5")
    assert third.returncode == 1
    assert "version 3 failed as a canary" in third.stderr
    assert models.current == 2


def test_a_version_whose_model_fails_is_not_released():
    main(["fit", "--config=configs/digits.yaml", *FIT, "--no_page"])
    main(["export", "--run=runs/digits/version_0"])
    python = Path("python")  # publishes, after each export, a model that fails on all pictures
    fail = (
        f'PYTHONPATH={ROOT} {sys.executable} -c "from tests.served import publish as p; p(current=False, fails_from=0)"'
    )
    command = f'{sys.executable} "$@"'
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *" export "*) {command} && {fail};; *) exec {command};; esac\n', encoding="utf-8"
    )
    python.chmod(0o755)
    done = release("test/accuracy>=0.5", python=python.absolute())
    assert done.returncode == 1
    assert "version 3 did not answer smoke/a.png in 40 requests" in done.stderr
    assert Models(Path("models/digits")).current == 1
