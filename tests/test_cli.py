"""The command line around the commands: help, errors, and what it changes in the process."""

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from src.cli import fast_import, main, quiet
from src.config.arguments import command_names, read
from src.config.parser import parse
from src.tasks import Task
from tests.conftest import FIT, PATH, ROOT, needs_posix, process_state, refused

QUICK = ["--trainer.max_epochs=1", "--data.size=16", "--model.net=src.nets.SmallCNN", "--model.net.in_channels=3"]
ENVIRONMENT = os.environ | PATH | {"OMP_NUM_THREADS": "1"}
FAULTS = """
import resource, sys
from src.cli import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
import torch

def faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


class Probe(Callback):
    """Write the state of the process while it trains, and warn."""

    def on_train_start(self, *_: object) -> None:
        Path("state.json").write_text(json.dumps(process_state()), encoding="utf-8")
        warnings.warn("look here", stacklevel=1)


@pytest.mark.parametrize("args", [["--help"], ["-h"], []], ids=str)
def test_help_lists_every_command(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(args)
    out = capsys.readouterr().out
    assert all(f"\n  {command} " in out for command in command_names())
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("config", ["digits", "folder", "cifar10_fast", None])
def test_the_help_of_a_command_fits_a_page_and_lists_settings_that_exist(
    config: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"--config=configs/{config}.yaml"] if config else []
    with pytest.raises(SystemExit) as stop:
        main(["fit", *given, "--help"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 80
    settings = [line.split()[0] for line in lines if line.startswith("  --")]
    assert len(settings) >= 20
    assert ("--model.optimizer.lr=" in " ".join(settings)) == bool(given)
    if config == "digits":
        assert parse(read(["fit", *given, *(each for each in settings if "[...]" not in each)])[0])


def test_every_setting_is_explained_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--help-all"])
    assert "--trainer.barebones" in capsys.readouterr().out


@pytest.mark.parametrize("args", [["--help"], ["fitt"], ["fit", "--config", "absent.yaml"]], ids=" ".join)
def test_torch_is_not_imported_for(args: list[str]) -> None:
    code = (
        "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules)); from src.cli import main; main()"
    )
    out = subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, text=True, check=False)
    assert out.stdout.splitlines()[-1] == "False"


def test_scikit_learn_and_tensorboard_are_imported_only_when_used() -> None:
    commands = ", ".join(f"src.commands.{name}" for name in command_names())
    libraries = (
        "import sys, lightning, torchmetrics, torchvision; theirs = {*sys.modules}"  # with Transformers, scikit-learn
    )
    code = f"{libraries}; import {commands}; print(*{{'sklearn', 'tensorboard'}} & {{*sys.modules}} - theirs)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found == "\n"


def test_a_folder_that_is_no_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/digits/version_3").mkdir(parents=True)
    Path("runs/digits/version_3/config.yaml").touch()
    error = refused(capsys, "test", "--run", "runs/digits")
    assert "runs/digits is not a run folder: it has no config.yaml" in error
    assert "runs/digits/version_3" in error


def test_an_interrupt_while_torch_is_imported_ends_the_process() -> None:  # an exception may become any other there
    code = (
        "import signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.startswith('torch.'):\n"
        "            sys.exit(signal.getsignal(signal.SIGINT) is not signal.SIG_DFL)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from src.cli import main; main(owns_process=True)"
    )
    subprocess.run([sys.executable, "-c", code, "fit", "--config=configs/digits.yaml"], cwd=ROOT, check=True)


@needs_posix
@pytest.mark.heavy
def test_a_run_needs_no_open_output() -> None:
    command = f"{sys.executable} -m src.cli {' '.join(FIT)} --trainer.fast_dev_run=1 >&- 2>&-"
    assert subprocess.run(command, shell=True, env=ENVIRONMENT, check=False).returncode == 0


def test_without_the_environment_a_command_says_how_to_install_it() -> None:
    for missing in ("yaml", "torch"):
        code = f"import sys; sys.modules[{missing!r}] = None; from src.cli import main; main(['fit'])"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert f"error: {missing} is not installed here: run make train once" in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.returncode in (1, 2)


@pytest.mark.filterwarnings("ignore:look here")
def test_main_changes_nothing_in_the_process_of_a_caller() -> None:
    gc.unfreeze()  # what other tests froze
    before = process_state()
    main([*FIT, "--trainer.max_epochs=1", f"--trainer.callbacks+={__name__}.Probe"])
    assert json.loads(Path("state.json").read_text(encoding="utf-8")) == before
    assert process_state() == before


def test_the_command_line_handles_signals_warnings_and_garbage() -> None:
    command = [
        sys.executable,
        "-m",
        "src.cli",
        *FIT,
        "--trainer.max_epochs=1",
        f"--trainer.callbacks+={__name__}.Probe",
    ]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits SIG_IGN
    try:
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    finally:
        signal.signal(signal.SIGINT, before)
    state = json.loads(Path("state.json").read_text(encoding="utf-8"))
    assert state["signals"][:2] == ["Signals.receive", "Signals.receive"]
    assert "quiet" in state["showwarning"]
    assert state["disabled"] == logging.INFO
    assert state["gc"][0] is True
    assert state["gc"][-1] is True
    assert done.stderr == "warning: look here\n"
    assert "epoch 1/1" in done.stdout


@pytest.mark.filterwarnings("default")
def test_warnings_are_one_line_each_and_noise_is_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    before = process_state()
    with quiet():
        warnings.warn("Checkpoint directory runs exists and is not empty.", stacklevel=1)
        warnings.warn("look here", stacklevel=1)
        logging.getLogger("lightning.pytorch").info("GPU available: False")
    assert capsys.readouterr().err == "warning: look here\n"
    assert process_state() == before


def test_imported_objects_are_frozen_once() -> None:
    gc.unfreeze()
    with fast_import():
        assert not gc.isenabled()
    frozen = gc.get_freeze_count()
    assert gc.isenabled()
    assert frozen > 10_000
    created: list[list] = [[] for _ in range(20_000)]
    with fast_import():
        pass
    assert created
    assert gc.get_freeze_count() <= frozen
    gc.unfreeze()


@pytest.mark.skipif(sys.platform != "linux", reason="the system's own allocator")
def test_freed_memory_is_not_requested_from_the_kernel_again() -> None:
    env = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}  # set by other tests
    plain, kept = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS, how], cwd=ROOT, env=env))
        for how in ("plain", "keep")
    )
    assert plain > 1000
    assert kept < plain / 10


@pytest.mark.heavy
def test_a_run_holds_its_data_once_and_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []  # bytes of all tensors, after each epoch

    def tensors() -> int:
        gc.collect()
        storages = [each.untyped_storage() for each in gc.get_objects() if type(each) is torch.Tensor]
        return sum({each.data_ptr(): each.nbytes() for each in storages}.values())

    def count(task: Task) -> None:
        means(task)
        held.append(tensors())

    means = Task.on_train_epoch_end
    monkeypatch.setattr(Task, "on_train_epoch_end", count)
    settings = ["--model.net.width=2", "--trainer.max_epochs=10", "--trainer.limit_train_batches=4"]
    before = tensors()  # of other tests
    x = main([*FIT, *settings])
    pixels = x.data.splits["train"].images.nbytes
    assert len(held) == 10
    assert max(held[2:]) - held[2] < 0.01 * held[2]
    assert held[2] - before < 2 * pixels + 6 * 5056  # states of the random number generator
