"""Time contenders in turns and compare them, in rows of a table."""

import contextlib
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
from multiprocessing.connection import Connection
from typing import Any
from unittest.mock import patch

from tools import contenders
from tools.workloads import Pixels

Row = dict[str, Any]  # name, ours, other, ratio, goal, met; times in milliseconds


def compare(name: str, ours: list[float], other: list[float], goal: float | None = None, unit: float = 1e3) -> Row:
    """Return a row with the median of each in milliseconds, and the median ratio of pairs of neighbors in time.

    The ratio is not that of the medians, because the speed of a shared machine changes over time.
    """
    a, b = statistics.median(ours) * unit, statistics.median(other) * unit
    ratio = statistics.median(x / y for x, y in zip(ours, other, strict=True))
    return {"name": name, "ours": a, "other": b, "ratio": ratio, "goal": goal, "met": goal is None or ratio <= goal}


def format_row(row: Row) -> str:
    goal = "" if row["goal"] is None else f"{row['goal']:g}{'' if row['met'] else ' missed'}"
    return f"{row['name']:<43}{row['ours']:>9,.2f}{row['other']:>9,.2f} {row['ratio']:5.2f} {goal}".rstrip()


def interleave(repeats: int, runs: Mapping[str, Callable[[], list[float]]]) -> dict[str, list[float]]:
    """Call the runs in turns, and return what each returned over all rounds, without its first value of each round."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            with terminal():
                found[name] += run()[1:]
    return found


def time_calls(
    name: str, calls: Mapping[str, Callable[[], Any]], goals: dict[str, float | None], repeats: int
) -> Iterator[Row]:
    """Call functions in turns; yield a row of the one named ours against each of the others."""
    times: dict[str, list[float]] = {way: [] for way in calls}
    for _ in range(repeats):
        for way, call in calls.items():
            started = time.perf_counter()
            call()
            times[way].append(time.perf_counter() - started)
    for other, goal in goals.items():
        yield compare(f"{name} / {other}", times["ours"], times[other], goal)


def time_training(names: Iterable[str], net: str, batch_size: int, epochs: int, data: Pixels) -> dict[str, list[float]]:
    """Return the seconds per step of each contender in each epoch.

    Each trains in a process of its own, as in real use. They take turns by epochs; the others sleep meanwhile.
    """
    found, connections = dict[str, list[float]](), dict[str, Connection]()
    spawn = multiprocessing.get_context("spawn")
    with terminal(), patch.dict(os.environ):
        for name in names:
            connections[name], other_end = multiprocessing.Pipe()
            os.environ["THP_MEM_ALLOC_ENABLE"] = str(int(name in contenders.OURS))  # read when torch is imported
            args = (other_end, name, net, batch_size, epochs, data)
            spawn.Process(target=contenders.in_turns, args=args, daemon=True).start()
            other_end.close()
        for connection in connections.values():
            connection.recv()
        for _ in range(epochs):
            for name, connection in connections.items():
                connection.send("your turn")
                found[name] = connection.recv()
    return found


def cpu_seconds(args: list[str]) -> list[float]:
    """Start a Python process twice and return its CPU seconds."""
    used = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *args], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return used


@contextlib.contextmanager
def terminal() -> Iterator[None]:
    """Print to a terminal that nobody reads, so that progress bars are drawn, and timed, as in real use."""
    sys.stdout.flush()
    reader, writer = pty.openpty()
    kept = [os.dup(stream) for stream in (1, 2)]
    for stream in (1, 2):
        os.dup2(writer, stream)
    threading.Thread(target=drain, args=(reader,), daemon=True).start()
    try:
        yield
    finally:
        sys.stdout.flush()
        for stream, before in zip((1, 2), kept, strict=True):
            os.dup2(before, stream)
            os.close(before)
        os.close(writer)


def drain(reader: int) -> None:
    with contextlib.suppress(OSError):  # the other end was closed
        while os.read(reader, 65536):
            pass
    os.close(reader)
