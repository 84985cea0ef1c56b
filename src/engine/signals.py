"""What ends a run: signals, which save and exit, and the limits of the config."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, EarlyStopping, LearningRateFinder, Timer
from lightning.pytorch.strategies.launchers import subprocess_script

from src import UserError
from src.engine.checkpoints import LastCheckpoint
from src.engine.launched import code_of_lost_process, requeue, watch
from src.engine.resume import can_resume_here
from src.runs.summary import print_rows

NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGBREAK")  # Windows lacks two, others the last: Ctrl-Break
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
LAUNCH = "_call_children_scripts"  # Lightning's method that starts the other processes


class Signals(Callback):
    """Answer SIGTERM, SIGINT, SIGHUP and SIGUSR1: finish the step, save, exit with 128 + the signal's number.

    In the last batch of an epoch the validation is finished too. A second signal, more than a second later, ends the
    process at once, as does the first one before training starts, in a single process. All processes of a run stop
    after the same step: on CPUs they agree after each step, on GPUs, which would have to synchronize, once every
    ``log_every_n_steps``. Under SLURM, SIGUSR1 (``--signal=SIGUSR1@60``) also puts the job back into the queue.
    """

    def __init__(self, last: LastCheckpoint | None) -> None:  # None if the run saves nothing
        self.last, self.received, self.when, self.started = last, 0, 0.0, False

    @contextmanager
    def handled(self, trainer: Trainer, install: bool = True) -> Iterator[None]:
        """Handle signals while training, if this process may ``install`` handlers; in a notebook it may not.

        Processes that Lightning launches start with these signals blocked, until they can handle them.
        """
        self.trainer, self.pid = trainer, os.getpid()
        if not install:
            yield
            return
        heard = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]  # nohup
        before = {number: signal.signal(number, self.receive) for number in heard}
        mask("SIG_UNBLOCK")
        launcher: Any = trainer.strategy.launcher
        subprocess_script._launch_process_observer = watch  # type: ignore[assignment]
        if hasattr(launcher, LAUNCH):
            setattr(launcher, LAUNCH, partial(launch_blocked, getattr(launcher, LAUNCH)))
        try:
            yield
            if self.received:  # after the last hook
                raise SystemExit(128 + self.received)
        except Exception as error:
            if (code := code_of_lost_process(error)) is not None:
                raise SystemExit(code) from None
            self.kill_launched()  # they would wait for this one
            if self.received and "DataLoader worker" in str(error):  # the signal reached the workers too
                raise SystemExit(128 + self.received) from None
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def kill_launched(self) -> None:
        for process in getattr(self.trainer.strategy.launcher, "procs", []):
            process.kill()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if trainer.world_size == 1:  # the hook costs nothing until a signal arrives
            self.on_train_batch_end = None  # type: ignore[method-assign,assignment]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.started = True

    def receive(self, number: int, frame: Any) -> None:  # noqa: ARG002
        if os.getpid() != self.pid:  # a DataLoader worker, which ends with this process
            return
        if self.received and time.monotonic() - self.when < 1:  # torchrun forwards what the group received
            return
        if self.received:
            self.kill_launched()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received, self.when = number, time.monotonic()
        if not self.started and self.trainer.world_size == 1:
            raise SystemExit(128 + number)
        vars(self).pop("on_train_batch_end", None)

    def all_asked(self, trainer: Trainer) -> bool:
        """Tell whether the run should end now; the answer is the same on all ranks."""
        device, every = trainer.strategy.root_device, max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if trainer.world_size > 1 and (device.type == "cpu" or (trainer.global_step - 1) % every == 0):
            agreed = int(trainer.strategy.reduce(torch.tensor(self.received, device=device), reduce_op="max"))
            self.received = agreed or self.received  # a signal may arrive meanwhile; the next step agrees on it
            return agreed > 0
        return trainer.world_size == 1 and self.received > 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:  # noqa: ARG002
        if can_resume_here(trainer) and self.all_asked(trainer):
            if self.last is not None:
                self.last.save(trainer)
            self.leave(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if self.all_asked(trainer):
            self.leave(trainer)

    on_train_end = on_train_epoch_start

    def leave(self, trainer: Trainer) -> None:
        if self.last is not None:
            self.last.publish(trainer)
        if signal.Signals(self.received).name == "SIGUSR1" and trainer.is_global_zero:
            requeue()
        getattr(trainer.strategy.launcher, "procs", []).clear()  # or Lightning kills this process when one of them ends
        trainer.strategy.barrier()
        raise SystemExit(128 + self.received)


def disable_lightning_handlers(trainer: Trainer) -> None:
    """Keep Lightning from handling signals: it swallows SIGTERM, exits with 0, or hangs."""
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def launch_blocked(launch: Callable[[], None]) -> None:
    mask("SIG_BLOCK")
    try:
        launch()
    finally:
        mask("SIG_UNBLOCK")


def mask(how: str) -> None:
    if hasattr(signal, "pthread_sigmask"):  # absent on Windows
        signal.pthread_sigmask(getattr(signal, how), SIGNALS)


def restore_limits(trainer: Trainer, stored: dict[str, Any]) -> None:
    """Restore what ``reached_limit`` reads of callbacks, before training does."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        state = stored.get("callbacks", {}).get(callback.state_key)
        if isinstance(callback, Timer | EarlyStopping) and state:
            callback.load_state_dict(state | {"patience": getattr(callback, "patience", 0)})


def reached_limit(trainer: Trainer, epochs: int, steps: int) -> str:
    """Return the Trainer setting that ends a run after so many epochs and steps, or an empty string."""
    if 0 < trainer.max_steps <= steps:
        return "max_steps"
    if 0 < (trainer.max_epochs or -1) <= epochs:
        return "max_epochs"
    early = epochs >= (trainer.min_epochs or 0) and steps >= (trainer.min_steps or 0)
    timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
    spent = [timer for timer in timers if (left := timer.time_remaining()) is not None and left <= 0]
    return "max_time" if early and spent else ""


def tuned_names(trainer: Trainer) -> list[str]:
    """Return the names of the arguments that callbacks may have changed before training."""
    names: list[str] = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, BatchSizeFinder):
            names.append(callback._batch_arg_name)
        if isinstance(callback, LearningRateFinder):
            names += [callback._attr_name] if callback._attr_name else ["lr", "learning_rate"]
    return names


def explain_end(x: Any, error: BaseException, before: dict[Path, bytes]) -> None:
    """Print how to resume if a checkpoint exists; restore an existing run's files from ``before`` a refused start."""
    if not x.trainer.is_global_zero:
        return
    if x.trained and x.run is not None and not x.run.path.is_dir():
        raise UserError(f"the run folder {x.run.path.absolute()} was deleted during training") from error
    asked, how = isinstance(error, SystemExit), "before the first checkpoint: nothing is saved"
    if x.run is not None and before and not x.trained:
        x.run.restore(before)
    if x.run is not None and x.run.has_checkpoint():
        how = f"resume with: python -m src.cli fit {x.run_options()}"
    elif x.run is not None and not before and (asked or not x.trained):
        for logger in x.trainer.loggers:
            logger.finalize("failed")  # closes its files, which Windows could not delete
        x.run.discard()
    if asked or x.trained:
        print_rows([("stopped", how)])
