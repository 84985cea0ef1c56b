"""SkipNonFinite: steps that would spoil the weights are left out."""

from collections import defaultdict
from math import inf, isfinite
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from src import UserError


def finite(grads: list[Any]) -> bool:
    """Tell whether all numbers are finite; the norms are quick, but overflow before the numbers do."""
    return all(map(isfinite, torch._foreach_norm(grads))) or all(bool(grad.isfinite().all()) for grad in grads)


class SkipNonFinite(Callback):
    """Leave out a step whose gradients are not all finite: weights, moments and batch-norm statistics stay as they are.

    Such steps are counted, and logged as ``skipped_steps``. A GPU is not waited for: there the gradients become 0, so
    that momentum still moves the weights, and the count is looked at each time that something is logged.

    Args:
        most_in_a_row: how many steps in a row of one optimizer may be left out before the run stops, at least 1.
    """

    def __init__(self, most_in_a_row: int = 10) -> None:
        if most_in_a_row < 1:
            raise ValueError(f"most_in_a_row must be at least 1, got {most_in_a_row}")
        self.most_in_a_row = most_in_a_row
        self.in_a_row: dict[Optimizer | None, Any] = {}  # numbers, or tensors on a GPU; None: of a run that goes on
        self.skipped: Any = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.wait = trainer.strategy.root_device.type == "cpu"
        if any(kind in type(trainer.strategy).__name__ for kind in ("FSDP", "ModelParallel", "DeepSpeed")):
            self.on_before_optimizer_step = None  # type: ignore[method-assign,assignment]  # each sees only its shard
        before = self.in_a_row.get(None, 0)
        self.in_a_row = defaultdict(lambda: before)
        self.buffers = [buffer for buffer in pl_module.buffers() if buffer.is_floating_point()]
        self.whole = [buffer.clone() for buffer in self.buffers]  # after the last step that was done
        if not self.wait and self.buffers:  # in one tensor, so that a GPU copies all at once
            self.flat = torch.cat([buffer.flatten() for buffer in self.buffers])
            parts = self.flat.split([buffer.numel() for buffer in self.buffers])
            self.whole = [part.view_as(buffer) for part, buffer in zip(parts, self.buffers, strict=True)]

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:  # noqa: ARG002
        params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        grads: list[Any] = [p.grad for p in params]
        if not grads:  # as where training_step returned None
            return
        if self.wait and finite(grads):
            self.in_a_row[optimizer] = 0
            if self.buffers:
                torch._foreach_copy_(self.whole, self.buffers)
        elif self.wait:
            for p in params:
                p.grad = None  # which optimizers pass over
            if self.buffers:
                torch._foreach_copy_(self.buffers, self.whole)
            self.in_a_row[optimizer] += 1
            self.skipped += 1
            self.stop_if_hopeless(trainer, self.in_a_row[optimizer])
        else:
            self.without_waiting(optimizer, grads)
            if trainer.global_step % max(1, trainer.log_every_n_steps) == 0:  # type: ignore[attr-defined]
                self.stop_if_hopeless(trainer, self.in_a_row[optimizer])

    def without_waiting(self, optimizer: Optimizer, grads: list[Any]) -> None:
        spoilt = ~torch.stack(torch._foreach_norm(grads, inf)).isfinite().all()
        for grad in grads:
            grad.masked_fill_(spoilt, 0)
        if self.buffers:
            torch.where(spoilt, self.flat, torch.cat([buffer.flatten() for buffer in self.buffers]), out=self.flat)
            torch._foreach_copy_(self.buffers, self.whole)
        self.skipped = self.skipped + spoilt
        self.in_a_row[optimizer] = (self.in_a_row[optimizer] + 1) * spoilt

    def stop_if_hopeless(self, trainer: Trainer, in_a_row: Any) -> None:
        if in_a_row >= self.most_in_a_row:
            where = f"epoch {trainer.current_epoch}, batch {trainer.fit_loop.batch_idx}"
            raise UserError(
                f"{int(in_a_row)} steps in a row had gradients that are not finite, the last in {where}: lower "
                "the learning rate, clip (--trainer.gradient_clip_val=1), or find the cause with presets/debug.yaml"
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if self.skipped:
            pl_module.log("skipped_steps", float(self.skipped))

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": int(self.skipped), "in_a_row": max(map(int, self.in_a_row.values()), default=0)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.in_a_row = state_dict["skipped"], {None: state_dict["in_a_row"]}
