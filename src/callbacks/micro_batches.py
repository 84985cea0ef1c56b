"""MicroBatches: the gradients of a large batch in the memory of a small one."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from src import UserError, require
from src.callbacks.micro_batch_log import MicroBatchLog
from src.callbacks.split_batch import num_samples, split_batch
from src.protocols import HasEpochMeans, LossWeight

REPLACED = ("training_step", "backward", "optimizer_step")  # methods of the strategy, by methods of the callback


class MicroBatches(Callback):
    """Split each batch into micro-batches whose gradients add up to those of the batch.

    Works with every LightningModule that uses automatic optimization. All tensors of a batch must have the same
    length. The loss must be a mean over samples, or the module must define ``loss_weight(batch)``. What a step logs is
    averaged over samples; the loss that it returns, with the weights of the loss.

    If a single GPU runs out of memory, the batch is repeated with twice as many micro-batches, and later batches are
    split in the same way. The repetition draws new random numbers, for example in dropout. Batch norm normalizes each
    micro-batch separately. Other callbacks get the ``outputs`` of the first micro-batch.

    Args:
        count: number of micro-batches per batch, at least 1.
        retry_on_out_of_memory: if False, running out of memory is an error. It always is with DDP, and in the backward
            pass while gradients are accumulated.
    """

    def __init__(self, count: int = 1, retry_on_out_of_memory: bool = True) -> None:
        require(count >= 1, f"count must be at least 1, got {count}")
        self.count = self.configured_count = count
        self.retry_on_out_of_memory = retry_on_out_of_memory

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        require(pl_module.automatic_optimization, "MicroBatches needs automatic optimization: remove the callback")
        strategy = type(trainer.strategy)  # not isinstance: subclasses, such as DeepSpeed's, shard gradients
        valid = strategy in (SingleDeviceStrategy, DDPStrategy)
        require(valid, f"MicroBatches needs one device or strategy ddp, got {strategy.__name__}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trainer, self.module, self.strategy = trainer, pl_module, trainer.strategy
        self.means: Any = pl_module.train_means if isinstance(pl_module, HasEpochMeans) else None
        self.loss_weight = pl_module.loss_weight if isinstance(pl_module, LossWeight) else num_samples
        self.log_of_batch = MicroBatchLog()
        if self.count > 1:
            self.warn_without_loss_weight()
        self.originals = {name: getattr(trainer.strategy, name) for name in REPLACED}
        for name in REPLACED:
            setattr(trainer.strategy, name, getattr(self, name))

    def on_train_end(self, trainer: Trainer, *args: Any) -> None:  # noqa: ARG002
        for name in REPLACED:
            vars(trainer.strategy).pop(name, None)

    on_exception = on_train_end  # type: ignore[assignment]

    def training_step(self, batch: Any, *args: Any) -> Any:
        """Return the output of ``training_step`` for the first micro-batch."""
        self.batch, self.args = batch, args
        return self.retry(self.start_batch)

    def start_batch(self) -> Any:
        self.log_of_batch, weighted = MicroBatchLog(), self.split()
        self.pending = [each for each in weighted if each[1]]
        with torch.no_grad():  # a loss that ignores all samples may be NaN, but metrics count them
            for each in weighted:
                if not each[1]:
                    self.step(*each)
        return self.step(*self.pending[0])

    def step(self, micro_batch: Any, weight: float, share: float) -> Any:
        """Call the module's ``training_step`` with a micro-batch, its weight in the loss and its share of samples."""
        self.module.log = self.log_of_batch.record  # type: ignore[method-assign]
        try:
            with self.no_sync():
                output = self.originals["training_step"](micro_batch, *self.args)
        finally:
            del self.module.log
        if output is None and share < 1:
            raise UserError("MicroBatches needs a loss for each micro-batch, but training_step returned None")
        self.log_of_batch.weigh(loss_of(output), weight, share)
        return output

    def backward(self, loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Add up the gradients of all micro-batches, given the loss of the first."""
        precision = self.strategy.precision_plugin
        while len(self.pending) > 1:
            with self.no_sync():  # not strategy.backward, because on_after_backward must run only once
                scaled = precision.pre_backward(loss * self.pending[0][1], self.module)
                precision.backward(scaled, self.module, optimizer, *args, **kwargs)
            self.pending.pop(0)
            loss = loss_of(self.step(*self.pending[0])) / self.trainer.accumulate_grad_batches
        weight = self.pending[0][1]
        return self.originals["backward"](loss if weight == 1 else loss * weight, optimizer, *args, **kwargs)

    def optimizer_step(self, optimizer: Any, closure: Callable[[], Any], *args: Any, **kwargs: Any) -> Any:
        """Step the optimizer; a closure that runs out of memory is repeated, which zeroes the gradients first."""
        if self.trainer.accumulate_grad_batches == 1:  # otherwise the gradients include earlier batches
            closure = partial(self.retry, closure)
        return self.originals["optimizer_step"](optimizer, closure, *args, **kwargs)

    def retry(self, compute: Callable[[], Any]) -> Any:
        """Call ``compute``; each time it runs out of memory, double the number of micro-batches and repeat."""
        while True:
            snapshot = self.means.snapshot() if self.means is not None else None
            try:
                return compute()
            except torch.OutOfMemoryError:
                ddp = isinstance(self.strategy, DDPStrategy)  # its other processes would wait forever
                if ddp or not self.retry_on_out_of_memory or self.count >= num_samples(self.batch):
                    raise
            # outside of the except block, because the exception keeps the graph of the failed attempt alive
            if self.means is not None:
                self.means.restore(snapshot)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.count *= 2
            rank_zero_warn(f"out of memory: splitting each batch into {self.count} micro-batches from now on")
            if self.count == 2:
                self.warn_without_loss_weight()

    def warn_without_loss_weight(self) -> None:
        if self.loss_weight is num_samples:
            name = type(self.module).__name__
            rank_zero_warn(f"{name} has no loss_weight(batch): MicroBatches assumes a loss that is a mean over samples")

    def split(self) -> list[tuple[Any, float, float]]:
        """Return micro-batches, their weights in the loss of the batch, and their shares of its samples."""
        if self.count == 1:
            return [(self.batch, 1.0, 1.0)]
        micro_batches = split_batch(self.batch, self.count)
        shares = [num_samples(micro_batch) / num_samples(self.batch) for micro_batch in micro_batches]
        denominators: list[Any] = [self.loss_weight(micro_batch) for micro_batch in micro_batches]
        if denominators[0] is None:  # a sum
            weights = [1.0] * len(denominators)
        elif total := float(sum(denominators)):
            weights = [float(each) / total for each in denominators]
        else:
            weights = [1.0, *[0.0] * (len(denominators) - 1)]
        return [*zip(micro_batches, weights, shares, strict=True)]

    def no_sync(self) -> AbstractContextManager[Any]:
        """Let DDP synchronize gradients only with the last micro-batch."""
        if isinstance(self.strategy, DDPStrategy) and len(self.pending) > 1:
            return self.strategy.block_backward_sync()
        return nullcontext()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:  # noqa: ARG002
        self.log_of_batch.write(pl_module.log)
        self.batch, self.pending = None, []  # free their memory

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "configured_count": self.configured_count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["configured_count"] == self.configured_count:  # a count that the user changed wins
            self.count = state_dict["count"]


def loss_of(output: Any) -> Any:
    """Return the loss in the output of a ``training_step``."""
    return output["loss"] if isinstance(output, Mapping) else output
