"""SkipNonFinite: skip optimizer steps whose gradients are NaN or infinite."""

from collections import defaultdict
from math import inf, isfinite
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from src import UserError, require

BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # integers by size in bytes


class SkipNonFinite(Callback):
    """Skip a step if any gradient is NaN or infinite: weights, optimizer state and batch-norm statistics are unchanged.

    Skipped steps are counted and logged as ``skipped_steps``. On a GPU the CPU does not synchronize: gradients are
    zeroed instead, so momentum still moves the weights, and the count is checked whenever metrics are logged.

    Args:
        max_consecutive: stop the run after this many skipped steps of one optimizer in a row, at least 1.
    """

    def __init__(self, max_consecutive: int = 10) -> None:
        require(max_consecutive >= 1, f"max_consecutive must be at least 1, got {max_consecutive}")
        self.max_consecutive = max_consecutive
        self.consecutive: dict[Optimizer | None, Any] = {}  # numbers, or tensors on a GPU; None: from a checkpoint
        self.skipped: Any = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_cpu = trainer.strategy.root_device.type == "cpu"
        if any(kind in type(trainer.strategy).__name__ for kind in ("FSDP", "ModelParallel", "DeepSpeed")):
            self.on_before_optimizer_step = None  # type: ignore[method-assign,assignment]  # each rank sees one shard
        stored = self.consecutive.get(None, 0)
        self.consecutive = defaultdict(lambda: stored)
        self.buffers = [buffer for buffer in pl_module.buffers() if buffer.is_floating_point()]
        self.backup = [buffer.clone() for buffer in self.buffers]  # as of the latest finite step
        if not self.on_cpu and self.buffers:  # one tensor, so that a GPU copies it at once
            self.flat = torch.cat([buffer.flatten() for buffer in self.buffers])
            pieces = self.flat.split([buffer.numel() for buffer in self.buffers])
            self.backup = [piece.view_as(buffer) for piece, buffer in zip(pieces, self.buffers, strict=True)]

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:  # noqa: ARG002
        params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        grads: list[Any] = [p.grad for p in params]
        if not grads:  # training_step returned None
            return
        if self.on_cpu and all_finite(grads):
            self.consecutive[optimizer] = 0
            if self.buffers:
                torch._foreach_copy_(self.backup, self.buffers)
        elif self.on_cpu:
            for p in params:
                p.grad = None  # optimizers skip it
            if self.buffers:
                torch._foreach_copy_(self.buffers, self.backup)
            self.consecutive[optimizer] += 1
            self.skipped += 1
            self.check_consecutive(trainer, self.consecutive[optimizer])
        else:
            self.zero_nonfinite(optimizer, grads)
            if (trainer.global_step + 1) % max(1, trainer.log_every_n_steps) == 0:  # type: ignore[attr-defined]
                self.check_consecutive(trainer, self.consecutive[optimizer])

    def zero_nonfinite(self, optimizer: Optimizer, grads: list[Any]) -> None:
        """Zero all gradients and restore the buffers if any gradient is not finite, without synchronizing."""
        nonfinite = ~(torch.stack(torch._foreach_norm(grads, inf)).amax() < inf)  # the largest of NaN is NaN
        bits = [grad.view(BITS[grad.element_size()]) for grad in grads]  # integers, because NaN * 0 is NaN
        torch._foreach_mul_(bits, (~nonfinite).to(torch.int16))
        if self.buffers:
            torch.where(nonfinite, self.flat, torch.cat([buffer.flatten() for buffer in self.buffers]), out=self.flat)
            torch._foreach_copy_(self.buffers, self.backup)
        self.skipped = self.skipped + nonfinite
        self.consecutive[optimizer] = (self.consecutive[optimizer] + 1) * nonfinite

    def check_consecutive(self, trainer: Trainer, consecutive: Any) -> None:
        if consecutive >= self.max_consecutive:
            where = f"epoch {trainer.current_epoch}, batch {trainer.fit_loop.batch_idx}"
            raise UserError(
                f"{int(consecutive)} consecutive steps had NaN or infinite gradients, the last in {where}: lower the "
                "learning rate, clip gradients (--trainer.gradient_clip_val=1), or find the cause with "
                "--config configs/presets/debug.yaml"
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if self.skipped:
            pl_module.log("skipped_steps", float(self.skipped))

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": int(self.skipped), "in_a_row": max(map(int, self.consecutive.values()), default=0)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.consecutive = state_dict["skipped"], {None: state_dict["in_a_row"]}


def all_finite(grads: list[Any]) -> bool:
    """Tell whether all numbers are finite; norms are fast, but may overflow although every number is finite."""
    return all(map(isfinite, torch._foreach_norm(grads))) or all(bool(grad.isfinite().all()) for grad in grads)
