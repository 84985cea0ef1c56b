"""Signals: how a run that is asked to end ends."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from src.callbacks.checkpoints import LastCheckpoint, may_save

ASKING = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
START = "_call_children_scripts"  # Lightning's, which starts the other processes


class Signals(Callback):
    """Answer SIGTERM, SIGINT, SIGHUP and SIGUSR1: finish the step, save, end with exit code 128 + the signal's number.

    On the last batch of an epoch its validation is finished too. A second signal, a second later, is obeyed at once,
    as is the first while a single process does not train yet. All processes of a run leave after the same step: on a
    CPU they agree after each one, on GPUs, which would have to wait, each time that something was logged. Under SLURM,
    SIGUSR1 (``--signal=SIGUSR1@60``) also puts the job into the queue again.

    Args:
        last: where to save; None where nothing is saved.
    """

    def __init__(self, last: LastCheckpoint | None) -> None:
        self.last, self.got, self.when, self.began = last, 0, 0.0, False

    @contextmanager
    def answered(self, trainer: Trainer) -> Iterator[None]:
        """Handle signals while training.

        Processes that Lightning starts begin with these signals held back, until they can answer.
        """
        self.trainer, self.pid = trainer, os.getpid()
        heard = [number for number in ASKING if signal.getsignal(number) not in (signal.SIG_IGN, None)]  # not of nohup
        main_thread = threading.current_thread() is threading.main_thread()
        before = {number: signal.signal(number, self.receive) for number in heard} if main_thread else {}
        hold(signal.SIG_UNBLOCK)
        launcher: Any = trainer.strategy.launcher
        if hasattr(launcher, START):
            setattr(launcher, START, partial(held, getattr(launcher, START)))
        try:
            yield
            if self.got:  # too late for a hook
                raise SystemExit(128 + self.got)
        except Exception as error:
            for process in self.others():  # they would wait for this one
                process.kill()
            if self.got and "DataLoader worker" in str(error):  # the signal went to workers too
                raise SystemExit(128 + self.got) from None
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def others(self) -> list[Any]:
        """Return the processes that this one started."""
        return getattr(self.trainer.strategy.launcher, "procs", [])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if trainer.world_size == 1:
            self.on_train_batch_end = None  # type: ignore[method-assign,assignment]  # costs no step until asked

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.began = True

    def receive(self, number: int, frame: Any) -> None:  # noqa: ARG002
        if os.getpid() != self.pid:  # a worker of a DataLoader, which ends with this process
            return
        if self.got and time.monotonic() - self.when < 1:  # torchrun passes on what went to all
            return
        if self.got:
            for process in self.others():
                process.kill()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.got, self.when = number, time.monotonic()
        if not self.began and self.trainer.world_size == 1:
            raise SystemExit(128 + number)
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
        self.others().clear()  # of which Lightning kills this process when one has ended
        trainer.strategy.barrier()
        raise SystemExit(128 + self.got)


def leave_to_python(trainer: Trainer) -> None:
    """Keep Lightning from handling signals: it swallows SIGTERM, or exits with 0, or hangs."""
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def held(start: Callable[[], None]) -> None:
    hold(signal.SIG_BLOCK)
    try:
        start()
    finally:
        hold(signal.SIG_UNBLOCK)


def hold(how: int) -> None:
    """Hold signals back, also from processes that are started, or let them come; Windows does neither."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(how, ASKING)
