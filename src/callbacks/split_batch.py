"""Split a batch of nested lists, tuples and dictionaries into micro-batches."""

from typing import Any

from src import require
from src.analysis.model.subject import pick, tensors


def num_samples(batch: Any) -> int:
    """Return the length N of all tensors of a batch; refuse a batch without tensors or of several lengths."""
    lengths = sorted({len(each) for each in tensors(batch) if each.ndim})
    require(len(lengths) == 1, f"MicroBatches needs a batch of tensors of one length, got lengths {lengths}")
    return lengths[0]


def split_batch(batch: Any, count: int) -> list[Any]:
    """Split a batch of N samples into at most N micro-batches whose lengths differ by at most one.

    Tensors are split along their first dimension; so are lists and tuples of N other values, such as file names.
    """
    n = num_samples(batch)
    count = min(count, n)
    return [pick(batch, n, slice(n * i // count, n * (i + 1) // count)) for i in range(count)]
