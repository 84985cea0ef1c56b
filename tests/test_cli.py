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


def test_a_folder_that_is_no_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/digits/version_3").mkdir(parents=True)
    Path("runs/digits/version_3/config.yaml").touch()
    told = refused(capsys, "test", "--run", "runs/digits")
    assert "runs/digits is not a run folder: it has no config.yaml" in told
    assert "runs/digits/version_3" in told


def test_an_interrupt_while_torch_is_imported_ends_it_at_once() -> None:  # an exception may become any other there
    code = (
        "import signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.startswith('torch.'):\n"
        "            sys.exit(signal.getsignal(signal.SIGINT) is not signal.SIG_DFL)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from src.cli import main; main()"
    )
    subprocess.run([sys.executable, "-c", code, "fit", "--config=configs/digits.yaml"], cwd=ROOT, check=True)


def test_scikit_learn_and_tensorboard_are_imported_only_where_they_are_used() -> None:
    code = "import sys, src.commands; print(*{'sklearn', 'tensorboard'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found == "\n"
