"""Start runs as processes that can be killed, and check how they exit."""

import contextlib
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Event
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any

from PIL import Image

if sys.platform != "linux":  # it starts processes by fork and reads /proc
    import pytest

    pytest.skip("needs Linux", allow_module_level=True)

import src.commands.fit  # noqa: F401  # so that forks need not import it
from src.cli import main
from src.data import Digits

ROOT = Path(__file__).parents[1]
FORK = multiprocessing.get_context("fork")
TIMED_OUT = 99  # exit code of a process that did not end in time
SMALL = [
    f"--config={ROOT}/configs/digits.yaml",
    "--model.net=src.nets.MLP",
    "--model.net.image_shape=[1,8,8]",
    "--model.net.hidden_sizes=[16]",
    "--model.net.dropout=0.2",
    "--trainer.max_epochs=3",
    "--last.every_n_steps=4",
    "--test=false",
    "--trainer.callbacks+=tests.spoilers.Trace",
]
PICTURES = ["--data=src.data.ImageFolder", "--data.root=../pictures", "--data.size=8", "--data.channels=1"]
PICTURES += ["--data.in_memory=false", "--data.batch_size=32", "--data.cache=../cache"]


class Process:
    """Run a command or a function in a forked process, in its own process group, working directory and log file.

    A fork need not import torch again. All forks share one temporary folder of multiprocessing, which this process
    removes when it exits; a killed process would leave a folder of its own behind.
    """

    def __init__(self, target: Sequence[str] | Callable[[], Any], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        get_temp_dir()
        self.log, self.finished = folder.with_suffix(".log"), FORK.Event()
        self.process = FORK.Process(target=execute, args=(target, folder, self.log, self.finished))
        with warnings.catch_warnings():  # the child uses no thread of its parent
            warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)
            self.process.start()
        self.pid = int(self.process.pid or 0)
        with contextlib.suppress(ProcessLookupError):
            os.setpgid(self.pid, self.pid)  # here too, so that a signal sent at once finds the group

    def kill(self, number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def interrupt(self, number: int, draw: random.Random) -> bool | None:  # noqa: ARG002
        """Send a signal to the group unless the run has finished; return None then, else whether handlers were set."""
        if self.finished.is_set():
            return None
        handled = handles_signals(self.pid)
        self.kill(number)
        return handled

    def wait(self, seconds: float = 120) -> int:
        """Return the exit code, or minus the signal that ended the process; 99 if it did not end in time."""
        until = time.monotonic() + seconds
        while self.process.exitcode is None and time.monotonic() < until:
            time.sleep(0.01)
        if self.process.exitcode is None:
            self.kill()
            self.process.join()
            return TIMED_OUT
        return self.process.exitcode


def execute(target: Sequence[str] | Callable[[], Any], folder: Path, log: Path, finished: Event) -> None:
    os.setpgid(0, 0)
    os.chdir(folder)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, encoding="utf-8") for number in (1, 2))  # pytest replaced them
    try:
        target() if callable(target) else main(list(target), owns_process=True)
        finished.set()
    except KeyboardInterrupt:  # outside of main
        sys.exit(128 + signal.SIGINT)


class Launched:
    """Run a command in two processes, launched by torchrun, which restarts them when one dies, or by Lightning."""

    def __init__(self, args: Sequence[str], folder: Path, torchrun: bool = True, preset: str = "ddp") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.log, self.torchrun = folder, folder.with_suffix(".log"), torchrun
        run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max_restarts=9"]
        two = ["--trainer.accelerator=cpu", "--trainer.devices=2", f"--config={ROOT}/configs/presets/{preset}.yaml"]
        # without the first variable, restarted processes may look for the ports of dead ones
        more = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with self.log.open("a", encoding="utf-8") as log:
            settings: dict[str, Any] = {"cwd": folder, "stdout": log, "stderr": log, "env": os.environ | more}
            command = [*run[: None if torchrun else 1], "-m", "src.cli", *args, *two]
            self.agent = subprocess.Popen(command, start_new_session=True, **settings)

    def ranks(self) -> list[int]:
        """Return the process ids of the running ranks; none while torchrun restarts them or after the end."""
        if self.agent.poll() is not None:
            return []
        children = Path(f"/proc/{self.agent.pid}/task/{self.agent.pid}/children").read_text(encoding="utf-8").split()
        pids = [int(pid) for pid in children if b"src.cli" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return pids if self.torchrun else [self.agent.pid, *pids]

    def interrupt(self, number: int, draw: random.Random) -> bool | None:
        """Send a signal to one rank unless the run has finished; return None then, else whether handlers were set."""
        pids = self.ranks()
        if not pids or any(self.folder.glob("runs/*/*/results.json")):
            return None
        pid = draw.choice(pids)
        handled = handles_signals(pid)
        os.kill(pid, number)
        return handled

    def wait(self, seconds: float = 300) -> int:
        """Return the exit code; 99 if some process did not end in time."""
        try:
            code = self.agent.wait(seconds)
            until = time.monotonic() + 10
            while time.monotonic() < until:
                os.killpg(self.agent.pid, 0)
                time.sleep(0.1)
        except ProcessLookupError:  # all processes of the group have ended
            return code
        except subprocess.TimeoutExpired:
            pass
        os.killpg(self.agent.pid, signal.SIGKILL)
        self.agent.wait()
        return TIMED_OUT


def handles_signals(pid: int) -> bool:
    """Tell whether a process handles SIGTERM, as Python itself never does; False without /proc."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        mask = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"), re.M)
        return mask is not None and bool(int(mask[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


def obeys(number: int, code: int, handled: bool) -> bool:
    """Tell whether an exit code shows that a signal was obeyed.

    A handled signal ends in 128 + its number. The signal itself ends a process that does not handle it; an exit code
    of 0 means that it was ignored.
    """
    if number == signal.SIGKILL or not handled:
        return code in (-number, 128 + number)
    return code == 128 + number


def refusal(process: Process, expected: str) -> str:
    """Return what is wrong with how a process rejects bad input; it must exit with 2 and one line of error."""
    code, output = process.wait(), process.log.read_text(encoding="utf-8")
    process.log.unlink()
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    named = len(errors) == 1 and expected in f"{errors[0]}\n"
    right = code == 2 and named and output.count("\n") <= 5 and "Traceback" not in output
    return "" if right else f"exit code {code}: {output[-500:]}"


def draw_pictures(folder: Path) -> None:
    """Write the first 400 digits of scikit-learn as PNG files, in train/<class>/."""
    images, targets = Digits().load(train=True)
    for i, (image, target) in enumerate(zip(images[:400], targets[:400], strict=True)):
        (folder / f"train/{target}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / f"train/{target}/{i}.png")
