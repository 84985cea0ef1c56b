"""Processes that read batches ahead: what they send back, and which signals end them."""

import os
import pickle
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from threading import Thread

import torch
from torch import Tensor


@dataclass
class Packed:
    """A batch that a worker has pickled itself: an error in the thread of its queue would let the main process hang."""

    content: bytes

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> "Packed":
        try:  # in shared memory
            return cls(bytes(ForkingPickler.dumps(tensors)))
        except (OSError, RuntimeError):  # no shared memory or file descriptor is left: through the pipe
            return cls(pickle.dumps([tensor.numpy() for tensor in tensors]))

    def unpack(self) -> list[Tensor]:
        return [torch.as_tensor(each) for each in pickle.loads(self.content)]

    def pin_memory(self) -> list[Tensor]:  # called by torch
        return [tensor.pin_memory() for tensor in self.unpack()]


def ignore_group_signals(worker: int) -> None:  # noqa: ARG001
    """Ignore signals sent to the whole process group (Ctrl-C); exit only on SIGTERM from the parent."""
    for name in ("SIGINT", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # absent on macOS, where any SIGTERM ends a worker
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        Thread(target=exit_on_parent_sigterm, daemon=True).start()


def exit_on_parent_sigterm() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
