"""Time the stock commands beside plain loops and stock Lightning, interleaved, and print medians and ratios.

python -m scripts.benchmark [GROUP ...] [--repeats N] [--mnist FOLDER] [--json FILE]

Groups: overhead, mnist, protection, augmentation, compiled, loader, startup, memory, scaling; by default all of them.
Other programs disturb.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import pty
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from scripts import contenders
from scripts.contenders import Pixels
from src.data import RandomCrop, RandomFlip
from src.data.loader import TensorLoader
from src.data.normalize import Normalize
from src.data.order import Order
from src.data.prepare import Prepare
from src.data.samples import Samples
from src.memory import keep_freed

Row = dict[str, Any]  # name, ours, other, ratio, goal, met; times in milliseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--repeats", type=int, default=5, help="rounds of each comparison")
    parser.add_argument("--mnist", default="data", help="folder with MNIST; random pixels where it is not there")
    parser.add_argument("--json", type=Path, help="file to write the table to")
    options = parser.parse_args()
    if unknown := [group for group in options.groups if group not in GROUPS]:
        parser.error(f"groups are {', '.join(GROUPS)}, got {', '.join(unknown)}")
    rows: list[Row] = []
    print(f"{'ours / other; milliseconds unless said':<44}{'ours':>9}{'other':>9}  ratio  goal")  # noqa: T201
    for group in options.groups or GROUPS:
        for row in GROUPS[group](options):
            rows.append(row)
            print(line(row), flush=True)  # noqa: T201
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1))


def line(row: Row) -> str:
    goal = "" if row["goal"] is None else f"{row['goal']:g}{'' if row['met'] else ' not met'}"
    return f"{row['name']:<44}{row['ours']:>9,.2f}{row['other']:>9,.2f}  {row['ratio']:5.2f}  {goal}".rstrip()


def compared(name: str, ours: list[float], other: list[float], goal: float | None = None, unit: float = 1e3) -> Row:
    """Return a row: medians of both in milliseconds, and the median of ours as multiples of the other.

    They are divided pair by pair, since they took turns and the pace of a machine changes.
    """
    a, b = statistics.median(ours) * unit, statistics.median(other) * unit
    ratio = statistics.median(x / y for x, y in zip(ours, other, strict=True))
    return {"name": name, "ours": a, "other": b, "ratio": ratio, "goal": goal, "met": goal is None or ratio <= goal}


def interleaved(repeats: int, runs: Mapping[str, Callable[[], list[float]]]) -> dict[str, list[float]]:
    """Return what the runs return, without their first value, over several rounds."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            with on_terminal():
                found[name] += run()[1:]
    return found


@contextlib.contextmanager
def on_terminal() -> Iterator[None]:
    """Let what is printed go to a terminal that nobody looks at: bars are drawn, and paid for, as they are in use."""
    sys.stdout.flush()
    reader, terminal = pty.openpty()
    kept = [os.dup(stream) for stream in (1, 2)]
    for stream in (1, 2):
        os.dup2(terminal, stream)
    threading.Thread(target=drain, args=(reader,), daemon=True).start()
    try:
        yield
    finally:
        sys.stdout.flush()
        for stream, before in zip((1, 2), kept, strict=True):
            os.dup2(before, stream)
            os.close(before)
        os.close(terminal)


def drain(reader: int) -> None:
    with contextlib.suppress(OSError):  # closed at the other end
        while os.read(reader, 65536):
            pass
    os.close(reader)


def training(names: Iterable[str], net: str, batch_size: int, epochs: int, data: Pixels) -> dict[str, list[float]]:
    """Return the seconds of a step of each contender in each epoch.

    Each has a process of its own, as it has in use; they take turns epoch by epoch, while the others sleep.
    """
    found, waiting = dict[str, list[float]](), dict[str, Connection]()
    with on_terminal(), patch.dict(os.environ):
        for name in names:
            waiting[name], other_end = multiprocessing.Pipe()
            os.environ["THP_MEM_ALLOC_ENABLE"] = str(int(name in contenders.OURS))  # see src/memory.py
            args = (other_end, name, net, batch_size, epochs, data)
            multiprocessing.get_context("spawn").Process(target=contenders.in_turns, args=args, daemon=True).start()
            other_end.close()
            waiting[name].recv()
        for _ in range(epochs):
            for name, connection in waiting.items():
                connection.send("go on")
                found[name] = connection.recv()
    return found


