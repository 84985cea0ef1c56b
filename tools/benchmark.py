"""Time this project against plain loops and stock Lightning, in turns, and print medians and ratios.

python -m tools.benchmark [GROUP ...] [--repeats N] [--mnist FOLDER] [--json FILE] [--gpu]

Groups: overhead, mnist, protection, augmentation, compiled, loader, startup, memory, scaling, nets, search; by
default all.
Stop other programs first.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from src.cli import keep_freed_memory
from src.data import RandomCrop, RandomFlip
from src.data.loading.loader import BatchSampler, TensorLoader
from src.data.loading.splits import Samples
from src.data.loading.transform import BatchTransform, Normalize
from src.nets import MobileCNN, SmallCNN
from tools import contenders
from tools.search_speed import search
from tools.timing import Row, compare, cpu_seconds, format_row, interleave, time_calls, time_training
from tools.workloads import GPU, RUNS, Pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--repeats", type=int, default=5, help="number of rounds of each comparison")
    parser.add_argument("--mnist", default="data", help="folder with MNIST; without it, pixels are random")
    parser.add_argument("--json", type=Path, help="file to write the table to")
    parser.add_argument("--gpu", action="store_true", help="train on a GPU: overhead, mnist and protection")
    options = parser.parse_args()
    if options.gpu:
        os.environ[GPU] = "1"
    if unknown := [group for group in options.groups if group not in GROUPS]:
        parser.error(f"unknown group {', '.join(unknown)}: choose from {', '.join(GROUPS)}")
    rows: list[Row] = []
    print(f"{'ours / other; milliseconds unless stated':<43}{'ours':>9}{'other':>9} ratio goal")  # noqa: T201
    try:
        for group in options.groups or GROUPS:
            for row in GROUPS[group](options):
                rows.append(row)
                print(format_row(row), flush=True)  # noqa: T201
                if options.json:
                    options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    finally:
        shutil.rmtree(RUNS, ignore_errors=True)


def against(
    name: str, goals: dict[str, float | None], options: argparse.Namespace, net: str, batch_size: int, data: Pixels
) -> Iterator[Row]:
    """Yield a row of the stock command against each of the other contenders."""
    times = time_training(["stock", *goals], net, batch_size, 1 + 2 * options.repeats, data)
    for other, goal in goals.items():
        yield compare(f"{name} / {other}", times["stock"][1:], times[other][1:], goal)


def overhead(options: argparse.Namespace) -> Iterator[Row]:
    goals = {"defaults": 0.8, "barebones": None, "bare": None}
    yield from against("step, almost empty net", goals, options, "almost empty", 64, Pixels(60_000, size=4))


def mnist(options: argparse.Namespace) -> Iterator[Row]:
    for net, batch_size, samples, bound in (
        ("MLP", 64, 60_000, 1.25),
        ("MLP", 256, 60_000, 1.12),
        ("SmallCNN", 64, 9_600, 1.05),
    ):
        goals = {"barebones": 1.0, "bare": bound, "tutorial": None}
        name, data = f"step, MNIST, {net}, batch {batch_size}", Pixels(samples, root=options.mnist)
        yield from against(name, goals, options, net, batch_size, data)


def protection(options: argparse.Namespace) -> Iterator[Row]:
    """The cost of never losing work, per step and per save of 40 MB."""
    pixels, epochs = Pixels(640, root=options.mnist), 2 + 40 * options.repeats
    seconds = time_training(["alternating"], "SmallCNN", 64, epochs, pixels)["alternating"][2:]
    yield compare("step, MNIST, SmallCNN / unprotected", seconds[::2], seconds[1::2], 1.03)
    # in another process, because the memory settings of this one would speed up Lightning's way as well
    code = f"import json; from tools.contenders import saves; print(json.dumps(saves({10 * options.repeats})))"
    times = json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    yield compare("save 40 MB / Lightning's way", times["atomic"], times["Lightning's"], 1.0)


def augmentation(options: argparse.Namespace) -> Iterator[Row]:
    transform, (images, *more) = augmented()
    calls: dict[str, Callable[[], Any]] = {
        "ours": partial(transform, images, *more),
        "unfold and index": partial(contenders.unfolded, images),
        "torchvision per sample": partial(contenders.per_sample, images),
        "normalization only": partial(transform.normalize, images),
    }
    goals = {"unfold and index": 1.0, "torchvision per sample": 0.087, "normalization only": None}
    yield from time_calls("augment 512 images", calls, goals, 10 * options.repeats)


def compiled(options: argparse.Namespace) -> Iterator[Row]:
    """Augmentation under torch.compile, which needs a C++ compiler; normalization is the lower bound."""
    transform, (images, *more) = augmented()
    calls: dict[str, Callable[[], Any]] = {
        "ours": partial(torch.compile(transform), images, *more),
        "eager": partial(transform, images, *more),
        "normalization only": partial(torch.compile(transform.normalize), images),
    }
    yield from time_calls("augment, compiled", calls, {"eager": None, "normalization only": None}, 10 * options.repeats)


def augmented() -> tuple[BatchTransform, tuple[Any, ...]]:
    """Return a transform and its arguments for 512 images."""
    images = torch.randint(256, (512, 3, 32, 32), dtype=torch.uint8)
    transform = BatchTransform(Normalize([120.0] * 3, [64.0] * 3), [RandomCrop(4), RandomFlip()])
    return transform, (images, None, torch.arange(512), 0)


def loader(options: argparse.Namespace) -> Iterator[Row]:
    """The loader's own cost of an epoch of 1x1 images in batches of 512, for one process and for one of several."""
    for count in (50_000, 1_280_000):
        samples = Samples(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), torch.zeros(count, dtype=torch.long))
        times: dict[int, list[float]] = {1: [], 8: [], 64: []}
        for _ in range(options.repeats):
            for processes, found in times.items():
                sampler = BatchSampler(count, 512, shuffle=True, world_size=processes)
                batches = TensorLoader(samples, sampler, lambda images, targets, *_: (images, targets))
                started = time.perf_counter()
                list(batches)
                found.append(time.perf_counter() - started)
        for processes in (8, 64):
            yield compare(f"epoch of {count:,}: one of {processes} / alone", times[processes], times[1])


