"""Launched processes: the error of one ends all of them, with its exit code."""

import os
import subprocess
import time
from threading import Thread

LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")  # of gloo
GRACE = 10  # seconds in which this process notices by itself that another has ended
PROCESSES: list[subprocess.Popen] = []  # launched by this one


def watch(processes: list[subprocess.Popen]) -> None:
    """Replace Lightning's observer, which kills this process with SIGKILL a few seconds after another has failed."""
    PROCESSES[:] = processes
    Thread(target=end_with_the_first, args=(processes,), daemon=True).start()


def end_with_the_first(processes: list[subprocess.Popen]) -> None:
    while processes and any(process.poll() is None for process in processes) and not failed(processes):
        time.sleep(0.2)
    if code := failed(processes):
        time.sleep(GRACE)
        for process in processes:
            process.kill()
        os._exit(code)


def failed(processes: list[subprocess.Popen]) -> int:
    """Return the exit code of a process that failed, as a shell has it, or 0."""
    code = next((process.returncode for process in processes if process.poll()), 0)
    return code if code >= 0 else 128 - code


def code_of_lost_process(error: Exception) -> int | None:
    """Return the exit code of the process whose end caused this error, 2 if it is unknown; None for another error."""
    several = PROCESSES or any(name in os.environ for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    if not several or not isinstance(error, RuntimeError) or not any(text in str(error) for text in LOST):
        return None
    until = time.monotonic() + GRACE / 2
    while PROCESSES and not failed(PROCESSES) and time.monotonic() < until:
        time.sleep(0.1)
    return failed(PROCESSES) or 2
