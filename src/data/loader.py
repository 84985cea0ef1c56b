"""TensorLoader: whole batches, in an order that depends on seed and epoch alone."""

import os
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from src import UserError
from src.data.samples import Samples


class Order(Sampler):
    """Positions (B,) of the samples of each batch of one epoch and one process; every sample is used once."""

    def __init__(self, num_samples: int, batch_size: int, shuffle: bool, seed: int, rank: int, world_size: int) -> None:
        self.num_samples, self.shuffle, self.seed = num_samples, shuffle, seed
        self.rank, self.world_size = rank, world_size
        wanted = -(-num_samples // (batch_size * world_size))
        self.num_batches = min(wanted, max(1, num_samples // world_size))  # so that no process has an empty batch
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.arange(self.num_samples)
        if self.shuffle:
            order = torch.randperm(
                self.num_samples, generator=torch.Generator().manual_seed(mix(self.seed, self.epoch))
            )
        for batch in order.tensor_split(self.num_batches)[self.start :]:
            yield batch[self.rank :: self.world_size]


class TensorLoader:
    """Iterate over batches made on ``device``: images (B, C, H, W) and targets (B,); without targets, images alone.

    An epoch is cut evenly: 1,000 samples at a batch size of 300 make 4 batches of 250. Before each training batch
    torch's generators are seeded from (seed, epoch, batch, rank): augmentation and dropout depend, like the order, on
    the position alone. So the position is all the state, and a continued run goes on to the bit.

    Args:
        samples: what to iterate over.
        batch_size: most samples per batch and process.
        transform: applied to the images of each batch.
        shuffle: draw a new order each epoch and seed each batch.
        seed: seed of the order and of the batches.
        device: where batches are made.
        rank: which of the processes this is.
        world_size: number of processes.
        num_workers: processes that read ahead; by default none for a tensor, for files as many as there are cores.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        transform: Callable[[Tensor], Tensor],
        shuffle: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        num_workers: int | None = None,
    ) -> None:
        self.transform, self.device = transform, torch.device(device)
        self.sampler = Order(len(samples), batch_size, shuffle, seed, rank, world_size)  # Lightning sets its epoch
        if num_workers is None:
            num_workers = 0 if isinstance(samples.images, Tensor) else min(8, os.cpu_count() or 1)
        self.batches: DataLoader = DataLoader(
            samples, batch_size=None, sampler=self.sampler, num_workers=num_workers, persistent_workers=num_workers > 0
        )
        self.batch_sampler = None  # Lightning asks
        self.position = 0
        self.resumed: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        resumed, self.resumed = self.resumed, None
        inside = resumed is not None and resumed["epoch"] == self.sampler.epoch
        self.position = self.sampler.start = self.same_batches(resumed)["position"] if resumed and inside else 0
        for images, *targets in self.fetch():
            if self.sampler.shuffle:
                self.seed_batch()
            self.position += 1
            images = self.transform(images.to(self.device))
            yield (images, targets[0].to(self.device)) if targets else images

    def fetch(self) -> Iterator[Any]:
        try:
            yield from self.batches
        except UserError as error:  # from a worker it comes with a traceback in its text
            raise UserError(str(error).splitlines()[-1].removeprefix("src.UserError: ")) from None

    def seed_batch(self) -> None:
        seed = mix(self.sampler.seed, self.sampler.epoch, self.position, self.sampler.rank)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 75 us, spent on absent devices
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def state_dict(self) -> dict[str, int]:
        order = self.sampler
        state = {"num_samples": order.num_samples, "num_batches": order.num_batches, "seed": order.seed}
        return {"epoch": order.epoch, "position": self.position, **state}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on at the stored position; ``__iter__`` checks that it is one in the same batches."""
        self.resumed = state if state["position"] not in (0, state["num_batches"]) else None

    def same_batches(self, state: dict[str, int]) -> dict[str, int]:
        now = self.state_dict()
        changed = [key for key in ("num_samples", "num_batches", "seed") if state[key] != now[key]]
        if changed:
            details = ", ".join(f"{key} was {state[key]}, is {now[key]}" for key in changed)
            raise UserError(
                f"cannot continue in the middle of epoch {state['epoch']}: {details}; restore the old setting"
            )
        return state


def mix(*key: int) -> int:
    """Return a 63-bit seed from integers, the same on every machine."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "little") >> 1
