"""The command line before torch is loaded: help, and mistakes that need no torch to be found."""

import subprocess
import sys
from pathlib import Path

import pytest

from src.arguments import COMMANDS
from src.cli import main

ROOT = Path(__file__).parents[1]


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Return the one line that a mistake is answered with."""
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1
    return err


def test_help_names_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    out = capsys.readouterr().out
    assert all(f"  {command} " in out for command in COMMANDS)
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("args", [["--help"], ["fitt"], ["fit", "--config", "absent.yaml"]], ids=" ".join)
def test_torch_is_not_imported_for(args: list[str]) -> None:
    code = (
        "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules)); from src.cli import main; main()"
    )
    out = subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, text=True, check=False)
    assert out.stdout.splitlines()[-1] == "False"


def test_an_unknown_command_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown command 'fitt', did you mean fit?" in refused(capsys, "fitt")


def test_a_missing_config_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean configs/digits.yaml?" in refused(capsys, "fit", "--config", "configs/digit.yaml")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"trainer: {max_epochs: 1\nmodel: 2\n", "line 2 is not valid YAML"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "is not text in UTF-8"),
        (b"\x00\x01\x02", "is not valid YAML"),
        (b"trainer: {{ value }}\n", "a key must be a word"),
        (b"", "must hold settings, 'key: value', got nothing"),
        (b"data: src.data.Digits\ntrainer:\n", "line 2: trainer must hold settings, 'key: value', got nothing"),
        (b"best: val/loss\n", "line 1: best must hold settings, 'key: value', got val/loss"),
        (b"name:\n", "line 1: name must be a word, got nothing"),
        (b"- 1\n- 2\n", "must hold settings, 'key: value', got sequence"),
        (
            b"trainer:\n  max_epochs: 1\n  devices: 1\n  max_epochs: 2\n",
            "line 4: key 'max_epochs' stands in line 2 already",
        ),
    ],
)
def test_a_file_that_is_no_config_is_refused(capsys: pytest.CaptureFixture[str], content: bytes, told: str) -> None:
    Path("bad.yaml").write_bytes(content)
    assert told in refused(capsys, "fit", "--config", "bad.yaml")


def test_a_folder_that_is_no_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/digits/version_3").mkdir(parents=True)
    Path("runs/digits/version_3/config.yaml").touch()
    told = refused(capsys, "test", "--run", "runs/digits")
    assert "runs/digits is not a run folder: it has no config.yaml" in told
    assert "runs/digits/version_3" in told


def test_images_go_with_predict_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--images goes with predict, not with fit" in refused(capsys, "fit", "--images", "a.png")


def test_a_folder_to_write_a_picture_to_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--output must be a file, got the folder ." in refused(capsys, "show", "--output", ".")


def test_an_option_without_its_value_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--run" in refused(capsys, "fit", "--run")


def test_scikit_learn_and_tensorboard_are_imported_only_where_they_are_used() -> None:
    code = "import sys, src.commands; print(*{'sklearn', 'tensorboard'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found == "\n"
