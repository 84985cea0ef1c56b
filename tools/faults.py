"""Do to real runs what happens to runs, and count how many survive.

python -m tools.faults [PROMISE[=TRIES] ...] [--seed S]

Faults that need a file system of their own (disk) are left out if this process may not mount one.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from tools.bad_inputs import doors, inputs
from tools.bad_pictures import pictures
from tools.interruptions import asked, asked_ranks, killed, own, ranks, sharded, shards
from tools.mutations import edited, mutated, redrawn
from tools.steps import memory, numbers
from tools.storage import damage, damaged_shards, disk, saving, together
from tools.studies import searched

ALL = 999  # more than there are: each is tried once
PROMISES: dict[str, tuple[int, Callable[[int, random.Random, Path], Iterator[str]]]] = {
    "killed": (200, killed),
    "asked": (50, asked),
    "own": (20, own),
    "saving": (100, saving),
    "disk": (20, disk),
    "damage": (250, damage),
    "numbers": (21, numbers),
    "together": (8, together),
    "memory": (20, memory),
    "shards": (50, shards),
    "damaged_shards": (100, damaged_shards),
    "ranks": (20, ranks),
    "sharded": (20, sharded),
    "asked_ranks": (50, asked_ranks),
    "searched": (50, searched),
    "inputs": (ALL, inputs),
    "pictures": (ALL, pictures),
    "doors": (ALL, doors),
    "mutated": (500, mutated),
    "edited": (200, edited),
    "redrawn": (10_000, redrawn),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("promises", nargs="*", metavar="PROMISE[=TRIES]", help=f"by default all: {', '.join(PROMISES)}")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chosen = dict(promise.partition("=")[::2] for promise in options.promises or PROMISES)
    if unknown := [name for name, tries in chosen.items() if name not in PROMISES or not (tries or "1").isdecimal()]:
        parser.error(f"unknown promise {', '.join(unknown)}: choose from {', '.join(PROMISES)}, such as killed=5")
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in background jobs
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
    Path("runs").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir="runs")).absolute()
    survived = True
    try:
        for name, tries in chosen.items():
            survived &= count(name, int(tries or PROMISES[name][0]), random.Random(options.seed), folder)
    finally:
        if survived:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"the runs that did not survive are in {folder}")  # noqa: T201
    sys.exit(0 if survived else 1)


def count(name: str, tries: int, draw: random.Random, folder: Path) -> bool:
    """Try one promise and print how often it was kept; tell whether it always was."""
    promise, results = PROMISES[name][1], []
    for wrong in promise(tries, draw, folder / name):
        results.append(wrong)
        if wrong:
            print(f"  {name}: {wrong}", flush=True)  # noqa: T201
    print(f"{results.count('')} of {len(results)} {name}: {promise.__doc__}", flush=True)  # noqa: T201
    return not any(results)


if __name__ == "__main__":
    main()
