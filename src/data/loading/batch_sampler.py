"""BatchSampler: which samples form each batch of an epoch."""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import Sampler

from src import require

Sampling = Literal["shuffled", "weighted", "balanced"]


class BatchSampler(Sampler):
    """Yield the sample positions (B,) of each batch for one epoch and process; a function of seed and epoch only.

    An epoch is split evenly: 1,000 samples with batch size 300 make 4 batches of 250.

    Args:
        batch_size: maximum number of samples per batch and process.
        shuffle: draw a new order for each epoch.
        classes: class of each sample (N,); needed unless ``sampling`` is ``shuffled``.
        sampling: ``shuffled``: each sample once per epoch; ``weighted``: each class equally likely, which repeats
            samples of small classes and omits some of large ones; ``balanced``: also equal class counts in each batch,
            to within two.
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
        kinds = get_args(Sampling)
        require(sampling in kinds, f"sampling must be one of {', '.join(kinds)}, got {sampling}")
        self.num_samples, self.shuffle, self.seed = num_samples, shuffle, seed
        self.rank, self.world_size, self.sampling = rank, world_size, sampling
        num_batches = -(-num_samples // (batch_size * world_size))
        self.num_batches = min(num_batches, max(1, num_samples // world_size))  # no process gets an empty batch
        self.members: list[Tensor] = []  # positions of each class
        if classes is not None and shuffle and sampling != "shuffled":
            self.members = [(classes == k).nonzero()[:, 0] for k in classes.unique()]
        self.epoch = self.start = 0
        self.frozen = False  # True: repeat the order of epoch 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = 0 if self.frozen else epoch

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        if not self.shuffle:
            order = torch.arange(self.num_samples)
        elif self.members:
            order = self.class_balanced_order(generator)
        else:
            order = torch.randperm(self.num_samples, generator=generator)
        for batch in order.tensor_split(self.num_batches)[self.start :]:
            yield batch if self.world_size == 1 else batch.tensor_split(self.world_size)[self.rank]

    def class_balanced_order(self, generator: torch.Generator) -> Tensor:
        """Return positions (N,) with equally likely classes, drawn independently or, if balanced, in rounds."""
        n, num_classes = self.num_samples, len(self.members)
        if self.sampling == "balanced":
            drawn = torch.rand(-(-n // num_classes), num_classes, generator=generator).argsort(1).flatten()[:n]
        else:
            drawn = torch.randint(num_classes, (n,), generator=generator)
        order = torch.empty(n, dtype=torch.long)
        for k, members in enumerate(self.members):
            places = (drawn == k).nonzero()[:, 0]
            passes = -(-len(places) // len(members))  # each pass uses every sample of the class once
            shuffled = [members[torch.randperm(len(members), generator=generator)] for _ in range(passes)]
            order[places] = torch.cat([*shuffled, places[:0]])[: len(places)]
        return order


def derive_seed(*key: int) -> int:
    """Hash integers to a 63-bit seed, the same on every machine."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "little") >> 1
