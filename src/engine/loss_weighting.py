"""LossWeighting: many processes and accumulated batches train like one large batch."""

from math import log2
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from src.protocols import HasEpochMeans, LossWeight

HOOKS = ("on_train_batch_start", "on_before_backward", "on_before_optimizer_step")


class LossWeighting(Callback):
    """Weigh each batch of an optimizer step by the denominator of its loss, see ``src.protocols.LossWeight``.

    Lightning averages the gradients of processes and of accumulated batches as equals, which is exact only if their
    denominators are equal: not with class weights, nor where the last batches are smaller or fewer.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        if trainer.world_size > 1:
            average_exactly(trainer.strategy)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ranks, self.reference = trainer.world_size, 0.0
        self.total: Any = 0  # of the denominators since the last optimizer step, in this process
        self.note = "\n".join(inexact(trainer, pl_module))
        usable = pl_module.automatic_optimization and not trainer.strategy.handles_gradient_accumulation
        for name in HOOKS:  # None costs nothing in a step
            vars(self).pop(name, None)
            if not (usable and isinstance(pl_module, LossWeight)):
                setattr(self, name, None)
        self.means: Any = None
        if self.ranks > 1 and isinstance(pl_module, HasEpochMeans):
            self.means = pl_module.train_means
            self.means.steps = []
        vars(self).pop("on_train_batch_end", None)
        if self.means is None:
            self.on_train_batch_end = None  # type: ignore[method-assign,assignment]

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        weight, self.accumulate = pl_module.loss_weight(batch), trainer.accumulate_grad_batches
        self.is_sum, self.pending = weight is None, None
        if weight is None:
            self.factor: Any = self.ranks * self.accumulate
            return
        self.weight = as_tensor(weight, pl_module.device)
        if self.accumulate == 1:
            self.factor = 1.0
            self.whole, self.pending = self.sum_over_ranks(self.weight, wait=False)  # while the net computes the loss
            return
        if not self.reference:  # about one weight, to keep gradients in range; a power of two changes no bit
            mean = float(self.sum_over_ranks(self.weight)[0]) / self.ranks
            self.reference = 2.0 ** round(log2(mean)) if mean > 0 else 1.0
        self.total, self.factor = self.total + self.weight, self.weight / self.reference

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:  # noqa: ARG002
        if self.pending is not None:
            self.pending.wait()
            self.factor, self.pending = ratio(self.weight * self.ranks, self.whole), None
        factor = self.factor
        loss.register_hook(lambda grad: (grad * factor).to(grad.dtype))  # for each micro-batch

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:  # noqa: ARG002
        if self.accumulate > 1 and not self.is_sum:
            scale = ratio(self.reference * self.ranks * self.accumulate, self.sum_over_ranks(self.total)[0])
            params = [p for group in optimizer.param_groups for p in group["params"]]
            for grad in [p.grad for p in params if p.grad is not None]:
                grad.mul_(scale)
            self.total = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:  # noqa: ARG002
        """Log the loss of a step over the batches of all processes; an empty one has no loss."""
        if not self.means.steps:
            return
        steps = [[as_tensor(each, pl_module.device) for each in step] for step in self.means.steps]
        self.means.steps = []
        pairs = torch.stack([torch.stack([loss if self.is_sum else loss * weight, weight]) for loss, weight in steps])
        loss, weight = self.sum_over_ranks(pairs.where(pairs[:, 1:] > 0, 0).sum(0))[0]
        pl_module.log("train/loss_step", loss if self.is_sum else loss / weight)

    def sum_over_ranks(self, weight: Tensor, wait: bool = True) -> tuple[Tensor, Any]:
        """Return the sum over all processes, valid once the returned work, if any, has been waited for."""
        if self.ranks == 1:
            return weight, None
        total = weight.clone()
        work = torch.distributed.all_reduce(total, async_op=not wait)
        return total, work


def as_tensor(weight: Any, device: torch.device) -> Tensor:
    """Return a denominator as a scalar in double precision, without synchronizing a GPU."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return (
        weight.detach().to(dtype) if isinstance(weight, Tensor) else torch.full((), weight, dtype=dtype, device=device)
    )


def ratio(a: Any, total: Tensor) -> Tensor:
    """Return a / total, or 0 where the total is 0 because all samples are ignored."""
    return torch.where(total > 0, a / total, 0)


def average_exactly(strategy: Any) -> None:
    """Keep a strategy from truncating the mean of integers, as in Lightning's epoch means (Lightning issue 21838)."""
    own = type(strategy).reduce

    def reduce(tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        integers = isinstance(tensor, Tensor) and not tensor.is_floating_point() and reduce_op in (None, "mean", "avg")
        return own(strategy, tensor.double() if integers else tensor, group, reduce_op=reduce_op)

    strategy.reduce = reduce


def inexact(trainer: Any, task: LightningModule) -> list[str]:
    """Return why several processes or accumulated batches do not train exactly like one large batch."""
    lines = []
    if task.automatic_optimization and not isinstance(task, LossWeight):
        lines += [f"{type(task).__name__} has no loss_weight(batch): the batches of processes"]
        lines += ["and those accumulated count equally, whatever their size"]
    if getattr(task, "penalties", None) and getattr(getattr(task, "loss", None), "reduction", "") == "sum":
        lines += ["the loss is a sum, so each process and accumulated batch adds its penalties once more"]
    ranks, kinds = trainer.world_size, " ".join(type(module).__name__ for module in task.modules())
    if trainer.accumulate_grad_batches == 1:
        kinds = kinds.replace("SyncBatchNorm", "")
    dropout = any("Dropout" in type(module).__name__ and getattr(module, "p", 1) for module in task.modules())
    local = {"batch norm": "BatchNorm" in kinds, "dropout": ranks > 1 and dropout}
    local["mix"] = ranks > 1 and getattr(trainer.datamodule, "mix", None) is not None
    names = " and ".join(name for name, found in local.items() if found)
    return lines + ([f"{names} of each batch or process alone: not exactly as one large batch"] if names else [])