def against(
    name: str, goals: dict[str, float | None], options: argparse.Namespace, net: str, batch_size: int, data: Pixels
) -> Iterator[Row]:
    """Yield rows of the stock command beside other contenders."""
    times = training(["stock", *goals], net, batch_size, 1 + 2 * options.repeats, data)
    for other, goal in goals.items():
        yield compared(f"{name} / {other}", times["stock"][1:], times[other][1:], goal)


def overhead(options: argparse.Namespace) -> Iterator[Row]:
    goals = {"defaults": 0.8, "barebones": None, "bare": None}
    yield from against("step, almost empty net", goals, options, "almost empty", 64, Pixels(60_000, size=4))


def protection(options: argparse.Namespace) -> Iterator[Row]:
    """What it costs that nothing is lost: in each step, and when 40 MB are saved."""
    pixels, epochs = Pixels(640, root=options.mnist), 2 + 40 * options.repeats
    seconds = training(["alternately"], "SmallCNN", 64, epochs, pixels)["alternately"][2:]
    yield compared("step, MNIST, SmallCNN / unprotected", seconds[::2], seconds[1::2], 1.03)
    # in a process of their own, since in this one Lightning's way would gain by what src/memory.py keeps
    code = f"import json; from scripts.contenders import saves; print(json.dumps(saves({10 * options.repeats})))"
    times = json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    yield compared("save 40 MB / Lightning's way", times["durable"], times["Lightning's"], 1.0)


def mnist(options: argparse.Namespace) -> Iterator[Row]:
    for net, batch_size, samples, bound in (
        ("MLP", 64, 60_000, 1.25),
        ("MLP", 256, 60_000, 1.12),
        ("SmallCNN", 64, 9_600, 1.05),
    ):
        goals = {"barebones": 1.0, "bare": bound, "tutorial": None}
        name, data = f"step, MNIST, {net} at {batch_size}", Pixels(samples, root=options.mnist)
        yield from against(name, goals, options, net, batch_size, data)


def augmentation(options: argparse.Namespace) -> Iterator[Row]:
    prepare, (images, *more) = augmented()
    ways = {
        "ours": partial(prepare, images, *more),
        "unfold and index": partial(contenders.unfolded, images),
        "torchvision by sample": partial(contenders.by_one, images),
        "normalising alone": partial(prepare.normalize, images),
    }
    goals = {"unfold and index": 1.0, "torchvision by sample": 0.087, "normalising alone": None}
    yield from called("augment 512 images", ways, goals, 10 * options.repeats)


def compiled(options: argparse.Namespace) -> Iterator[Row]:
    """The same under torch.compile, which needs a C++ compiler; normalising is the floor."""
    prepare, (images, *more) = augmented()
    ways = {
        "ours": partial(torch.compile(prepare), images, *more),
        "eager": partial(prepare, images, *more),
        "normalising alone": partial(torch.compile(prepare.normalize), images),
    }
    yield from called("augment, compiled", ways, {"eager": None, "normalising alone": None}, 10 * options.repeats)


def augmented() -> tuple[Prepare, tuple[Any, ...]]:
    """Return what augments 512 images, and those, with what else it is called with."""
    images = torch.randint(256, (512, 3, 32, 32), dtype=torch.uint8)
    prepare = Prepare(Normalize([120.0] * 3, [64.0] * 3), [RandomCrop(4), RandomFlip()])
    return prepare, (images, None, torch.arange(512), 0)


