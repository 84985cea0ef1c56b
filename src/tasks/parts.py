"""Training batches that are taken in parts where memory runs out."""

import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from src.tasks.metrics import Means
from src.tasks.optimized import Optimized


class Parts(Optimized):
    """A net whose training batches are taken in parts after memory ran out, with the same gradients.

    Only batch norm sees a difference: its statistics are those of a part.

    Args:
        net: the network to train.
        on_out_of_memory: ``halve``: take this batch, and all later ones, in twice as many parts; ``stop``: stop. It is
            always ``stop`` with several processes, which must stay in step, and while gradients are accumulated.
        kwargs: see ``src.tasks.optimized.Optimized``.
    """

    def __init__(self, net: nn.Module, on_out_of_memory: Literal["stop", "halve"] = "stop", **kwargs: Any) -> None:
        super().__init__(net, **kwargs)
        self.halve, self.num_parts = on_out_of_memory == "halve", 1
        self.later: list[Any] | None = None  # parts of the present batch, once the first is taken
        self.samples = sys.maxsize  # in the present batch
        self.train_means = Means()

    def part(self, batch: Any) -> Any:
        """Return the batch or, where batches are taken in parts, the first part; ``backward`` takes the others."""
        if self.num_parts == 1 or self.later is not None:
            return batch
        self.samples = len(batch[0])
        first, *self.later = zip(*(each.chunk(self.num_parts) for each in batch), strict=True)
        return first

    def backward(self, loss: Any, *args: Any, **kwargs: Any) -> None:
        if self.later is None:
            return super().backward(loss, *args, **kwargs)
        precision, rest = self.trainer.precision_plugin, sum(len(part[0]) for part in self.later)
        super().backward(loss * (1 - rest / self.samples), *args, **kwargs)
        for part in self.later:
            with precision.train_step_context():
                loss = self.training_step(part, self.trainer.fit_loop.batch_idx)
                loss = loss * (len(part[0]) / self.samples)
            super().backward(precision.pre_backward(loss, self), *args, **kwargs)  # type: ignore[arg-type]
        self.later = None

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        closure = partial(self.halving, optimizer_closure) if self.halve else optimizer_closure
        super().optimizer_step(epoch, batch_idx, optimizer, closure)

    def halving(self, closure: Callable[[], Any]) -> Any:
        """Call what computes loss and gradients until memory is enough."""
        while True:
            sums, recent = self.train_means.sums, [*self.train_means.recent]
            try:
                return closure()
            except torch.OutOfMemoryError:
                alone = self.trainer.world_size == self.trainer.accumulate_grad_batches == 1
                if not alone or self.num_parts >= self.samples:
                    raise
            self.num_parts, self.later = 2 * self.num_parts, None
            self.train_means.sums, self.train_means.recent = sums, recent
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            warnings.warn(f"out of memory: batches are taken in {self.num_parts} parts from here on", stacklevel=2)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["num_parts"] = self.num_parts
        checkpoint["train_means"] = self.train_means.of_all(self.all_gather)  # of a run that is cut off amid an epoch

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.num_parts = checkpoint.get("num_parts", 1) if self.halve else 1
        self.train_means.take_over(checkpoint.get("train_means", {}), self.global_rank)
