"""Timing: how long the variants of a model take, on one thread of the CPU."""

import statistics
import time

import numpy as np
import torch

from src.commands.exports.files import Session
from src.runs.summary import Rows

ROUNDS, SECONDS = 50, 1.0  # of each batch size, at most
Times = dict[str, dict[str, float]]  # milliseconds of a batch, by variant and by size


def time_sessions(sessions: dict[str, Session], pictures: np.ndarray) -> Times:
    """Return the median milliseconds of each session for one picture and for 64, measured in turns on one thread."""
    threads, found = torch.get_num_threads(), {name: {} for name in sessions}  # type: ignore[var-annotated]
    torch.set_num_threads(1)
    try:
        for size in (1, 64):
            batch = np.resize(pictures, (size, *pictures.shape[1:]))
            rounds: dict[str, list[float]] = {name: [] for name in sessions}
            end = time.perf_counter() + SECONDS * len(sessions)
            for i in range(ROUNDS):
                for name, session in sessions.items():
                    start = time.perf_counter()
                    session(batch)
                    rounds[name].append((time.perf_counter() - start) * 1000)
                if i and time.perf_counter() > end:
                    break
            for name, each in rounds.items():
                found[name][str(size)] = round(statistics.median(each[1:]), 4)
    finally:
        torch.set_num_threads(threads)
    return found


def time_table(times: Times) -> Rows:
    """Return a row for each variant, with milliseconds of a batch of 1 and of 64 and their ratio to the first."""
    base = next(iter(times.values()))
    rows = [("ms on one thread", f"{'batch 1':>10}{'':8}{'batch 64':>10}")]
    for name, each in times.items():
        cells = [f"{each[size]:>10.3f}  {each[size] / base[size]:>4.2f} x" for size in ("1", "64")]
        rows.append((name, "".join(cells)))
    return rows


def slower(times: Times, name: str) -> list[str]:
    """Return a warning for each batch size at which a smaller model is not faster than a larger one."""
    option = "--quantize" if name.endswith("int8") else "--prune"
    text = "{} is not faster than {} for a batch of {}: {:.3f} ms instead of {:.3f} ms; export without {}"
    pairs = [(other, size) for other in times if other not in ("torch", name) for size in ("1", "64")]
    found = [(other, size, times[name][size], times[other][size]) for other, size in pairs]
    return [text.format(name, other, size, ms, base, option) for other, size, ms, base in found if ms >= base]
