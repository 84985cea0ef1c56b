"""WindowedOrder: each sample once, many shards in a batch, few of them open, the same for any number of processes."""

import numpy as np
import pytest
import torch

from src.data.loading.loader import BatchSampler, TensorLoader
from src.data.loading.splits import Samples
from src.data.loading.windows import WindowedOrder, shares


def sampler(order: WindowedOrder, batch_size: int, rank: int = 0, world_size: int = 1) -> BatchSampler:
    made = BatchSampler(int(order.sizes.sum()), batch_size, shuffle=True, seed=3, rank=rank, world_size=world_size)
    made.windows = order
    return made


@pytest.mark.parametrize(
    ("sizes", "window"), [([7], 64), ([5] * 100, 64), ([1, 30, 2, 9], 3), ([4] * 65, 64), ([3, 5, 8] * 9, 7)]
)
def test_an_epoch_has_each_sample_once_in_even_batches(sizes: list[int], window: int) -> None:
    batches = [*sampler(WindowedOrder(torch.tensor(sizes), window), 11)]
    assert torch.cat(batches).sort().values.tolist() == [*range(sum(sizes))]
    assert {len(batch) for batch in batches} <= {sum(sizes) // len(batches), sum(sizes) // len(batches) + 1}


def test_an_epoch_resumes_at_any_batch() -> None:
    order = WindowedOrder(torch.tensor([3, 5, 8] * 9), 7)
    whole = [batch.tolist() for batch in order.batches(0, 1, 20)]
    for start in range(20):
        assert [batch.tolist() for batch in order.batches(0, 1, 20, start)] == whole[start:]


def test_seed_and_epoch_change_the_order() -> None:
    order = WindowedOrder(torch.tensor([20] * 9), 4)
    drawn = {str([batch.tolist() for batch in order.batches(*key, 5)]) for key in ((0, 0), (0, 1), (1, 0))}
    assert len(drawn) == 3


def test_shares_are_those_of_all_samples_sorted_by_when_they_are_due() -> None:
    lengths, phases = np.array([3, 50, 1, 17, 29]), np.array([0.0, 0.9, 0.5, 0.2, 0.7])
    due = sorted(
        ((j + phase) / length, k)
        for k, (length, phase) in enumerate(zip(lengths, phases, strict=True))
        for j in range(length)
    )
    for stop in range(101):
        counts = np.bincount([k for _, k in due[:stop]], minlength=5)
        assert shares(lengths, phases, stop).tolist() == counts.tolist()


def test_a_batch_has_samples_of_all_shards_of_the_window_and_of_no_other() -> None:
    order = WindowedOrder(torch.full((40,), 100), 16)
    opened: list[set[int]] = [{*(batch // 100).tolist()} for batch in order.batches(0, 0, 4000 // 64)]
    assert np.mean([len(shards) for shards in opened]) >= 0.95 * 16
    last = {shard: i for i, shards in enumerate(opened) for shard in shards}
    first = {shard: i for i, shards in reversed([*enumerate(opened)]) for shard in shards}
    counts = [sum(first[shard] <= i <= last[shard] for shard in last) for i in range(len(opened))]
    assert max(counts) <= 32  # when all streams begin their next shard
    assert np.median(counts) <= 16


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_the_batches_of_one_process_and_its_state(ranks: int) -> None:
    order = WindowedOrder(torch.full((24,), 20), 8)
    samples = Samples(torch.arange(480), None)

    def loader(rank: int, world_size: int) -> TensorLoader:
        return TensorLoader(samples, sampler(order, 32 // world_size, rank, world_size), lambda images, *_: (images,))

    one = loader(0, 1)
    whole = [batch.tolist() for batch in one]
    stopped = iter(one)
    for _ in range(6):
        next(stopped)
    rest = []
    for rank in range(ranks):
        resumed = loader(rank, ranks)
        resumed.load_state_dict(one.state_dict())
        rest.append([batch.tolist() for batch in resumed])
    assert [[i for part in parts for i in part] for parts in zip(*rest, strict=True)] == whole[6:]


def test_ranks_read_shards_of_their_own() -> None:
    order = WindowedOrder(torch.full((64,), 50), 8)
    read = [{*(torch.cat([*sampler(order, 16, rank, 2)]) // 50).tolist()} for rank in range(2)]
    assert len(read[0] & read[1]) <= 64 // 8  # at the border between the two


def test_many_shards_start_without_an_order_of_all_samples() -> None:
    order = WindowedOrder(torch.full((100_000,), 9_000), 64)
    batch = next(order.batches(0, 0, 9_000 * 100_000 // 256, 3_000_000))
    assert len({*(batch // 9_000).tolist()}) == 64
