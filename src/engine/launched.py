"""Launched processes: the error of one ends all of them, with its exit code; they draw the same seed. Jobs of SLURM."""

import os
import subprocess
import time
from contextlib import suppress
from hashlib import sha256
from threading import Thread
from typing import Any

LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")  # of gloo
GRACE = 10  # seconds in which this process notices by itself that another has ended
PROCESSES: list[subprocess.Popen] = []  # launched by this one


def synchronize_only_on_gpus(trainer: Any) -> None:
    """Drop the synchronization of batch norm over processes on CPUs, for which torch has none."""
    if trainer.strategy.root_device.type == "cpu":
        trainer.strategy._layer_sync = None


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


def random_seed() -> int:
    """Draw a seed that is the same in all processes of a run."""
    if "PL_GLOBAL_SEED" in os.environ and "LOCAL_RANK" in os.environ:  # the parent process drew it
        return int(os.environ["PL_GLOBAL_SEED"])
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
    job = [os.environ.get(name, "") for name in names]
    size = os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))
    one_node = os.environ.get("LOCAL_WORLD_SIZE", size) == size and os.environ.get("SLURM_NNODES", "1") == "1"
    launcher = os.getppid() if one_node else 0  # each node has a launcher of its own
    key = repr([*job, launcher]).encode() if int(size) > 1 else os.urandom(8)
    return int.from_bytes(sha256(key).digest()[:4], "big")


def requeue() -> None:
    """Put the SLURM job back into the queue, if there is one."""
    job, array = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else job
    if job:
        with suppress(OSError):  # a container may lack the command
            subprocess.run(["scontrol", "requeue", job], check=False)
