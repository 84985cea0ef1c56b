"""The order of samples in shards: mixed over many shards, while few of them are open at a time."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from src.data.loading.loader import derive_seed

BLOCK = 32  # batches that are drawn at once, because a stream takes as long for one sample as for many


class WindowedOrder:
    """Shuffled order of samples in shards with ``sizes`` (S,), about ``window`` of which are open at a time.

    Each epoch deals all shards, shuffled, to ``window`` streams. A stream reads one shard after the other, each in an
    order of its own, and all streams end together. A batch has samples of all streams, sorted by stream, so that
    processes that divide a batch read different shards if their number divides ``window``. The order is a function of
    seed, epoch, sizes and ``window`` alone: the numbers of processes and workers don't matter. Memory and time to start
    depend on the number of shards, because only open shards are shuffled.

    ``positions`` (N,) has the positions of the samples shard by shard, unless these are 0, 1, ...
    """

    def __init__(self, sizes: Tensor, window: int, positions: Tensor | None = None) -> None:
        self.sizes, self.window, self.positions = sizes.numpy(), min(window, len(sizes)), positions
        self.starts = np.cumsum(self.sizes) - self.sizes

    def batches(self, seed: int, epoch: int, num_batches: int, start: int = 0) -> Iterator[Tensor]:
        """Yield the positions (B,) of each batch of an epoch from batch ``start`` on."""
        generator = torch.Generator().manual_seed(derive_seed(seed, epoch))
        dealt = torch.randperm(len(self.sizes), generator=generator).numpy()
        phases = torch.rand(self.window, generator=generator, dtype=torch.float64).numpy()
        streams = [Stream(dealt[k :: self.window], self, (seed, epoch)) for k in range(self.window)]
        lengths = np.array([stream.ends[-1] for stream in streams])
        total = int(lengths.sum())
        read = np.zeros(self.window, np.int64)
        for first in range(start, num_batches, BLOCK):
            index = np.arange(first, min(first + BLOCK, num_batches) + 1)
            ends = index * (total // num_batches) + index.clip(max=total % num_batches)
            block = ends - ends[0]
            before = read if first > start else shares(lengths, phases, int(ends[0]))
            read = shares(lengths, phases, int(ends[-1]))
            positions = np.concatenate([s.read(*x) for s, *x in zip(streams, before, read, strict=True) if x[0] < x[1]])
            due = due_times(lengths, phases, before, read)[1]
            batch = np.empty(len(due), np.int64)
            batch[np.argsort(due, kind="stable")] = np.repeat(np.arange(len(block) - 1), np.diff(block))
            for part in np.split(positions[np.argsort(batch, kind="stable")], block[1:-1]):
                yield torch.from_numpy(part) if self.positions is None else self.positions[torch.from_numpy(part)]


class Stream:
    """Some shards of an epoch, one after the other."""

    def __init__(self, shards: np.ndarray, order: WindowedOrder, key: tuple[int, int]) -> None:
        self.shards, self.order, self.key = shards, order, key
        self.ends = np.cumsum(order.sizes[shards])
        self.open: tuple[int, np.ndarray] = (-1, self.ends[:0])  # place of a shard in the stream, and its samples

    def read(self, first: int, last: int) -> np.ndarray:
        """Return the positions of the samples ``first`` to ``last`` of the stream, without the last."""
        parts, place = [], int(np.searchsorted(self.ends, first, side="right"))
        while first < last:
            if self.open[0] != place:
                shard = int(self.shards[place])
                generator = torch.Generator().manual_seed(derive_seed(*self.key, shard))
                shuffled = torch.randperm(int(self.order.sizes[shard]), generator=generator).numpy()
                self.open = place, shuffled + self.order.starts[shard]
            start = int(self.ends[place]) - len(self.open[1])
            parts.append(self.open[1][first - start : last - start])
            first, place = int(self.ends[place]), place + 1
        return np.concatenate(parts)


def due_times(
    lengths: np.ndarray, phases: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the stream of each of the samples ``low`` to ``high`` (C,) of all streams, and when it is due.

    Sample j of stream c is due at (j + phase) / length, between 0 and 1.
    """
    count = high - low
    stream = np.repeat(np.arange(len(count)), count)
    sample = np.arange(len(stream)) - np.repeat(np.cumsum(count) - count - low, count)
    return stream, (sample + phases[stream]) / lengths[stream]


def shares(lengths: np.ndarray, phases: np.ndarray, stop: int) -> np.ndarray:
    """Return how many samples of each stream (C,) are among the first ``stop`` of all."""
    total, slack = lengths.sum(), phases.sum()
    low, high = (
        np.ceil(lengths * ((stop + margin + slack) / total) - phases).clip(0, lengths).astype(np.int64)
        for margin in (-len(lengths) - 1, 1)
    )  # before and after the first ``stop`` samples
    stream, due = due_times(lengths, phases, low, high)
    first = np.argsort(due, kind="stable")[: stop - low.sum()]
    return low + np.bincount(stream[first], minlength=len(lengths))
