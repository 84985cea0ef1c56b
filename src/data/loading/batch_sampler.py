"""Order: which samples each batch of an epoch holds."""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import Sampler

Sampling = Literal["shuffled", "weighted", "balanced"]


class Order(Sampler):
    """Positions (B,) of the samples of each batch of one epoch and one process, a function of seed and epoch alone.

    Args:
        num_samples: number of samples, and of those drawn in an epoch.
        batch_size: most samples per batch and process.
        shuffle: whether each epoch has an order of its own.
        seed: seed of the orders.
        rank: which of the processes this is.
        world_size: number of processes.
        classes: class of each sample, (N,).
        sampling: ``shuffled``: each sample once an epoch; ``weighted``: each class equally likely, so that samples of a
            small class are repeated, those of a large one partly left out; ``balanced``: equally many of each class in
            each batch too, to within two.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        classes: Tensor | None = None,
        sampling: Sampling = "shuffled",
    ) -> None:
        if sampling not in get_args(Sampling):
            raise ValueError(f"sampling must be one of {', '.join(get_args(Sampling))}, got {sampling}")
        self.num_samples, self.shuffle, self.seed = num_samples, shuffle, seed
        self.rank, self.world_size, self.sampling = rank, world_size, sampling
        wanted = -(-num_samples // (batch_size * world_size))
        self.num_batches = min(wanted, max(1, num_samples // world_size))  # so that no process has an empty batch
        evened = [] if classes is None or not shuffle or sampling == "shuffled" else classes.unique()
        self.members = [(classes == k).nonzero()[:, 0] for k in evened]
        self.epoch = self.start = 0
        self.frozen = False  # whether every epoch is the first one

    def set_epoch(self, epoch: int) -> None:
        self.epoch = 0 if self.frozen else epoch

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
        if not self.shuffle:
            order = torch.arange(self.num_samples)
        elif self.members:
            order = self.evened(generator)
        else:
            order = torch.randperm(self.num_samples, generator=generator)
        for batch in order.tensor_split(self.num_batches)[self.start :]:
            yield batch if self.world_size == 1 else batch.tensor_split(self.world_size)[self.rank]

    def evened(self, generator: torch.Generator) -> Tensor:
        """Return an order in which all classes are equally likely: drawn one by one or, if balanced, in rounds."""
        n, num_classes = self.num_samples, len(self.members)
        if self.sampling == "balanced":
            rounds = torch.rand(-(-n // num_classes), num_classes, generator=generator)
            drawn = rounds.argsort(1).flatten()[:n]
        else:
            drawn = torch.randint(num_classes, (n,), generator=generator)
        order = torch.empty(n, dtype=torch.long)
        for k, members in enumerate(self.members):
            places = (drawn == k).nonzero()[:, 0]
            passes = -(-len(places) // len(members))
            shuffled = [members[torch.randperm(len(members), generator=generator)] for _ in range(passes)]
            order[places] = torch.cat([*shuffled, places[:0]])[: len(places)]
        return order


def seed_of(*key: int) -> int:
    """Return a 63-bit seed from integers, the same on every machine."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "little") >> 1
