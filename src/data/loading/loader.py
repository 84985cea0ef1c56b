"""TensorLoader: batches that depend only on seed, epoch and position."""

import os
import signal
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from src import UserError, require
from src.data.loading.batch_sampler import BatchSampler, derive_seed
from src.data.loading.splits import Samples

Transform = Callable[[Tensor, Tensor | None, Tensor, int], tuple[Tensor, ...]]
SETTINGS = ("num_samples", "num_batches", "seed", "sampling")  # of the sampler: they define the batches of an epoch


class TensorLoader:
    """Iterate over batches on ``device``: images (B, C, H, W) with their targets, or images only without targets.

    Before each training batch, torch's generators are seeded from (seed, epoch, batch, rank), so augmentation and
    dropout depend only on the position, like the order of samples. The position is therefore the only state, and an
    interrupted epoch resumes bit for bit. ``samples.images.num_workers`` processes, if any, read ahead.

    ``transform`` is called with images, targets or None, dataset indices (B,) and the epoch; it returns the batch.
    """

    def __init__(
        self, samples: Samples, batch_sampler: BatchSampler, transform: Transform, device: torch.device | str = "cpu"
    ) -> None:
        self.samples, self.transform, self.device = samples, transform, torch.device(device)
        self.sampler = batch_sampler  # Lightning sets its epoch under this name
        self.batch_sampler = None  # Lightning reads it
        self.position = 0
        self.resume_state: dict[str, Any] | None = None
        self.workers: DataLoader | None = None
        if num_workers := getattr(samples.images, "num_workers", 0):
            settings: dict[str, Any] = {"persistent_workers": True, "worker_init_fn": ignore_group_signals}
            self.workers = DataLoader(samples, None, sampler=batch_sampler, num_workers=num_workers, **settings)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        state, self.resume_state = self.resume_state, None
        self.position = 0
        if state is not None and state["epoch"] == self.sampler.epoch:
            self.check_same_batches(state)
            self.position = state["position"]
        self.sampler.start = self.position
        for index, images, *targets in self.fetch():
            if self.sampler.shuffle:
                self.seed_batch()
            self.position += 1
            moved = [*(tensor.to(self.device) for tensor in (images, *targets)), None]
            batch = self.transform(moved[0], moved[1], index, self.sampler.epoch)
            yield batch if targets else batch[0]

    def fetch(self) -> Iterator[Any]:
        try:
            yield from map(self.samples.__getitem__, self.sampler) if self.workers is None else self.workers
        except UserError as error:  # a worker's error has its traceback in the text
            raise UserError(str(error).splitlines()[-1].removeprefix("src.UserError: ")) from None

    def seed_batch(self) -> None:
        seed = derive_seed(self.sampler.seed, self.sampler.epoch, self.position, self.sampler.rank)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed spends 75 us on absent devices
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        settings = {name: getattr(self.sampler, name) for name in SETTINGS}
        return {"epoch": self.sampler.epoch, "position": self.position, **settings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume at the stored position; ``__iter__`` checks that the epoch consists of the same batches."""
        self.resume_state = state if state["position"] not in (0, state["num_batches"]) else None

    def check_same_batches(self, state: dict[str, Any]) -> None:
        now = self.state_dict()
        changed = [f"{key} was {state[key]}, is {now[key]}" for key in SETTINGS if state.get(key, now[key]) != now[key]]
        details = f"{', '.join(changed)}; restore the setting"
        require(not changed, f"cannot resume in the middle of epoch {state['epoch']}: {details}")


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
