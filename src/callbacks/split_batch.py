"""Split a batch of nested lists, tuples and dictionaries into micro-batches."""

from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any

from torch import Tensor

from src import UserError


def num_samples(batch: Any) -> int:
    """Return the length N of all tensors of a batch; refuse a batch without tensors or of several lengths."""
    lengths = set(tensor_lengths(batch))
    if len(lengths) != 1:
        raise UserError(f"MicroBatches needs a batch of tensors of one length, got lengths {sorted(lengths)}")
    return lengths.pop()


def tensor_lengths(batch: Any) -> Iterator[int]:
    if isinstance(batch, Tensor) and batch.ndim:
        yield len(batch)
    elif isinstance(batch, Mapping | list | tuple):
        for value in batch.values() if isinstance(batch, Mapping) else batch:
            yield from tensor_lengths(value)


def split_batch(batch: Any, count: int) -> list[Any]:
    """Split a batch of N samples into at most N micro-batches whose lengths differ by at most one.

    Tensors are split along their first dimension; so are lists and tuples of N other values, such as file names.
    """
    n = num_samples(batch)
    count = min(count, n)
    return [take(batch, n, n * i // count, n * (i + 1) // count) for i in range(count)]


def take(batch: Any, n: int, start: int, stop: int) -> Any:
    """Return samples ``start`` to ``stop - 1`` of a batch of n."""
    if isinstance(batch, Tensor):
        return batch[start:stop] if batch.ndim else batch
    if isinstance(batch, Mapping):
        micro_batch: Any = copy(batch)  # of the same class, such as BatchEncoding of transformers
        micro_batch.update({key: take(value, n, start, stop) for key, value in batch.items()})
        return micro_batch
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(take(value, n, start, stop) for value in batch))
    if isinstance(batch, list | tuple):
        per_sample = len(batch) == n and not [*tensor_lengths(batch)]
        return batch[start:stop] if per_sample else type(batch)(take(value, n, start, stop) for value in batch)
    return batch
