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
        self.recorded: list[tuple[str, Any, tuple[Any, ...], dict[str, Any]]] = []  # for the current micro-batch
        self.entries: dict[str, list[tuple[float, Any, tuple[Any, ...], dict[str, Any]]]] = {}

    @torch.compiler.disable
    def record(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Keep the arguments of ``LightningModule.log``."""
        self.recorded.append((name, value, args, kwargs))

    def weigh(self, loss: Any, weight: float, share: float) -> None:
        """Weigh the recorded values: with ``weight`` if one is the loss of the step, else with the share of samples."""
        for name, value, args, kwargs in self.recorded:
            kept = value.detach() if isinstance(value, Tensor) else value
            self.entries.setdefault(name, []).append((weight if value is loss else share, kept, args, kwargs))
        self.recorded = []

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
        return sum(weight * value for weight, value in zip(weights, values, strict=True) if weight)
    reduce = getattr(torch, reduce_fx) if isinstance(reduce_fx, str) else reduce_fx
    return reduce(torch.stack([torch.as_tensor(value) for value in values]))