def called(
    name: str, ways: Mapping[str, Callable[[], Any]], goals: dict[str, float | None], repeats: int
) -> Iterator[Row]:
    """Yield rows of the way named ours beside the others, called in turns."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, call in ways.items():
            started = time.perf_counter()
            call()
            times[way].append(time.perf_counter() - started)
    for other, goal in goals.items():
        yield compared(f"{name} / {other}", times["ours"], times[other], goal)


def loader(options: argparse.Namespace) -> Iterator[Row]:
    """What a process does itself for an epoch of images of one pixel, in batches of 512, alone and among others."""
    for count in (50_000, 1_280_000):
        samples = Samples(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), torch.zeros(count, dtype=torch.long))
        times: dict[int, list[float]] = {1: [], 8: [], 64: []}
        for _ in range(options.repeats):
            for processes, found in times.items():
                order = Order(count, 512, shuffle=True, world_size=processes)
                batches = TensorLoader(samples, order, lambda images, targets, *_: (images, targets))
                started = time.perf_counter()
                list(batches)
                found.append(time.perf_counter() - started)
        for processes in (8, 64):
            yield compared(f"epoch of {count:,}: one of {processes} / alone", times[processes], times[1])


def startup(options: argparse.Namespace) -> Iterator[Row]:
    fit = ["-m", "src.cli", "fit", "--config=configs/digits.yaml", f"--trainer.default_root_dir={contenders.RUNS}"]
    commands = {
        "help": ["-m", "src.cli", "--help"],
        "fit --print_config": [*fit, "--print_config"],
        "fit to the first step": [*fit, "--trainer.callbacks=scripts.contenders.FirstStep"],
        "import": ["-c", "import lightning.pytorch.cli"],
        "import and no more": ["-c", "import os, lightning.pytorch.cli; os._exit(0)"],  # as FirstStep ends
    }
    times = interleaved(options.repeats, {name: partial(cpu, typed) for name, typed in commands.items()})
    yield compared("--help / 0.3 s", times["help"], [0.3] * len(times["help"]), 1.0)
    for name, other, goal in (
        ("fit --print_config", "import", 1.1),
        ("fit to the first step", "import and no more", 1.2),
    ):
        yield compared(f"{name} / import lightning cli", times[name], times[other], goal)


def cpu(typed: list[str]) -> list[float]:
    """Return the CPU seconds of a Python process that is started, twice."""
    used = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *typed], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return used


def memory(options: argparse.Namespace) -> Iterator[Row]:  # noqa: ARG001
    code = (
        "import resource; from scripts import contenders as c\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "c.Clock.note = lambda self, trainer: self.seconds.append(peak())\n"
        "peaks = c.stock('MLP', 256, 21, c.Pixels(60_000))\n"
        "print(peaks[1], peaks[-1])"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    first, last = map(float, printed.splitlines()[-1].split())
    yield compared("peak memory, MiB: after 21 epochs / after 1", [last], [first], 1.02, unit=1)


def scaling(options: argparse.Namespace) -> Iterator[Row]:  # noqa: ARG001
    one, two = (rate(processes) for processes in (1, 2))
    yield compared("samples/s: 2 processes / twice 1 process", [two], [2 * one], unit=1)


def rate(processes: int) -> float:
    """Return samples per second of processes of one thread each."""
    root = Path(contenders.RUNS) / f"{processes}_processes"
    typed = [
        "--data=scripts.contenders.Pixels",
        "--data.limit=7680",
        f"--data.batch_size={128 // processes}",
        "--model=src.tasks.Classifier",
        "--model.num_classes=10",
        "--model.net=scripts.contenders.Net",
        "--model.net.name=SmallCNN",
        "--model.optimizer=torch.optim.Adam",
        "--trainer.accelerator=cpu",
        f"--trainer.devices={processes}",
        f"--trainer.strategy={'ddp' if processes > 1 else 'auto'}",
        "--trainer.max_epochs=2",
        "--trainer.limit_val_batches=0",
        f"--trainer.default_root_dir={root}",
        "--best.monitor=train/loss",
        "--test=false",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "src.cli", "fit", *typed]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    newest = max(root.glob("run/version_*/results.json"), key=os.path.getmtime)
    return json.loads(newest.read_text())["samples_per_second"]


GROUPS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "overhead": overhead,
    "mnist": mnist,
    "protection": protection,
    "augmentation": augmentation,
    "compiled": compiled,
    "loader": loader,
    "startup": startup,
    "memory": memory,
    "scaling": scaling,
}

if __name__ == "__main__":
    keep_freed()
    main()
