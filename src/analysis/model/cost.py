"""What a training step costs: seconds, and memory as a function of the batch size."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from src.analysis.model.spies import SavedBytes
from src.analysis.model.subject import Subject, pick, samples, tensors

MEBI = 2**20
TEMPORARY = 0.1  # of what is kept for backward


def seconds_per_step(s: Subject, batch: Any, limit: float = 1.0, most: int = 20) -> tuple[float, bool]:
    """Return the seconds of a step, and whether they were measured on the whole batch.

    If it would take longer than ``limit``, they are extrapolated from the small batch and half of it.
    """
    n, small = samples(batch), samples(s.batch)
    with s.unchanged():
        low, high = (timed(s.step, each, 1) for each in halves(s, small))
        expected = high + max(0.0, high - low) / max(1, small - small // 2) * (n - small)
        if n > small and expected >= limit:
            return expected, False
        once = timed(s.step, batch, 1)
        return timed(s.step, batch, max(1, min(most, int(limit / max(once, 1e-6)) - 1))), True


def halves(s: Subject, n: int) -> tuple[Any, Any]:
    """Return half of the small batch, in memory of its own, and all of it."""
    return pick(s.batch, n, torch.arange(max(1, n // 2))), s.batch


def timed(step: Callable[[Any], Any], batch: Any, repeats: int) -> float:
    """Return the mean seconds of a step; the first of a size allocates memory, so it is not counted."""
    step(batch)
    start = perf_counter()
    for _ in range(repeats):
        step(batch)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (perf_counter() - start) / repeats


def memory_by_batch(s: Subject) -> tuple[float, float]:
    """Return the bytes that a step needs whatever its batch, and those for each sample.

    Parameters, gradients and the state of the optimizers; then what autograd keeps for backward, from two batch sizes,
    and TEMPORARY times as much for gradients of activations and workspaces.
    """
    n, saved = samples(s.batch), SavedBytes(s.module)
    with s.unchanged():
        low, high = (saved.of(partial(s.loss, each)) for each in halves(s, n))
        s.step(s.batch)
        fixed = sum(each.nbytes for optimizer in s.optimizers for each in tensors([*optimizer.state.values()]))
        fixed += sum((1 + p.requires_grad) * p.nbytes for p in s.module.parameters())
    slope = max(0.0, (high - low) / max(1, n - n // 2))
    return fixed + max(0.0, high - slope * n), slope * (1 + TEMPORARY)


def free_memory(device: torch.device) -> float | None:
    """Return the bytes that a process can still use: of the GPU or of the machine or its container."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    info = Path("/proc/meminfo")
    kibi = re.findall(r"^MemAvailable:\s*(\d+)", info.read_text(encoding="utf-8"), re.M) if info.is_file() else []
    found = [int(each) * 1024 for each in kibi]
    limit, used = (Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory.current"))
    if limit.is_file() and used.is_file() and limit.read_text(encoding="utf-8").strip().isdigit():
        found.append(int(limit.read_text(encoding="utf-8")) - int(used.read_text(encoding="utf-8")))
    return min(found, default=None)


def clock(seconds: float) -> str:
    """Return hours and minutes, or minutes and seconds below an hour."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {whole % 60:02} s"
