"""TensorLoader: whole batches, whose content depends on seed, epoch and position alone."""

import os
import signal
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from src import UserError
from src.data.order import Order, seed_of
from src.data.samples import Samples


class TensorLoader:
    """Iterate over batches made on ``device``: images (B, C, H, W) and targets (B,); without targets, images alone.

    An epoch is cut evenly: 1,000 samples at a batch size of 300 make 4 batches of 250. Before each training batch
    torch's generators are seeded from (seed, epoch, batch, rank): augmentation and dropout depend, like the order, on
    the position alone. So the position is all the state, and a continued run goes on to the bit.

    Args:
        samples: what to iterate over.
        order: the positions that each batch consists of.
        prepare: called with images, targets or None, indices (B,) and the epoch; returns what a batch is to be.
        device: where batches are made.
        num_workers: processes that read ahead; by default none for a tensor, for files as many as those say.
    """

    def __init__(
        self,
        samples: Samples,
        order: Order,
        prepare: Callable[[Tensor, Tensor | None, Tensor, int], tuple[Tensor, ...]],
        device: torch.device | str = "cpu",
        num_workers: int | None = None,
    ) -> None:
        self.samples, self.prepare, self.device = samples, prepare, torch.device(device)
        self.sampler = order  # Lightning sets its epoch
        if num_workers is None:
            num_workers = getattr(samples.images, "num_workers", 0)
        self.workers: DataLoader | None = None
        if num_workers > 0:
            self.workers = DataLoader(
                samples,
                batch_size=None,
                sampler=order,
                num_workers=num_workers,
                persistent_workers=True,
                worker_init_fn=leave_signals,
            )
        self.batch_sampler = None  # Lightning asks
        self.position = 0
        self.resumed: dict[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        resumed, self.resumed = self.resumed, None
        inside = resumed is not None and resumed["epoch"] == self.sampler.epoch
        self.position = self.sampler.start = self.same_batches(resumed)["position"] if resumed and inside else 0
        for index, images, *targets in self.fetch():
            if self.sampler.shuffle:
                self.seed_batch()
            self.position += 1
            moved = [*(part.to(self.device) for part in (images, *targets)), None]
            batch = self.prepare(moved[0], moved[1], index, self.sampler.epoch)
            yield batch if targets else batch[0]

    def fetch(self) -> Iterator[Any]:
        try:
            yield from map(self.samples.__getitem__, self.sampler) if self.workers is None else self.workers
        except UserError as error:  # from a worker it comes with a traceback in its text
            raise UserError(str(error).splitlines()[-1].removeprefix("src.UserError: ")) from None

    def seed_batch(self) -> None:
        seed = seed_of(self.sampler.seed, self.sampler.epoch, self.position, self.sampler.rank)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 75 us, spent on absent devices
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        order = self.sampler
        state: dict[str, Any] = {"num_samples": order.num_samples, "num_batches": order.num_batches, "seed": order.seed}
        state["sampling"] = order.sampling
        return {"epoch": order.epoch, "position": self.position, **state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at the stored position; ``__iter__`` checks that it is one in the same batches."""
        self.resumed = state if state["position"] not in (0, state["num_batches"]) else None

    def same_batches(self, state: dict[str, Any]) -> dict[str, Any]:
        now = self.state_dict()
        changed = [key for key in now if key not in ("epoch", "position") and state.get(key, now[key]) != now[key]]
        if changed:
            details = ", ".join(f"{key} was {state[key]}, is {now[key]}" for key in changed)
            raise UserError(
                f"cannot continue in the middle of epoch {state['epoch']}: {details}; restore the old setting"
            )
        return state


def leave_signals(worker: int) -> None:  # noqa: ARG001
    """Leave to the main process what is sent to all of them, such as Ctrl-C, but end when it asks for that itself."""
    for name in ("SIGINT", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS, where SIGTERM ends a worker whoever sends it
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        Thread(target=end_when_asked, daemon=True).start()


def end_when_asked() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
