"""Several processes augment a batch like one process."""

import pytest
import torch

from src.data import Digits, RandomCrop, RandomFlip
from src.data.loading.loader import BatchSampler, TensorLoader


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_batches_of_all_processes_are_that_of_one(world_size: int) -> None:
    augment = [RandomFlip(), RandomCrop(2)]
    data = Digits(batch_size=60, augment=augment)
    data.setup("fit")
    train, transform = data.splits["train"], data.batch_transform("train")

    def batches(rank: int, size: int) -> list[tuple[torch.Tensor, ...]]:
        sampler = BatchSampler(len(train), 60 // size, shuffle=True, rank=rank, world_size=size)
        return list(TensorLoader(train, sampler, transform))

    ranks = [batches(rank, world_size) for rank in range(world_size)]
    for whole, *parts in zip(batches(0, 1), *ranks, strict=True):
        assert torch.equal(torch.cat([images for images, _ in parts]), whole[0])
        assert torch.equal(torch.cat([targets for _, targets in parts]), whole[1])


def test_dropout_differs_between_processes() -> None:
    data = Digits(batch_size=60)
    data.setup("fit")
    drawn = []
    for rank in range(2):
        sampler = BatchSampler(1000, 60, shuffle=True, rank=rank, world_size=2)
        next(iter(TensorLoader(data.splits["train"], sampler, data.batch_transform("train"))))
        drawn.append(torch.rand(8))
    assert not drawn[0].equal(drawn[1])
