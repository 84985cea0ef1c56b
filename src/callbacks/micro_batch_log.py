"""Merge what a training step logs for each micro-batch into one value per batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class MicroBatchLog:
    """The values that a training step logged for the micro-batches of one batch.

    Lightning would count each micro-batch as a batch, and average those that run in ``backward`` separately.
    """

    def __init__(self) -> None:
        self.entries: dict[str, list[tuple[float, Any, tuple[Any, ...], dict[str, Any]]]] = {}

    @torch.compiler.disable
    def record(self, weight: float, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Keep the arguments of ``LightningModule.log`` for a micro-batch with this weight in the loss, in [0, 1]."""
        value = value.detach() if isinstance(value, Tensor) else value
        self.entries.setdefault(name, []).append((weight, value, args, kwargs))

    def write(self, log: Callable[..., None]) -> None:
        """Call ``LightningModule.log`` once for each name."""
        for name, entries in self.entries.items():
            weights, values, args, kwargs = zip(*entries, strict=True)
            sizes = [each["batch_size"] for each in kwargs if each.get("batch_size") is not None]
            options = kwargs[-1] | ({"batch_size": sum(sizes)} if sizes else {})
            log(name, merge(weights, values, options.get("reduce_fx", "mean")), *args[-1], **options)
        self.entries = {}


def merge(weights: tuple[float, ...], values: tuple[Any, ...], reduce_fx: Any) -> Any:
    """Return the weighted mean, or what another ``reduce_fx`` of ``LightningModule.log`` returns."""
    if isinstance(values[-1], Metric):  # has its own state
        return values[-1]
    if reduce_fx in ("mean", torch.mean):
        return sum(weight * value for weight, value in zip(weights, values, strict=True))
    reduce = getattr(torch, reduce_fx) if isinstance(reduce_fx, str) else reduce_fx
    return reduce(torch.stack([torch.as_tensor(value) for value in values]))
