"""Parameter groups and learning-rate schedules that know how long the run is."""

import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from src import UserError


def param_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Split parameters so that weight decay reaches matrices and filters but not biases and norms."""
    params = [p for p in module.parameters() if p.requires_grad]
    decayed, exempt = [p for p in params if p.ndim > 1], [p for p in params if p.ndim <= 1]
    return [group for group in ({"params": decayed}, {"params": exempt, "weight_decay": 0.0}) if group["params"]]


class RunLR(LambdaLR):
    """A learning rate that depends on the share of the run that is over. Subclasses implement ``left``.

    The task sets ``total_steps`` from the length of the run, so that no YAML has to count steps.

    Args:
        optimizer: whose learning rate is set.
        final: last learning rate as a share of the base, in [0, 1].
    """

    def __init__(self, optimizer: Optimizer, final: float = 0.0) -> None:
        self.total_steps, self.final = 1, final
        super().__init__(optimizer, lambda step: self.factor(step))

    def factor(self, step: int) -> float:
        return self.final + (1 - self.final) * self.left(min(1.0, step / self.total_steps))

    def left(self, done: float) -> float:
        """Return the share of the way from base to final that is left when the share ``done`` of the run is over."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {key: value for key, value in super().state_dict().items() if key != "total_steps"}


class Cosine(RunLR):
    """From the base learning rate to a final one along half a cosine; arXiv:1608.03983, equation 5."""

    def left(self, done: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * done))


class Linear(RunLR):
    """From the base learning rate to a final one along a straight line."""

    def left(self, done: float) -> float:
        return 1 - done


def with_warmup(
    optimizer: Optimizer, schedule: Callable[[Optimizer], LRScheduler] | None, warmup_steps: int, total_steps: float
) -> LRScheduler | None:
    """Return the schedule for a run of ``total_steps``, after a linear rise over the first ``warmup_steps``.

    Raises:
        UserError: if a warm-up is to precede ReduceLROnPlateau, which counts epochs.
    """
    if warmup_steps < 0:
        raise UserError(f"warmup_steps must be at least 0, got {warmup_steps}")
    main = schedule(optimizer) if schedule else None
    if isinstance(main, RunLR):
        main.total_steps = max(1, int(min(total_steps, 2**53)) - warmup_steps)
    if warmup_steps == 0:
        return main
    if isinstance(main, ReduceLROnPlateau):
        raise UserError("warmup_steps must be 0 with ReduceLROnPlateau, which counts epochs")
    rise = LinearLR(optimizer, start_factor=1 / (warmup_steps + 1), total_iters=warmup_steps)
    return rise if main is None else SequentialLR(optimizer, [rise, main], milestones=[warmup_steps])


def optimizer_and_schedule(
    net: nn.Module,
    optimizer: Callable[[list[dict[str, Any]]], Optimizer],
    schedule: Callable[[Optimizer], LRScheduler] | None,
    warmup_steps: int,
    total_steps: float,
) -> dict[str, Any]:
    """Return what ``configure_optimizers`` returns; ReduceLROnPlateau is stepped after each epoch, with val/loss."""
    made = optimizer(param_groups(net))
    scheduler = with_warmup(made, schedule, warmup_steps, total_steps)
    if scheduler is None:
        return {"optimizer": made}
    interval = "epoch" if isinstance(scheduler, ReduceLROnPlateau) else "step"
    return {"optimizer": made, "lr_scheduler": {"scheduler": scheduler, "interval": interval, "monitor": "val/loss"}}
