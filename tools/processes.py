"""Runs as processes that can be killed, and the comparison of what they leave."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from src.cli import main
from src.data import Digits

ROOT = Path(__file__).parents[1]
SMALL = [
    f"--config={ROOT}/configs/digits.yaml",
    "--model.net=src.nets.MLP",
    "--model.net.image_shape=[1,8,8]",
    "--model.net.hidden_sizes=[16]",
    "--model.net.dropout=0.2",
    "--trainer.max_epochs=3",
    "--last.every_n_steps=4",
    "--test=false",
    "--trainer.callbacks+=scripts.spoilers.Trace",
]
PICTURES = ["--data=src.data.ImageFolder", "--data.root=../pictures", "--data.size=8", "--data.channels=1"]
PICTURES += ["--data.in_memory=false", "--data.batch_size=32", "--data.cache=../cache"]


class Process:
    """A command or a function in a process group and folder of its own, which needs not import torch anew."""

    def __init__(self, typed: Sequence[str] | Callable[[], Any], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder.with_suffix(".log")
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.setsid()
                os.chdir(folder)
                log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(log, 1)
                os.dup2(log, 2)
                code = exit_code(typed)
            finally:
                os._exit(code)

    def kill(self, number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait(self, seconds: float = 120) -> int:
        """Return the exit code, or minus the signal that ended it; 99 where it did not end in time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        self.kill()
        os.waitpid(self.pid, 0)
        return 99


class Launched:
    """A command in two processes: under torchrun, which starts them again when one dies, or of Lightning's own."""

    def __init__(self, typed: Sequence[str], folder: Path, torchrun: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log, self.torchrun = folder.with_suffix(".log"), torchrun
        run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max_restarts=9"]
        two = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
        # else a restart may find the ports of processes that are gone
        more = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with self.log.open("a") as log:
            settings: dict[str, Any] = {"cwd": folder, "stdout": log, "stderr": log, "env": os.environ | more}
            self.agent = subprocess.Popen(
                [*run[: None if torchrun else 1], "-m", "src.cli", *typed, *two], start_new_session=True, **settings
            )

    def ranks(self) -> list[int]:
        """Return the ids of the two processes; none while they are being started again, or are over."""
        if self.agent.poll() is not None:
            return []
        found = Path(f"/proc/{self.agent.pid}/task/{self.agent.pid}/children").read_text().split()
        pids = [int(pid) for pid in found if b"src.cli" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return pids if self.torchrun else [self.agent.pid, *pids]

    def wait(self, seconds: float = 300) -> int:
        """Return the exit code; 99 where not all processes ended in time."""
        with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
            code = self.agent.wait(seconds)
            until = time.monotonic() + 10
            while time.monotonic() < until:
                os.killpg(self.agent.pid, 0)
                time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.agent.pid, signal.SIGKILL)
            return 99
        return code


def draw_pictures(folder: Path) -> None:
    """Write the first 400 digits of scikit-learn as PNG files."""
    digits = Digits()
    for i, (image, target) in enumerate(zip(*(part[:400] for part in digits.load(train=True)), strict=True)):
        (folder / f"train/{target}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / f"train/{target}/{i}.png")


def exit_code(typed: Sequence[str] | Callable[[], Any]) -> int:
    try:
        typed() if callable(typed) else main(list(typed))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
    return 0


def same(a: Any, b: Any) -> bool:
    """Tell whether two contents of checkpoints are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def differences(folder: Path, whole: Path) -> list[str]:
    """Return what differs between a run that was cut off and one that was not."""
    found = []
    # a run that was killed before its first checkpoint left a folder without any
    run, other = (next(place.glob("runs/digits/*/checkpoints/last.ckpt")).parents[1] for place in (folder, whole))
    for name in ("best.ckpt", "last.ckpt"):
        a, b = (torch.load(place / "checkpoints" / name, weights_only=True) for place in (run, other))
        found += [f"{name}: {key}" for key in a.keys() | b.keys() if not same(a.get(key), b.get(key))]
    if (run / "metrics.csv").read_text() != (other / "metrics.csv").read_text():
        found.append("metrics.csv")
    steps: dict[str, set[str]] = defaultdict(set)
    for line in [*(folder / "trace.txt").read_text().splitlines(), *(whole / "trace.txt").read_text().splitlines()]:
        if line.count(" ") == 2:  # a killed process may tear its last line
            steps[line.split()[0]].add(line)
    found += [f"step {place}" for place, lines in steps.items() if len(lines) > 1]
    return found + [f"left over: {file.name}" for file in (run / "checkpoints").iterdir() if file.suffix != ".ckpt"]
