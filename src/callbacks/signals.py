"""Signals: how a run that is asked to end ends."""

import os
import signal
import subprocess
import threading
from contextlib import suppress
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from src.callbacks.checkpoints import LastCheckpoint, may_save

ASKING = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]


class Signals(Callback):
    """Answer SIGTERM, SIGINT, SIGHUP and SIGUSR1: finish the step, save, end with exit code 128 + the signal's number.

    On the last batch of an epoch its validation is finished too. A second signal is obeyed at once. All processes of a
    run leave after the same step: on a CPU they agree after each one, on GPUs, which would have to wait, each time that
    something was logged. Under SLURM, SIGUSR1 (``--signal=SIGUSR1@60``) also puts the job into the queue again.

    Args:
        last: where to save; None where nothing is saved.
    """

    def __init__(self, last: LastCheckpoint | None) -> None:
        self.last, self.got = last, 0

    def install(self, *args: Any) -> None:  # noqa: ARG002
        """Take the place of Lightning's handlers, which exit with 0 and, in one process of several, hang."""
        if threading.current_thread() is threading.main_thread():
            for number in ASKING:
                signal.signal(number, self.receive)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if trainer.world_size == 1:
            self.on_train_batch_end = None  # type: ignore[method-assign,assignment]  # costs no step until asked

    on_sanity_check_start = on_train_start = install  # type: ignore[assignment]  # both come after Lightning has installed its own

    def receive(self, number: int, frame: Any) -> None:  # noqa: ARG002
        if self.got:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.got = number
        vars(self).pop("on_train_batch_end", None)

    def asked(self, trainer: Trainer) -> bool:
        device, pause = trainer.strategy.root_device, max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if trainer.world_size > 1 and (device.type == "cpu" or (trainer.global_step - 1) % pause == 0):
            self.got = int(trainer.strategy.reduce(torch.tensor(self.got, device=device), reduce_op="max"))
            return self.got > 0
        return trainer.world_size == 1 and self.got > 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:  # noqa: ARG002
        if may_save(trainer) and self.asked(trainer):
            if self.last is not None:
                self.last.save(trainer)
            self.leave(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if self.asked(trainer):
            self.leave(trainer)

    on_train_end = on_train_epoch_start

    def leave(self, trainer: Trainer) -> None:
        if self.last is not None:
            self.last.publish(trainer)
        job, array = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_JOB_ID")
        if job and self.got == getattr(signal, "SIGUSR1", None) and trainer.is_global_zero:
            job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else job
            with suppress(OSError):  # there may be no such command, as in a container
                subprocess.run(["scontrol", "requeue", job], check=False)
        raise SystemExit(128 + self.got)