def startup(options: argparse.Namespace) -> Iterator[Row]:
    fit = ["-m", "src.cli", "fit", "--config=configs/digits.yaml", f"--trainer.default_root_dir={RUNS}"]
    commands = {
        "help": ["-m", "src.cli", "--help"],
        "fit --print_config": [*fit, "--print_config"],
        "fit to the first step": [*fit, "--trainer.callbacks=tools.workloads.FirstStep"],
        "import": ["-c", "import lightning.pytorch.cli"],
        "import and no more": ["-c", "import os, lightning.pytorch.cli; os._exit(0)"],  # ends like FirstStep
    }
    times = interleave(options.repeats, {name: partial(cpu_seconds, args) for name, args in commands.items()})
    yield compare("--help / 0.3 s", times["help"], [0.3] * len(times["help"]), 1.0)
    for name, other, goal in (
        ("fit --print_config", "import", 1.1),
        ("fit to the first step", "import and no more", 1.2),
    ):
        yield compare(f"{name} / import lightning cli", times[name], times[other], goal)


def memory(options: argparse.Namespace) -> Iterator[Row]:  # noqa: ARG001
    command = [sys.executable, "-c", "from tools.contenders import peak_memory; print(*peak_memory(epochs=21))"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    first, last = map(float, printed.splitlines()[-1].split())
    yield compare("peak memory, MiB: after 21 epochs / after 1", [last], [first], 1.02, unit=1)


def scaling(options: argparse.Namespace) -> Iterator[Row]:  # noqa: ARG001
    one, two = (throughput(processes) for processes in (1, 2))
    yield compare("samples/s: 2 processes / twice 1 process", [two], [2 * one], unit=1)


def throughput(processes: int) -> float:
    """Return the samples per second of a training in processes of one thread each."""
    root = Path(RUNS) / f"{processes}_processes"
    settings = {
        "data.limit": 7680,
        "data.batch_size": 128 // processes,
        "model.net.name": "SmallCNN",
        "trainer.devices": processes,
        "trainer.strategy": "ddp" if processes > 1 else "auto",
        "trainer.max_epochs": 2,
        "trainer.default_root_dir": root,
    }
    command = [sys.executable, "-m", "src.cli", "fit", *contenders.fit_args(settings)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    newest = max(root.glob("run/version_*/results.json"), key=os.path.getmtime)
    return json.loads(newest.read_text(encoding="utf-8"))["samples_per_second"]


def nets(options: argparse.Namespace) -> Iterator[Row]:
    """Size, operations and time of MobileCNN and SmallCNN of equal width, per 1x28x28 image of a batch of 64."""
    ours, other = (net.to(memory_format=torch.channels_last) for net in (MobileCNN(10), SmallCNN(10)))
    images, targets = torch.randn(64, 1, 28, 28).to(memory_format=torch.channels_last), torch.arange(64) % 10
    yield compare("thousand parameters / SmallCNN", [num_parameters(ours)], [num_parameters(other)], unit=1e-3)
    yield compare("million FLOPs / SmallCNN", [flops(images, ours) / 64], [flops(images, other) / 64], unit=1e-6)
    for name, step in (("forward", predict), ("training step", train)):
        calls = {"ours": partial(step, ours, images, targets), "SmallCNN": partial(step, other, images, targets)}
        rows = time_calls(f"microseconds of {name}", calls, {"SmallCNN": None}, 10 * options.repeats)
        yield from (row | {key: row[key] * 1e3 / 64 for key in ("ours", "other")} for row in rows)


def num_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def flops(images: Tensor, net: nn.Module) -> int:
    """Return the operations of matrix products and convolutions in a forward pass; a multiply-add counts as two."""
    with FlopCounterMode(display=False) as counter:
        net(images)
    return counter.get_total_flops()


def predict(net: nn.Module, images: Tensor, _: Tensor) -> None:
    with torch.inference_mode():
        net.eval()(images)


def train(net: nn.Module, images: Tensor, targets: Tensor) -> None:
    """Compute the gradients of a batch; every optimizer then does the same for any net of this size."""
    cross_entropy(net.train()(images), targets).backward()
    net.zero_grad()


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
    "nets": nets,
    "search": search,
}

if __name__ == "__main__":
    keep_freed_memory()
    main()
